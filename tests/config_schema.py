"""A small library of parts and presets, as the config loader sees one."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from unipost.config import ConfigError
from unipost.parts import Scalar, part


class Ruler:
    """An abstract part."""


@part
class Plain(Ruler):
    pass


@part
class Other(Ruler):
    pass


@part
class Family(Ruler):
    a: Scalar

    def __post_init__(self):
        if not self.a < 1:
            raise ValueError(f"family.a: {self.a:g} must be below 1;\n write plain")


class LeftRuler:
    """One of two kinds of part in one registry."""


class RightRuler:
    """The other of the two."""


@part
class Left(LeftRuler):
    pass


@part
class Right(RightRuler):
    tau: Scalar = 0.5
    size: Scalar = 1.0


@dataclasses.dataclass(frozen=True)
class Clip:
    low: float = 0.2
    high: float = 0.2
    cap: float = math.inf


@part
class Loss:
    ruler: Ruler = Plain()
    clip: Clip | None = None
    beta: Scalar = 1.0
    level: Literal["token", "sequence"] = "token"
    penalties: tuple[Ruler, ...] = ()
    either: LeftRuler | RightRuler | None = None


PLAIN = Plain()


def dpo(beta: Scalar = 0.1, divergence: Ruler = PLAIN) -> Loss:
    return Loss(divergence, beta=beta, level="sequence")


def grpo(low: float = 0.2, kl: Scalar = 0.04) -> Loss:
    return Loss(Family(0.5), Clip(low, 0.28), beta=kl)


def doubled(inner: Ruler) -> Ruler:
    return Family(0.25) if isinstance(inner, Plain) else inner


def numeric(response: str, answer: str, tolerance: float = 0.0) -> float:
    return float(abs(float(response) - float(answer)) <= tolerance)


Reward = Callable[[str, str], float]
RULERS = {"plain": Plain, "other": Other, "family": Family, "doubled": doubled}
LOSSES = {"dpo": dpo, "grpo": grpo, "custom": Loss}


@dataclasses.dataclass(frozen=True)
class Experiment:
    objective: Loss
    steps: int = 10
    rate: float = 1e-3
    name: str = "run"
    data: Path = Path("data.jsonl")
    reward: Reward | None = None
    shape: tuple[int, int] = (1, 1)
    groups: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    warm: bool = False
    clip: Clip = Clip(low=0.5)
    window: int | Literal["all"] = "all"
    extra: Any = None


def refusal(call, *args, **kwargs):
    """The one line with which a call is refused."""
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(folder, text, name="x.yaml"):
    """A file in the folder; its name."""
    (folder / name).write_text(text)
    return name


SIDES = {"left": Left, "right": Right}
REGISTRIES = {
    Ruler: RULERS,
    Loss: LOSSES,
    Reward: {"numeric": numeric},
    LeftRuler: SIDES,
    RightRuler: SIDES,
}
