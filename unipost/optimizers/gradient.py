"""Gradient descent with momentum, and RMSProp."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

import optax

from unipost.optimizers.base import Moments, Optimizer, unit
from unipost.parts import Scalar, in_range, part

Momentum = Literal["heavy_ball", "nesterov"]


def check_momentum(where: str, momentum, form: Momentum) -> None:
    """Refuse a coefficient outside [0, 1), and a form of no momentum."""
    if momentum is not None:
        unit(f"{where}.momentum", momentum)
    elif form != "heavy_ball":
        raise ValueError(f"{where}.form: {form!r} needs a momentum; write momentum")


@part
class SGD(Optimizer):
    """Gradient descent: w <- w - rate u, u = g, or m <- g + momentum m with momentum.

    form      "heavy_ball": u = m; "nesterov": u = g + momentum m
    mu_dtype  dtype of m; None: float32
    """

    _: KW_ONLY
    clip_norm: Scalar | None = None
    momentum: Scalar | None = None
    form: Momentum = "heavy_ball"
    mu_dtype: Moments = None

    def __post_init__(self):
        super().__post_init__()
        check_momentum("sgd", self.momentum, self.form)
        if self.momentum is None and self.mu_dtype is not None:
            raise ValueError("sgd.mu_dtype: needs a momentum; write momentum")

    def _transform(self, rate):
        return optax.sgd(rate, self.momentum, self.form == "nesterov", self.mu_dtype)


@part
class RMSProp(Optimizer):
    """RMSProp: u = g / sqrt(v + eps), with momentum on rate * u where it is given.

    b2     coefficient of the running mean v of g^2
    about  "zero": v as it is; "mean": the variance, v less the squared mean of g
    form   of the momentum, as in SGD
    """

    b2: Scalar = 0.9
    eps: Scalar = 1e-8
    _: KW_ONLY
    about: Literal["zero", "mean"] = "zero"
    momentum: Scalar | None = None
    form: Momentum = "heavy_ball"

    def __post_init__(self):
        super().__post_init__()
        unit("rmsprop.b2", self.b2)
        in_range("rmsprop.eps", self.eps, 0.0, what="is not positive")
        check_momentum("rmsprop", self.momentum, self.form)

    def _transform(self, rate):
        return optax.rmsprop(
            rate,
            self.b2,
            self.eps,
            centered=self.about == "mean",
            momentum=self.momentum,
            nesterov=self.form == "nesterov",
        )
