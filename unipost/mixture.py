"""A weighted sum of objectives on one batch: DPO + SFT, ORPO, MPO."""

from __future__ import annotations

from typing import Any

import jax

from unipost.annealed import Annealed, at_first_step
from unipost.batch import Batch, Prepared, Streams
from unipost.objective import Objective, at_present
from unipost.parts import Scalar, Varying, concrete, in_range, part

Array = jax.Array


@part
class Mixture:
    """sum_k weights_k L_k, each objective with its own denominator.

    It is called, prepared and cut as an `Objective` is; `prepare` and `advantage` give
    one entry per term. Metrics of term k > 0 are named `k/...`. Weights are used as
    they are (TRL's loss_weights): they are not normalised. A weight may be annealed,
    from or to 0 too.
    """

    terms: tuple[Objective, ...]
    weights: tuple[Scalar | Annealed, ...]

    def __post_init__(self):
        if len(self.terms) < 2 or len(self.terms) != len(self.weights):
            raise ValueError(
                f"mixture: {len(self.terms)} terms and {len(self.weights)} weights; "
                "write two or more of each, or the objective alone"
            )
        for k, weight in enumerate(self.weights):
            where = f"mixture.weights.{k}"
            for end in weight.ends() if isinstance(weight, Varying) else ():
                if concrete(end) != 0.0:
                    in_range(where, end, 0.0, what="is negative")
            what = "is not positive and finite; leave the term out"
            in_range(where, weight, 0.0, what=what)

    @property
    def needs(self) -> frozenset[str]:
        """Names of the streams and batch arrays that any term reads."""
        return frozenset().union(*(term.needs for term in self.terms))

    def __call__(self, logps: Array | Streams, batch: Batch):
        """(loss, metrics) of a whole batch, as `Objective.__call__`."""
        return self.loss(logps, self.prepare(at_present(self, logps, batch)))

    def advantage(self, batch: Batch) -> tuple[Array, ...]:
        """The signal of every term."""
        return tuple(term.advantage(batch) for term in self.terms)

    def prepare(
        self, batch: Batch, signal: tuple[Array, ...] | None = None
    ) -> tuple[Prepared, ...]:
        """The batch as every term sees it."""
        signals = signal or (None,) * len(self.terms)
        pairs = zip(self.terms, signals, strict=True)
        return tuple(term.prepare(batch, s) for term, s in pairs)

    @at_first_step
    def loss(self, logps: Array | Streams, prepared: tuple[Prepared, ...]):
        """(loss, metrics) of a prepared batch or of any slice of it along P."""
        total: Any = 0.0
        metrics = {}
        rows = zip(self.terms, self.weights, prepared, strict=True)
        for k, (term, weight, piece) in enumerate(rows):
            loss, numbers = term.loss(logps, piece)
            total = total + weight * loss
            prefix = "" if k == 0 else f"{k}/"
            metrics |= {f"{prefix}{name}": value for name, value in numbers.items()}
        return total, metrics | {"loss": total}
