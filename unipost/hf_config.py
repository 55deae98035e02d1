"""config.json of a Hugging Face Llama checkpoint, in and out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unipost.model import ModelConfig

# Values of LlamaConfig fields that this transformer computes. Fields not listed have
# no effect on a Llama model in transformers either.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "attention_dropout": (0, 0.0),
    "pretraining_tp": (1,),
    "rope_scaling": (None,),
    "sliding_window": (None,),
    "quantization_config": (None,),
    "auto_map": (None,),
    "architectures": (None, ["LlamaForCausalLM"]),
    "rope_interleaved": (False,),
    "partial_rotary_factor": (None, 1, 1.0),
    "is_encoder_decoder": (False,),
}
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


def parse_config(fields: Mapping[str, Any], path: Path) -> ModelConfig:
    """ModelConfig of a config.json; ValueError names the first field not supported."""
    if fields.get("model_type") != "llama":
        raise ValueError(
            f"{path}: model_type {fields.get('model_type')!r} is not supported; give a "
            "'llama' checkpoint"
        )
    for name, values in NEUTRAL.items():
        if (
            name in fields
            and fields[name] not in values
            and not plain_rope(name, fields[name])
        ):
            raise ValueError(
                f"{path}: {name} = {fields[name]!r} is not supported; only "
                f"{' or '.join(map(repr, values))} is"
            )
    rope = fields.get("rope_parameters") or {}
    if not plain_rope("rope_parameters", rope):
        raise ValueError(
            f"{path}: rope_parameters = {rope!r} is not supported; only rope_type "
            "'default' with a rope_theta is"
        )
    missing = [name for name in REQUIRED if name not in fields]
    if missing:
        raise ValueError(f"{path}: {missing[0]} is missing; write it into the file")
    heads = fields["num_attention_heads"]
    theta = rope.get("rope_theta", fields.get("rope_theta", 10000.0))
    return ModelConfig(
        **{name: fields[name] for name in REQUIRED},
        num_key_value_heads=fields.get("num_key_value_heads") or heads,
        head_dim=fields.get("head_dim") or fields["hidden_size"] // heads,
        rope_theta=float(theta),
        rms_norm_eps=float(fields.get("rms_norm_eps", 1e-6)),
        tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
        max_position_embeddings=fields.get("max_position_embeddings", 2048),
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
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **vars(config),
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
