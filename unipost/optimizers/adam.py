"""The family of Adam: with and without weight decay, Nesterov, maximum, and Lion."""

from __future__ import annotations

from dataclasses import KW_ONLY

import optax

from unipost.optimizers.base import Decayed, Moments, Optimizer, unit
from unipost.parts import Scalar, part


@part
class AdamW(Decayed):
    """AdamW (1711.05101): w <- w - rate (m / (sqrt v + eps) + weight_decay w).

    b1, b2    coefficients of the running means m of g and v of g^2
    mu_dtype  dtype of m; None: float32
    """

    b1: Scalar = 0.9
    b2: Scalar = 0.999
    eps: Scalar = 1e-8
    _: KW_ONLY
    mu_dtype: Moments = None

    def __post_init__(self):
        super().__post_init__()
        unit(f"{self.label}.b1", self.b1)
        unit(f"{self.label}.b2", self.b2)

    def _transform(self, rate):
        return optax.adamw(
            rate,
            self.b1,
            self.b2,
            self.eps,
            mu_dtype=self.mu_dtype,
            weight_decay=self.weight_decay,
            mask=self.mask,
        )


@part
class NAdamW(AdamW):
    """AdamW with Nesterov's look-ahead in the first moment (Dozat 2016)."""

    def _transform(self, rate):
        return optax.nadamw(
            rate,
            self.b1,
            self.b2,
            self.eps,
            mu_dtype=self.mu_dtype,
            weight_decay=self.weight_decay,
            mask=self.mask,
        )


@part
class Adam(Optimizer):
    """Adam (1412.6980), without weight decay."""

    b1: Scalar = 0.9
    b2: Scalar = 0.999
    eps: Scalar = 1e-8
    _: KW_ONLY
    mu_dtype: Moments = None

    def __post_init__(self):
        super().__post_init__()
        unit(f"{self.label}.b1", self.b1)
        unit(f"{self.label}.b2", self.b2)

    def _transform(self, rate):
        return optax.adam(rate, self.b1, self.b2, self.eps, mu_dtype=self.mu_dtype)


@part
class NAdam(Adam):
    """Adam with Nesterov's look-ahead in the first moment (Dozat 2016)."""

    def _transform(self, rate):
        return optax.nadam(rate, self.b1, self.b2, self.eps, mu_dtype=self.mu_dtype)


@part
class Adamax(Decayed):
    """Adam with the running maximum of |g| for sqrt v (1412.6980), and weight decay."""

    b1: Scalar = 0.9
    b2: Scalar = 0.999
    eps: Scalar = 1e-8

    def __post_init__(self):
        super().__post_init__()
        unit(f"{self.label}.b1", self.b1)
        unit(f"{self.label}.b2", self.b2)

    def _transform(self, rate):
        return optax.adamaxw(
            rate, self.b1, self.b2, self.eps, self.weight_decay, mask=self.mask
        )


@part
class Lion(Decayed):
    """Lion (2302.06675): w <- w - rate (sign(b1 m + (1-b1) g) + weight_decay w).

    Every step moves every weight by the rate: write a third to a tenth of AdamW's,
    and a weight decay larger by as much. b2 is the coefficient of m.
    """

    b1: Scalar = 0.9
    b2: Scalar = 0.99
    _: KW_ONLY
    mu_dtype: Moments = None

    def __post_init__(self):
        super().__post_init__()
        unit("lion.b1", self.b1)
        unit("lion.b2", self.b2)

    def _transform(self, rate):
        return optax.lion(
            rate,
            self.b1,
            self.b2,
            mu_dtype=self.mu_dtype,
            weight_decay=self.weight_decay,
            mask=self.mask,
        )
