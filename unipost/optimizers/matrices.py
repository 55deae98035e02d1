"""Optimisers that know matrices: Adafactor and Muon.

Leaves with axes before their last two, such as layers or experts, are stacks: every
matrix is updated as if it were a leaf of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any, Literal

import jax
import optax
import optax.contrib

from unipost.optimizers.base import Decayed, Moments, unit
from unipost.optimizers.gradient import Momentum
from unipost.optimizers.leaves import (
    check_patterns,
    compiled,
    decayed,
    is_matrix,
    map_named,
    mask_of,
    matches,
    names_of,
    own_axes,
)
from unipost.parts import Scalar, in_range, part
from unipost.placement import beside

ADAM = ("embed", "head")
"""What Muon leaves to Adam by default: the tables of the vocabulary."""


def per_matrix(make: Callable[[str, Any], optax.GradientTransformation]):
    """The transformation that applies `make(name, leaf)` to every matrix by itself.

    Its state is a list with the state of every leaf; those of stacks have their axes.
    """

    def each(tree, function, *others):
        leaves = zip(names_of(tree), jax.tree.leaves(tree), *others, strict=True)
        return [function(*x) for x in leaves]

    def stacked(function, name, leaf):
        for _ in range(leaf.ndim - own_axes(name, leaf)):
            function = jax.vmap(function)
        return function

    def init(params):
        def one(name, leaf):
            return beside(stacked(make(name, leaf).init, name, leaf)(leaf), leaf)

        return each(params, one)

    def update(updates, state, params=None):
        def one(name, grad, inner, param):
            return stacked(make(name, grad).update, name, grad)(grad, inner, param)

        pairs = each(updates, one, state, jax.tree.leaves(params))
        new = [update for update, _ in pairs]
        new = jax.tree.unflatten(jax.tree.structure(updates), new)
        return new, [inner for _, inner in pairs]

    return optax.GradientTransformation(init, update)


@part
class Adafactor(Decayed):
    """Adafactor (1804.04235): v as the outer product of row and column means.

    A matrix needs rows + columns numbers for v, and none for m without a momentum.

    decay_rate  v is the running mean with coefficient 1 - step^-decay_rate
    eps         added to g^2
    threshold   bound on the root mean square of an update before the rate; None: none
    scale       "parameters": the update times max(rms(w), 1e-3); "none": as it is
    min_size    matrices with a side below this keep the whole of v
    momentum    coefficient of a running mean of the updates; None: none
    """

    _: KW_ONLY
    decay_rate: Scalar = 0.8
    eps: Scalar = 1e-30
    threshold: Scalar | None = 1.0
    scale: Literal["parameters", "none"] = "parameters"
    min_size: int = 128
    momentum: Scalar | None = None
    mu_dtype: Moments = None

    def __post_init__(self):
        super().__post_init__()
        in_range("adafactor.decay_rate", self.decay_rate, 0.0, what="is not positive")
        if self.threshold is not None:
            what = "is not positive; write threshold: null for none"
            in_range("adafactor.threshold", self.threshold, 0.0, what=what)
        in_range("adafactor.min_size", self.min_size, 0, what="is not positive")
        if self.momentum is not None:
            unit("adafactor.momentum", self.momentum)
        elif self.mu_dtype is not None:
            raise ValueError("adafactor.mu_dtype: needs a momentum; write momentum")

    def _transform(self, rate):
        def make(name, leaf):
            return optax.adafactor(
                rate,
                self.min_size,
                self.decay_rate,
                multiply_by_parameter_scale=self.scale == "parameters",
                clipping_threshold=self.threshold,
                momentum=self.momentum,
                dtype_momentum=self.mu_dtype or leaf.dtype,
                # optax does not multiply it by the rate
                weight_decay_rate=rate * self.weight_decay,
                eps=self.eps,
                weight_decay_mask=decayed(self.decay, name, leaf),
            )

        return per_matrix(make)


@part
class Muon(Decayed):
    """Muon: the momentum of every matrix made orthogonal; Adam for the other leaves.

    b1          coefficient of the momentum, of the given `form`
    steps       Newton-Schulz iterations
    rms         None: updates times sqrt(max(1, out / in)); a number, 0.2 for example:
                times sqrt(max(in, out)) * rms, the size of AdamW's (2502.16982), so
                that a learning rate of AdamW serves
    adam        regexes of the names of matrices that are left to Adam
    adam_rate   Adam's learning rate over Muon's
    adam_b1, adam_b2  its coefficients
    Source: kellerjordan.github.io/posts/muon, 2502.16982.
    """

    b1: Scalar = 0.95
    _: KW_ONLY
    form: Momentum = "nesterov"
    steps: int = 5
    eps: Scalar = 1e-8
    rms: Scalar | None = None
    adam: tuple[str, ...] = ADAM
    adam_rate: Scalar = 1.0
    adam_b1: Scalar = 0.9
    adam_b2: Scalar = 0.999
    mu_dtype: Moments = None

    def __post_init__(self):
        super().__post_init__()
        _muon()
        object.__setattr__(self, "adam", tuple(self.adam))
        for name in ("b1", "adam_b1", "adam_b2"):
            unit(f"muon.{name}", getattr(self, name))
        in_range("muon.steps", self.steps, 0, what="is not positive")
        in_range("muon.adam_rate", self.adam_rate, 0.0, what="is not positive")
        if self.rms is not None:
            what = "is not positive; write rms: null for none"
            in_range("muon.rms", self.rms, 0.0, what=what)
        if self.adam:
            compiled("muon.adam", self.adam)

    def _orthogonal(self, name: str, leaf: Any) -> bool:
        return is_matrix(name, leaf) and not matches(name, self.adam)

    def _check_leaves(self, params):
        super()._check_leaves(params)
        if self.adam != ADAM:
            check_patterns("muon.adam", self.adam, params)
        if not any(jax.tree.leaves(map_named(self._orthogonal, params))):
            raise ValueError(
                "muon: no leaf is a matrix but those left to Adam; write name: adamw"
            )

    def _dimensions(self, tree: Any) -> Any:
        """The last two axes of every matrix that is made orthogonal, None of others."""
        numbers = optax.contrib.MuonDimensionNumbers

        def axes(name, x):
            return (
                numbers(x.ndim - 2, x.ndim - 1) if self._orthogonal(name, x) else None
            )

        return map_named(axes, tree)

    def _transform(self, rate):
        muon = _muon()(
            rate,
            ns_steps=self.steps,
            beta=self.b1,
            eps=self.eps,
            mu_dtype=self.mu_dtype,
            nesterov=self.form == "nesterov",
            adam_b1=self.adam_b1,
            adam_b2=self.adam_b2,
            adam_learning_rate=rate * self.adam_rate,
            muon_weight_dimension_numbers=self._dimensions,
            consistent_rms=self.rms,
        )
        # one decay for both kinds of leaves, at the rate of Muon
        decay = optax.add_decayed_weights(
            -rate * self.weight_decay, mask_of(self.decay)
        )
        return optax.chain(muon, decay)


def _muon() -> Callable[..., optax.GradientTransformation]:
    """optax.contrib.muon. Raises ValueError where the optax installed has none."""
    found = getattr(optax.contrib, "muon", None)
    if found is None:
        raise ValueError(
            f"muon: optax {optax.__version__} has none; install optax 0.2.8 or newer"
        )
    return found
