"""LoRA (2106.09685): a frozen model plus low-rank terms, which alone are trained.

A projection computes x W + s (x A) B with A [in r], B [r out] and scale s = alpha / r,
or alpha / sqrt(r) for rank-stabilised LoRA (2312.03732). The reference of a run is the
frozen base itself: `Adapted(base, None)`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
TARGETS = ("query", "key", "value", "output", "gate", "up", "down")


@dataclass(frozen=True)
class LoRA:
    """Which projections get a low-rank term, of which rank and scale.

    rank     r; alpha: s = alpha / r
    rslora   s = alpha / sqrt(r) instead
    targets  projections: query, key, value, output, gate, up, down
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
        unknown = sorted(set(self.targets) - set(TARGETS))
        if unknown or not self.targets:
            raise ValueError(
                f"lora.targets: {unknown or 'empty'}; write some of {', '.join(TARGETS)}"
            )

    @property
    def scale(self) -> float:
        """s, the factor of the low-rank term."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["base", "adapter"],
    meta_fields=["scale"],
)
@dataclass(frozen=True)
class Adapted:
    """Parameters of an adapted model: `base` frozen, `adapter` trained.

    adapter: {target: {"a": [layers in r], "b": [layers r out]}}, or None for the base
    alone, which is the reference. scale: s of the low-rank term.
    """

    base: Any
    adapter: Any
    scale: float


def attach(params: Any) -> Any:
    """The plain tree of a model: an adapter's factors beside their kernels, A scaled.

    Parameters that are not `Adapted` are returned as they are.
    """
    if not isinstance(params, Adapted):
        return params
    if params.adapter is None:
        return params.base
    blocks = dict(params.base["blocks"])
    for name, factors in params.adapter.items():
        a, b = factors["a"] * params.scale, factors["b"]
        blocks[name] = {**blocks[name], "a": a, "b": b}
    return {**params.base, "blocks": blocks}


def with_trained(frozen: Any, trained: Any) -> Any:
    """The whole parameters: `trained` on top of `frozen`, or alone where it is None."""
    if frozen is None:
        return trained
    return dataclasses.replace(frozen, adapter=trained)


def trained_part(params: Any) -> tuple[Any, Any]:
    """(frozen, trained) with `with_trained(frozen, trained)` equal to `params`."""
    if not isinstance(params, Adapted):
        return None, params
    return dataclasses.replace(params, adapter=None), params.adapter


def init_adapter(lora: LoRA, base: Any, seed: int) -> Adapted:
    """A new adapter on `base`: A uniform in +-1/sqrt(in) as in PEFT, B zero.

    The adapted model starts as its base. Raises ValueError for a target that the base
    does not have as one matrix.
    """
    adapter = {}
    for index, name in enumerate(TARGETS):
        if name not in lora.targets:
            continue
        shape = base["blocks"][name]["kernel"].shape
        if len(shape) != 3:
            raise ValueError(
                f"lora.targets: {name} is a mixture of experts in this model; write "
                "some of query, key, value, output"
            )
        layers, inputs, outputs = shape
        key = jax.random.fold_in(jax.random.key(seed), index)
        bound = inputs**-0.5
        a = jax.random.uniform(
            key, (layers, inputs, lora.rank), jnp.float32, -bound, bound
        )
        b = jnp.zeros((layers, lora.rank, outputs), jnp.float32)
        adapter[name] = {"a": a, "b": b}
    return Adapted(base, adapter, lora.scale)


def merge(params: Adapted) -> Any:
    """The plain parameters W + s A B, in the base's dtype."""
    if params.adapter is None:
        return params.base
    blocks = dict(params.base["blocks"])
    for name, factors in params.adapter.items():
        kernel = blocks[name]["kernel"]
        wide = jnp.promote_types(kernel.dtype, jnp.float32)
        low = jnp.einsum("lir,lro->lio", factors["a"], factors["b"])
        total = kernel.astype(wide) + params.scale * low.astype(wide)
        blocks[name] = {**blocks[name], "kernel": total.astype(kernel.dtype)}
    return {**params.base, "blocks": blocks}
