"""Any other optimiser of optax, by its name."""

from __future__ import annotations

import inspect
from dataclasses import KW_ONLY, field

import optax
import optax.contrib

from unipost.optimizers.base import Optimizer
from unipost.optimizers.leaves import Decay, check_patterns, compiled, decayed, mask_of
from unipost.optimizers.matrices import per_matrix
from unipost.optimizers.signatures import (
    Plain,
    Settings,
    check_arguments,
    function_of,
    takes,
)
from unipost.parts import part

OWN = {
    name: name
    for name in "adam adamw nadam nadamw lion sgd rmsprop adafactor muon".split()
} | {"adamax": "adamax", "adamaxw": "adamax"}
"""Functions of optax that are parts here, with options of their own, by the part."""

REFUSED = {
    "lbfgs": "it reads the loss at other parameters",
    "noisy_sgd": "it draws noise from a key of its own, not from the run's seed",
    "dpsgd": "it takes the gradient of every example",
    "differentially_private_aggregate": "it takes the gradient of every example",
    "sophia": "it reads the Hessian",
    "momo": "it reads the loss",
    "momo_adam": "it reads the loss",
    "rprop": "its state starts from the learning rate, which a schedule changes",
    "polyak_sgd": "it reads the loss",
    "schedule_free": "it is evaluated at parameters other than those it trains",
    "schedule_free_adamw": "it is evaluated at parameters other than those it trains",
    "schedule_free_sgd": "it is evaluated at parameters other than those it trains",
    "galore": "it takes another optimiser",
    "mechanize": "it takes another optimiser",
    "sam": "it takes another optimiser",
    "optimistic_adam": "optax replaces it by optimistic_adam_v2",
    "optimistic_gradient_descent": "it needs the gradient before the first step",
}
"""Functions of optax that this loop cannot serve, and why."""

PER_MATRIX = frozenset({"lamb", "lars", "novograd", "fromage"})
"""Those with a norm for every leaf: here for every matrix of a stack of layers."""

MASKS = "mask", "weight_decay_mask"


def _found() -> tuple[str, ...]:
    names = []
    for module in (optax, optax.contrib):
        for name, made in vars(module).items():
            plain = inspect.isfunction(made) and not name.startswith(("_", "scale_by"))
            if plain and "learning_rate" in inspect.signature(made).parameters:
                names.append(name)
    return tuple(sorted({*names} - OWN.keys() - REFUSED.keys()))


NAMES = _found()
"""Every optimiser that `optax` takes."""


@part
class Optax(Optimizer):
    """An optimiser of optax or optax.contrib by its name, with its own arguments.

    arguments  those of the function, by name; they are not traced, so another value
               compiles again, unlike another learning rate
    decay      the leaves that weight decay acts on, as in AdamW; the decay itself is
               in `arguments`
    """

    _: KW_ONLY
    function: str
    arguments: dict[str, Plain] = field(default_factory=Settings)
    decay: Decay = "all"

    def __post_init__(self):
        super().__post_init__()
        name, where = self.function, "optax.function"
        if name in OWN:
            raise ValueError(f"{where}: {name!r} is a part; write name: {OWN[name]}")
        if name in REFUSED:
            raise ValueError(f"{where}: {name!r} is not served: {REFUSED[name]}")
        made = function_of(where, name, NAMES)
        object.__setattr__(self, "arguments", Settings(self.arguments))
        elsewhere = {"learning_rate": "is the optimiser's own; write learning_rate"}
        elsewhere |= dict.fromkeys(MASKS, "is written as decay")
        check_arguments("optax.arguments", made, self.arguments, elsewhere)
        if isinstance(self.decay, tuple):
            compiled("optax.decay", self.decay)
        decays = self.arguments.get("weight_decay", 0)
        if self.decay != "all" and not (self._mask_name and decays):
            raise ValueError(
                f"optax.decay: {self.decay!r} has no effect: {name} "
                + ("has no weight_decay" if self._mask_name else "takes no mask")
                + "; leave it out"
            )

    @property
    def _mask_name(self) -> str | None:
        made = function_of("optax.function", self.function, NAMES)
        return next((name for name in MASKS if name in takes(made)), None)

    def _check_leaves(self, params):
        super()._check_leaves(params)
        if isinstance(self.decay, tuple):
            check_patterns("optax.decay", self.decay, params)

    def _transform(self, rate):
        made = function_of("optax.function", self.function, NAMES)
        mask = self._mask_name

        def build(chosen):
            extra = {} if mask is None or self.decay == "all" else {mask: chosen}
            return made(rate, **self.arguments, **extra)

        if self.function in PER_MATRIX:
            return per_matrix(lambda n, x: build(decayed(self.decay, n, x)))
        return build(mask_of(self.decay))
