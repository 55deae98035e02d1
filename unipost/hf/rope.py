"""Rotary positions in config.json, in the spelling of transformers 4 and of 5.

Version 5 has one `rope_parameters` (in Gemma3 one per layer type), version 4
`rope_theta`, `rope_scaling`, `partial_rotary_factor` and `rope_local_base_freq` beside
the other fields. A file may have both where they agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unipost.hf.fields import Reader
from unipost.model.config import LinearRope, Llama3Rope, ModelConfig

FULL, SLIDING = "full_attention", "sliding_attention"
# Numbers that each rope type needs; every type may hold rope_theta.
KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


@dataclass(frozen=True)
class Rope:
    """What config.json says about rotation; None: it does not say."""

    theta: float | None = None
    scaling: LinearRope | Llama3Rope | None = None
    share: float | None = None


def read_rope(reader: Reader, head_dim: int) -> dict[str, Any]:
    """rope_theta, rope_scaling, rotary_dim and local_rope_theta of ModelConfig."""
    nested = "rope_local_base_freq" in reader.family.defaults
    new, local = reader.stated("rope_parameters"), None
    if nested:
        new, inner = _layer_types(reader, new)
        local = _theta(reader, "rope_local_base_freq", inner)
    old = reader.stated("rope_scaling")
    spelled = {
        name: _rope(reader, name, value)
        for name, value in (("rope_parameters", new), ("rope_scaling", old))
        if value
    }
    first = next(iter(spelled.values()), Rope())
    for name, rope in spelled.items():
        if rope.scaling != first.scaling:
            reader.refuse(name, old, "what rope_parameters says")
    return {
        "rope_theta": _theta(reader, "rope_theta", *spelled.values()),
        "rope_scaling": first.scaling,
        "rotary_dim": _rotary_dim(reader, head_dim, spelled),
        "local_rope_theta": local,
    }


def _layer_types(reader: Reader, new: Any) -> tuple[Any, Rope]:
    """rope_parameters of the layers that see everything, and Rope of the others."""
    if not new:
        return None, Rope()
    if not isinstance(new, Mapping) or not set(new) <= {FULL, SLIDING}:
        what = f"one object for {FULL} and one for {SLIDING}"
        reader.refuse("rope_parameters", new, what)
    inner = _rope(reader, f"rope_parameters.{SLIDING}", new.get(SLIDING) or {})
    if inner.scaling is not None:
        what = "rope_type 'default'"
        reader.refuse(f"rope_parameters.{SLIDING}", new[SLIDING], what)
    return new.get(FULL), inner


def _rope(reader: Reader, name: str, value: Any) -> Rope:
    """One object of rope parameters, every key of which must be known."""
    if not isinstance(value, Mapping):
        reader.refuse(name, value, "an object")
    ropes = reader.family.ropes
    kinds = [value[key] for key in ("rope_type", "type") if key in value]
    kind = kinds[0] if kinds else "default"
    # transformers 5 reads `type` nowhere in Gemma3, and one of the two elsewhere
    nested = "rope_local_base_freq" in reader.family.defaults
    unclear = len(set(map(repr, kinds))) > 1 or (nested and "rope_type" not in value)
    if kind not in ropes or (kinds and unclear):
        reader.refuse(name, dict(value), f"rope_type {' or '.join(map(repr, ropes))}")
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *KEYS[kind]}
    extra = sorted(set(value) - known)
    if extra:
        what = f"rope_type {kind!r} with {', '.join(('rope_theta', *KEYS[kind]))}"
        reader.refuse(name, dict(value), what)
    numbers = {key: _number(reader, name, value, key) for key in KEYS[kind]}
    return Rope(
        _optional(reader, name, value, "rope_theta"),
        _scaling(kind, numbers),
        _optional(reader, name, value, "partial_rotary_factor"),
    )


def _scaling(kind: str, numbers: dict[str, float]) -> LinearRope | Llama3Rope | None:
    if kind == "linear":
        return LinearRope(numbers["factor"])
    if kind == "llama3":
        context = int(numbers.pop("original_max_position_embeddings"))
        return Llama3Rope(**numbers, original_max_position_embeddings=context)
    return None


def _number(reader: Reader, name: str, value: Mapping[str, Any], key: str) -> float:
    number = value.get(key)
    if isinstance(number, int | float) and number > 0 and number is not True:
        return float(number)
    reader.refuse(name, dict(value), f"a number > 0 for {key}")


def _optional(
    reader: Reader, name: str, value: Mapping[str, Any], key: str
) -> float | None:
    return None if value.get(key) is None else _number(reader, name, value, key)


def _theta(reader: Reader, name: str, *ropes: Rope) -> float:
    """The base, which every place that states one must state alike."""
    stated = {rope.theta for rope in ropes if rope.theta is not None}
    if reader.stated(name) is not None:
        stated.add(reader.number(name))
    if len(stated) > 1:
        reader.refuse(name, reader.stated(name), f"one base ({sorted(stated)} given)")
    return stated.pop() if stated else float(reader.family.default(name))


def _rotary_dim(
    reader: Reader, head_dim: int, spelled: Mapping[str, Rope]
) -> int | None:
    """Entries of a head that rotate, None for all."""
    name = "partial_rotary_factor"
    shares = {rope.share for rope in spelled.values() if rope.share is not None}
    if reader.stated(name) is not None:
        shares.add(reader.number(name))
    partial = reader.fields["model_type"] == "phi3"
    if len(shares) > 1 or not (partial or shares <= {1.0}):
        value = reader.stated(name) or sorted(shares)
        reader.refuse(name, value, "one value" if partial else "1.0")
    size = int(head_dim * shares.pop()) if shares else head_dim
    return None if size == head_dim else size


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The fields of config.json for the rotation of `config`, in both spellings."""
    scaling = config.rope_scaling
    kind = {LinearRope: "linear", Llama3Rope: "llama3"}.get(type(scaling), "default")
    numbers = {} if scaling is None else vars(scaling)
    # the only name that version 4 accepts in OLMo2
    key = "type" if config.family == "olmo2" else "rope_type"
    old = {key: kind, **numbers} if numbers else None
    new = {"rope_type": kind, "rope_theta": config.rope_theta, **numbers}
    fields = {"rope_theta": config.rope_theta, "rope_scaling": old}
    if config.family == "gemma3_text":
        local = config.local_rope_theta or config.rope_theta
        inner = {"rope_type": "default", "rope_theta": local}
        fields["rope_local_base_freq"] = local
        return {**fields, "rope_parameters": {FULL: new, SLIDING: inner}}
    if config.family == "phi3":
        share = _share(config)
        fields["partial_rotary_factor"] = share
        new["partial_rotary_factor"] = share
    return {**fields, "rope_parameters": new}


def _share(config: ModelConfig) -> float:
    """A float f with int(head_dim * f) == rotary_dim."""
    rotary = config.rotary_dim or config.head_dim
    share = rotary / config.head_dim
    return share if int(config.head_dim * share) == rotary else share + 1e-9
