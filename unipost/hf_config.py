"""config.json of a Hugging Face Llama or Qwen2 checkpoint, in and out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unipost.model import ModelConfig

# Values of config fields that this transformer computes, of any architecture and of
# each. Fields not listed have no effect on these models in transformers either.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "mlp_bias": (False,),
    "attention_dropout": (0, 0.0),
    "pretraining_tp": (1,),
    "rope_scaling": (None,),
    "quantization_config": (None,),
    "auto_map": (None,),
    "rope_interleaved": (False,),
    "partial_rotary_factor": (None, 1, 1.0),
    "is_encoder_decoder": (False,),
}
OWN: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": {
        "architectures": (None, ["LlamaForCausalLM"]),
        "attention_bias": (False, True),
        "sliding_window": (None,),
    },
    "qwen2": {
        "architectures": (None, ["Qwen2ForCausalLM"]),
        "attention_bias": (True,),
    },
}
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
# Qwen2 means 32 key-value heads where the field is absent, which fits few models.
REQUIRED = {"llama": SIZES, "qwen2": (*SIZES, "num_key_value_heads")}
POSITIONS = {"llama": 2048, "qwen2": 32768}


def parse_config(fields: Mapping[str, Any], path: Path) -> ModelConfig:
    """ModelConfig of a config.json; ValueError names the first field not supported."""
    kind = fields.get("model_type")
    if kind not in OWN:
        raise ValueError(
            f"{path}: model_type {kind!r} is not supported; give a "
            f"{' or '.join(map(repr, OWN))} checkpoint"
        )
    check_neutral(fields, NEUTRAL | OWN[kind], path)
    rope = fields.get("rope_parameters") or {}
    if not plain_rope("rope_parameters", rope):
        raise ValueError(
            f"{path}: rope_parameters = {rope!r} is not supported; only rope_type "
            "'default' with a rope_theta is"
        )
    missing = [name for name in REQUIRED[kind] if name not in fields]
    if missing:
        raise ValueError(f"{path}: {missing[0]} is missing; write it into the file")
    check_window(fields, path)
    heads = fields["num_attention_heads"]
    theta = rope.get("rope_theta", fields.get("rope_theta", 10000.0))
    llama_bias = "qkvo" if fields.get("attention_bias") else "none"
    return ModelConfig(
        **{name: fields[name] for name in SIZES},
        num_key_value_heads=fields.get("num_key_value_heads") or heads,
        head_dim=fields.get("head_dim") or fields["hidden_size"] // heads,
        rope_theta=float(theta),
        rms_norm_eps=float(fields.get("rms_norm_eps", 1e-6)),
        tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
        max_position_embeddings=fields.get("max_position_embeddings", POSITIONS[kind]),
        attention_bias="qkv" if kind == "qwen2" else llama_bias,
    )


def check_neutral(
    fields: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]], path: Path
) -> None:
    """Raises ValueError for the first field with a value that is not in `neutral`."""
    for name, values in neutral.items():
        if (
            name in fields
            and fields[name] not in values
            and not plain_rope(name, fields[name])
        ):
            raise ValueError(
                f"{path}: {name} = {fields[name]!r} is not supported; only "
                f"{' or '.join(map(repr, values))} is"
            )


def check_window(fields: Mapping[str, Any], path: Path) -> None:
    """Raises ValueError where some layer attends to a sliding window.

    Qwen2 files hold a `sliding_window` that counts only under `use_sliding_window`, and
    from layer `max_window_layers` (28 if absent) on unless `layer_types` says which.
    """
    types = fields.get("layer_types")
    if types is not None and set(types) != {"full_attention"}:
        raise ValueError(
            f"{path}: layer_types = {types!r} is not supported; only 'full_attention' "
            "in every layer is"
        )
    if not fields.get("use_sliding_window") or types is not None:
        return
    first, layers = fields.get("max_window_layers", 28), fields["num_hidden_layers"]
    window = fields.get("sliding_window", 4096)
    if window is not None and first < layers:
        raise ValueError(
            f"{path}: use_sliding_window = True is not supported: layers {first} to "
            f"{layers - 1} would see {window} tokens; only full attention is computed"
        )


def plain_rope(name: str, value: Any) -> bool:
    """True for a rope_scaling or rope_parameters that leaves positions unscaled."""
    if name not in ("rope_scaling", "rope_parameters") or not isinstance(value, dict):
        return False
    kind = value.get("rope_type", value.get("type", "default"))
    return kind == "default" and set(value) <= {"rope_type", "type", "rope_theta"}


def render_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """config.json of a model: rope and dtype in both transformers 4 and 5 spelling."""
    theta = config.rope_theta
    names = (*SIZES, "num_key_value_heads", "head_dim", "rope_theta", "rms_norm_eps")
    names += ("tie_word_embeddings", "max_position_embeddings")
    sizes = {name: getattr(config, name) for name in names}
    return {
        **architecture(config),
        **sizes,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def architecture(config: ModelConfig) -> dict[str, Any]:
    """The fields of config.json that say which model it is: its biases decide."""
    if config.attention_bias == "qkv":
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "use_sliding_window": False,
            "sliding_window": None,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": config.attention_bias == "qkvo",
        "mlp_bias": False,
    }
