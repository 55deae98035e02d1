"""LoRA (2106.09685): a frozen model plus low-rank terms, which alone are trained.

A projection computes x W + s (x A) B with A [in r], B [r out] and scale s = alpha / r,
or alpha / sqrt(r) for rank-stabilised LoRA (2312.03732). The reference of a run is the
frozen base itself: an `Adapted` whose adapter is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
TARGETS = ("query", "key", "value", "output", "gate", "up", "down")
HEAD = "head"


@dataclass(frozen=True)
class LoRA:
    """Which projections get a low-rank term, of which rank and scale.

    rank     r; alpha: s = alpha / r
    rslora   s = alpha / sqrt(r) instead
    targets  projections: query, key, value, output, gate, up, down; head, the matrix
             to the logits, where it is not the embedding
    path     folder of an adapter in PEFT's layout to start from; None: A drawn, B zero
    """

    rank: int = 16
    alpha: float = 32.0
    rslora: bool = False
    targets: tuple[str, ...] = TARGETS
    path: str | None = None

    def __post_init__(self):
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"lora.rank: {self.rank!r}; write an integer of 1 or more")
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha: {self.alpha!r}; write a number > 0")
        known = *TARGETS, HEAD
        unknown = sorted(set(self.targets) - set(known))
        if unknown or not self.targets:
            raise ValueError(
                f"lora.targets: {unknown or 'empty'}; write some of {', '.join(known)}"
            )

    @property
    def scale(self) -> float:
        """s, the factor of the low-rank term."""
        return scale_of(self.alpha, self.rank, self.rslora)


def scale_of(alpha: float, rank: int, rslora: bool) -> float:
    """s = alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA."""
    return alpha / (rank**0.5 if rslora else rank)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["base", "adapter"],
    meta_fields=["alpha", "rslora"],
)
@dataclass(frozen=True)
class Adapted:
    """Parameters of an adapted model: `base` frozen, `adapter` trained.

    adapter: {target: {"a": [layers in r], "b": [layers r out]}}, or None for the base
    alone, which is the reference. A target is a projection; "query+key+value" are
    several that share one A, their outputs side by side in B, as where a checkpoint
    stores them as one matrix; "head" has no layer axis. The scale of a target comes
    from alpha, rslora and its own rank.
    """

    base: Any
    adapter: Any
    alpha: float
    rslora: bool = False


def attach(params: Any) -> Any:
    """The plain tree of a model: an adapter's factors beside their kernels, A scaled.

    Parameters that are not `Adapted` are returned as they are.
    """
    if not isinstance(params, Adapted):
        return params
    if params.adapter is None:
        return params.base
    return _with_parts(params.base, terms(params))


def _with_parts(base: Any, parts: dict[str, dict[str, Array]]) -> Any:
    """`base` with the arrays of each projection in `parts` put in, or replaced."""
    tree = {**base, "blocks": dict(base["blocks"])}
    for name, arrays in parts.items():
        home = tree if name == HEAD else tree["blocks"]
        home[name] = {**home[name], **arrays}
    return tree


def terms(params: Adapted) -> dict[str, dict[str, Array]]:
    """The low-rank term of each projection: `a` [layers in r] scaled, `b`."""
    found = {}
    for target, factors in (params.adapter or {}).items():
        a, b = factors["a"], factors["b"]
        a, start = a * scale_of(params.alpha, a.shape[-1], params.rslora), 0
        for name in target.split("+"):
            end = start + kernel(params.base, name).shape[-1]
            found[name] = {"a": a, "b": b[..., start:end]}
            start = end
    return found


def kernel(base: Any, name: str) -> Array:
    """The matrix of a projection: [layers in out], or [in out] of the head."""
    return (base if name == HEAD else base["blocks"])[name]["kernel"]


def with_trained(frozen: Any, trained: Any) -> Any:
    """The whole parameters: `trained` on top of `frozen`, or alone where it is None."""
    if frozen is None:
        return trained
    if isinstance(frozen, dict):
        return {name: with_trained(frozen[name], trained[name]) for name in trained}
    return dataclasses.replace(frozen, adapter=trained)


def trained_part(params: Any) -> tuple[Any, Any]:
    """(frozen, trained) with `with_trained(frozen, trained)` equal to `params`.

    A dict that holds an adapted model (an adapted trunk and its scalar head) is divided
    part by part: the adapter and all the other parts are trained.
    """
    if isinstance(params, dict) and any(
        isinstance(x, Adapted) for x in params.values()
    ):
        parts = {name: trained_part(x) for name, x in params.items()}
        return {k: x[0] for k, x in parts.items()}, {k: x[1] for k, x in parts.items()}
    if not isinstance(params, Adapted):
        return None, params
    return dataclasses.replace(params, adapter=None), params.adapter


def init_adapter(
    lora: LoRA, base: Any, seed: int, fused: Collection[tuple[str, ...]]
) -> Adapted:
    """A new adapter on `base`: A uniform in +-1/sqrt(in) as in PEFT, B zero.

    fused: projections that share one A because a checkpoint of this model stores them
    as one matrix (`unipost.hf.names.fused`). The adapted model starts as its base.
    Raises ValueError for a target that the base does not have as one matrix.
    """
    adapter = {}
    for target in joined(lora.targets, fused):
        names = target.split("+")
        shapes = [_shape(base, name) for name in names]
        *layers, inputs, _ = shapes[0]
        index = (*TARGETS, HEAD).index(names[0])
        key = jax.random.fold_in(jax.random.key(seed), index)
        bound = inputs**-0.5
        a = jax.random.uniform(
            key, (*layers, inputs, lora.rank), jnp.float32, -bound, bound
        )
        outputs = sum(shape[-1] for shape in shapes)
        adapter[target] = {
            "a": a,
            "b": jnp.zeros((*layers, lora.rank, outputs), jnp.float32),
        }
    return Adapted(base, adapter, lora.alpha, lora.rslora)


def joined(
    targets: Collection[str], fused: Collection[tuple[str, ...]]
) -> tuple[str, ...]:
    """The keys of an adapter for `targets`: those of each fused group as one."""
    group_of = {name: group for group in fused for name in group}
    keys: dict[str, None] = {}
    for name in (*TARGETS, HEAD):
        group = group_of.get(name, (name,))
        missing = [part for part in group if part not in targets]
        if name not in targets:
            continue
        if missing:
            raise ValueError(
                f"lora.targets: {name} without {' and '.join(missing)}; this model "
                f"stores {', '.join(group)} as one matrix: write all or none"
            )
        keys["+".join(group)] = None
    return tuple(keys)


def _shape(base: Any, name: str) -> tuple[int, ...]:
    if name == HEAD and HEAD not in base:
        raise ValueError(
            "lora.targets: head is the embedding in this model; leave it out"
        )
    shape = kernel(base, name).shape
    if name != HEAD and len(shape) != 3:
        raise ValueError(
            f"lora.targets: {name} is a mixture of experts in this model; write some "
            "of query, key, value, output"
        )
    return shape


def merge(params: Adapted) -> Any:
    """The plain parameters W + s A B, in the base's dtype."""
    merged = {
        name: {"kernel": _merge_layers(kernel(params.base, name), x["a"], x["b"])}
        for name, x in terms(params).items()
    }
    return _with_parts(params.base, merged)


@jax.jit
def _merge_layers(kernel: Array, a: Array, b: Array) -> Array:
    """`merged` of each layer; one by one, so that no second stack is held."""
    if kernel.ndim == 2:
        return merged(kernel, a, b)
    return jax.lax.map(lambda x: merged(*x), (kernel, a, b))


def merged(kernel: Array, a: Array, b: Array) -> Array:
    """W + A B of one matrix, summed in float32 or wider, in the dtype of W."""
    wide = jnp.promote_types(kernel.dtype, jnp.float32)
    low = jnp.matmul(a.astype(wide), b.astype(wide), precision="highest")
    return (kernel.astype(wide) + low).astype(kernel.dtype)
