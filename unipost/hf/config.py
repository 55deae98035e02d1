"""config.json of a Hugging Face checkpoint to ModelConfig, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as names_of
from dataclasses import replace
from pathlib import Path
from typing import Any

from unipost.hf.families import FAMILIES, Family
from unipost.hf.fields import Reader
from unipost.hf.rope import read_rope, write_rope
from unipost.hf.windows import read_windows, write_windows
from unipost.model.config import Experts, ModelConfig

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
WRITTEN = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def parse_config(fields: Mapping[str, Any], path: Path) -> ModelConfig:
    """The model that a config.json describes, as transformers 5 would compute it.

    Both spellings are read, that of transformers 4 and that of 5. Raises ValueError,
    in one line with the file, the field and its value, for what is not supported and
    for any field that the model type does not have.
    """
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(
            f"{path}: model_type = {kind!r} is not supported; only "
            f"{', '.join(FAMILIES)} are"
        )
    family = FAMILIES[kind]
    reader = Reader(fields, path, family)
    reader.only("architectures", ([family.architecture],))
    sizes = {name: reader.size(name) for name in SIZES}
    heads = sizes["num_attention_heads"]
    head_dim = _size_or(reader, "head_dim", sizes["hidden_size"] // heads)
    parts = {
        **sizes,
        "intermediate_size": _inner_size(reader),
        "num_key_value_heads": _size_or(reader, "num_key_value_heads", heads),
        "head_dim": head_dim,
        "rms_norm_eps": reader.number("rms_norm_eps"),
        "tie_word_embeddings": reader.flag("tie_word_embeddings"),
        "max_position_embeddings": reader.size("max_position_embeddings"),
        "activation": _activation(reader),
        "attention_scale": _attention_scale(reader, head_dim),
        "embedding_scale": _embedding_scale(family, sizes["hidden_size"]),
        "experts": _experts(reader),
        "family": kind,
        **_biases(reader),
        **{ours: reader.get(theirs) for theirs, ours in family.copies.items()},
        **read_rope(reader, head_dim),
        **read_windows(reader, sizes["num_hidden_layers"]),
        **family.parts,
    }
    if "layer_types" not in parts:
        parts["local_rope_theta"] = None
    reader.finish()
    try:
        return canonical(ModelConfig(**parts))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def canonical(config: ModelConfig) -> ModelConfig:
    """`config` with None where a value says no more than None does.

    Two configs that describe the same model in different words become equal.
    """
    windowed = "sliding" in config.layer_types
    local = config.local_rope_theta
    plain = local == config.rope_theta and config.rope_scaling is None
    full = config.rotary_dim == config.head_dim
    scale = config.attention_scale
    usual = scale is not None and abs(scale * config.head_dim**0.5 - 1) < 1e-12
    return replace(
        config,
        layer_types=config.layer_types if windowed else (),
        no_rope_layers=tuple(sorted(set(config.no_rope_layers))),
        local_rope_theta=None if plain else local,
        rotary_dim=None if full else config.rotary_dim,
        attention_scale=None if usual else scale,
    )


def _size_or(reader: Reader, name: str, absent: int) -> int:
    return absent if reader.get(name) is None else reader.size(name)


def _inner_size(reader: Reader) -> int:
    moe = "moe_intermediate_size" in reader.family.defaults
    return reader.size("moe_intermediate_size" if moe else "intermediate_size")


def _activation_field(family: Family) -> str:
    """hidden_activation in Gemma 2 and 3, hidden_act elsewhere."""
    return "hidden_activation" if "hidden_act" in family.neutral else "hidden_act"


def _activation(reader: Reader) -> str:
    name = _activation_field(reader.family)
    value = reader.get(name)
    if value not in ACTIVATIONS:
        reader.refuse(name, value, " or ".join(map(repr, ACTIVATIONS)))
    # transformers reads the "gelu" of the first Gemma files as the approximation
    first = reader.fields["model_type"] == "gemma" and value == "gelu"
    return "gelu_tanh" if first else ACTIVATIONS[value]


def _biases(reader: Reader) -> dict[str, str]:
    """attention_bias, where it is a field of the family."""
    family = reader.family
    if "attention_bias" in {**family.parts, **family.neutral}:
        return {}
    return {"attention_bias": "qkvo" if reader.flag("attention_bias") else "none"}


def _attention_scale(reader: Reader, head_dim: int) -> float | None:
    """query_pre_attn_scalar ** -0.5, where it is a field of the family."""
    if "query_pre_attn_scalar" not in reader.family.defaults:
        return None
    value = reader.number("query_pre_attn_scalar")
    if value <= 0:
        reader.refuse("query_pre_attn_scalar", value, "a number > 0")
    return None if value == head_dim else value**-0.5


def _embedding_scale(family: Family, hidden: int) -> float:
    return hidden**0.5 if "norm_offset" in family.parts else 1.0


def _experts(reader: Reader) -> Experts | None:
    """The mixture of experts, in the families that have one."""
    family = reader.family
    if "num_experts_per_tok" not in family.defaults:
        return None
    counts = [reader.stated(name) for name in ("num_experts", "num_local_experts")]
    given = [count for count in counts if count is not None]
    if len(set(given)) > 1:
        reader.refuse("num_experts", counts[0], f"num_local_experts ({counts[1]})")
    per_token = reader.size("num_experts_per_tok")
    count = given[0] if given else family.default("num_experts")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        reader.refuse("num_experts", count, "a positive integer")
    if "norm_topk_prob" in family.defaults:
        return Experts(count, per_token, reader.flag("norm_topk_prob"))
    return Experts(count, per_token)


def render_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """config.json of `config.family`, in the spelling of transformers 4 and of 5.

    dtype: of the stored weights. Raises ValueError, naming the field of ModelConfig,
    for a model that the family does not have.
    """
    if config.family not in FAMILIES:
        raise ValueError(
            f"ModelConfig.family is {config.family!r}; give one of "
            f"{', '.join(FAMILIES)}"
        )
    fields = _fields(config, dtype)
    wrong = _difference(config, fields)
    if wrong is None:
        return fields
    others = [
        name
        for name in FAMILIES
        if _difference(other := replace(config, family=name), _fields(other, dtype))
        is None
    ]
    hint = f"family={others[0]!r} has it" if others else "no supported family has it"
    raise ValueError(
        f"ModelConfig.{wrong} is {getattr(config, wrong)!r}, which no "
        f"{config.family} model has; {hint}"
    )


def _difference(config: ModelConfig, fields: Mapping[str, Any]) -> str | None:
    """The first field of ModelConfig that `fields` do not say, or None."""
    family = FAMILIES[config.family]
    if family.divides and config.hidden_size % config.num_attention_heads:
        return "num_attention_heads"
    if (config.experts is None) == ("num_experts_per_tok" in family.defaults):
        return "experts"
    try:
        again = parse_config(fields, Path("config.json"))
    except ValueError:
        # the one part that some families refuse to read at all
        return "rope_scaling"
    ours = canonical(config)
    differing = (
        field.name
        for field in names_of(ModelConfig)
        if getattr(again, field.name) != getattr(ours, field.name)
    )
    return next(differing, None)


def _fields(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """What config.json would hold if the family had this model."""
    family = FAMILIES[config.family]
    kept = (*SIZES, "intermediate_size", "num_key_value_heads", "head_dim")
    kept += "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings"
    fields: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": config.family,
        **{name: getattr(config, name) for name in kept},
        _activation_field(family): WRITTEN[config.activation],
        **{theirs: getattr(config, ours) for theirs, ours in family.copies.items()},
        **write_rope(config),
        **write_windows(config, family),
    }
    if "attention_bias" not in {**family.parts, **family.neutral}:
        fields["attention_bias"] = config.attention_bias == "qkvo"
    if "query_pre_attn_scalar" in family.defaults:
        scale = config.attention_scale
        inverse = config.head_dim if scale is None else round(scale**-2)
        fields["query_pre_attn_scalar"] = inverse
    return {
        **fields,
        **_expert_fields(config, family),
        "attention_dropout": 0.0,
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _expert_fields(config: ModelConfig, family: Family) -> dict[str, Any]:
    experts = config.experts
    if experts is None or "num_experts_per_tok" not in family.defaults:
        return {}
    fields: dict[str, Any] = {
        "num_experts": experts.count,
        "num_local_experts": experts.count,
        "num_experts_per_tok": experts.per_token,
    }
    if "norm_topk_prob" in family.defaults:
        fields["norm_topk_prob"] = experts.normalize
    if "moe_intermediate_size" in family.defaults:
        fields["moe_intermediate_size"] = config.intermediate_size
        fields |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
    return fields
