"""Signals of groups that hold the policy's own samples and demonstrations.

Rows (or tokens) flagged in `batch.off_policy` are the demonstrations'. A selection
says which rows a loss is about, for mixtures whose terms see different ones; what is
left out counts in no denominator, and a term without a row is 0.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Literal

import jax
import jax.numpy as jnp

from unipost.batch import Batch
from unipost.levels import given, of_tokens, outcomes
from unipost.parts import Scalar, concrete, part, require
from unipost.signals import (
    Desirability,
    Ones,
    Preference,
    Signal,
    Zeros,
    ZScore,
    centred,
    or_raw,
)

Array = jax.Array


@part
class Gate:
    """A group fails where at most `most` of its own rows are correct: r > `above`.

    An unscored row is not correct, and neither is one that is not there.
    """

    most: int = 0
    above: Scalar = 0.5

    def __post_init__(self):
        require("gate.most", self.most, self.most >= 0, "is negative")
        known = concrete(self.above)
        ok = known is None or abs(known) < float("inf")
        require("gate.above", self.above, ok, "is not finite")

    def fails(self, batch: Batch) -> Array:
        """[P] of flags. Raises ValueError where a group is too small to pass."""
        rewards = outcomes(batch, "gate")
        if self.most >= rewards.shape[1] - 1:
            raise ValueError(
                f"gate.most: {self.most} in groups of {rewards.shape[1]} with a "
                "demonstration, which all fail; write a smaller number"
            )
        correct = own_rows(batch) & (rewards > self.above)
        return correct.sum(-1) <= self.most


def flagged(batch: Batch) -> Array:
    """[P, G, T]: the tokens of demonstrations that count."""
    return of_tokens(given(batch, "off_policy") > 0) & (batch.mask > 0)


def own_rows(batch: Batch) -> Array:
    """[P, G]: rows with a token of which none is a demonstration's."""
    return (batch.mask > 0).any(-1) & ~flagged(batch).any(-1)


class Selection(Signal):
    """The `signal` of some rows; the others are left out of the loss."""

    signal: Signal
    gate: Gate | None

    def __post_init__(self):
        labels = Preference | Desirability | Selection
        if isinstance(self.signal, labels) or self.signal.token_rewards:
            name = type(self.signal).__name__
            raise ValueError(
                f"{type(self).__name__}.signal: {name} inside a selection of rows; "
                "write ones, or an advantage of outcome rewards"
            )

    @property
    def needs(self):
        gated = {"rewards"} if self.gate is not None else set()
        return self.signal.needs | {"off_policy"} | gated

    @property
    def supervision(self) -> str:
        """That of the signal inside."""
        return getattr(self.signal, "supervision", "outcome")

    @abstractmethod
    def kept(self, batch: Batch) -> Array:
        """Flags of what the loss is about, that broadcast to [P, G, T]."""

    def select(self, batch):
        return dataclasses.replace(
            batch, mask=jnp.where(self.kept(batch), batch.mask, 0)
        )

    def seen(self, batch):
        return batch

    def rewarded(self, batch):
        return self.signal.rewarded(batch)

    def __call__(self, batch):
        return self.signal(batch)


@part
class OwnRows(Selection):
    """A signal of the policy's own rows; demonstrations are left out.

    over   what the signal's statistics are over: own, or the union with demonstrations
    gate   only in groups that do not fail it (HPT)
    """

    signal: Signal = ZScore()
    over: Literal["own", "union"] = "own"
    gate: Gate | None = None

    def kept(self, batch):
        rows = own_rows(batch)
        if self.gate is not None:
            rows = rows & ~self.gate.fails(batch)[:, None]
        return rows[..., None]

    def seen(self, batch):
        if self.over == "union":
            return batch
        mask = jnp.where(own_rows(batch)[..., None], batch.mask, 0)
        return dataclasses.replace(batch, mask=mask)


@part
class DemonstrationRows(Selection):
    """A signal of demonstrations; the policy's own rows are left out.

    Statistics are over the union of both. `gate`: only in groups that fail it (HPT).
    Of a demonstration's prefix only its own tokens count.
    """

    signal: Signal = Ones()
    gate: Gate | None = None

    def kept(self, batch):
        tokens = flagged(batch)
        if self.gate is not None:
            tokens = tokens & self.gate.fails(batch)[:, None, None]
        return tokens


@part
class SwitchedRows(Selection):
    """What `gate` keeps of every group: its own rows, or where it fails the others.

    With signal zeros it is for an entropy bonus or a penalty on just these rows.
    """

    signal: Signal = Zeros()
    gate: Gate = Gate()

    def kept(self, batch):
        fails = self.gate.fails(batch)[:, None, None]
        return jnp.where(fails, flagged(batch), own_rows(batch)[..., None])


@part
class Outcome(Signal):
    """+1 where a row is correct, r > `above`, -1 where it is not, 0 unscored: SRFT."""

    above: Scalar = 0.5

    def __post_init__(self):
        known = concrete(self.above)
        ok = known is None or abs(known) < float("inf")
        require("outcome.above", self.above, ok, "is not finite")

    @property
    def needs(self):
        return frozenset({"rewards"})

    def __call__(self, batch):
        rewards = outcomes(batch, "outcome")
        sign = jnp.where(rewards > self.above, 1.0, -1.0)
        sign = jnp.where(jnp.isfinite(rewards), sign, 0.0)
        return jnp.broadcast_to(sign[..., None], batch.mask.shape)


@part
class HybridMean(Signal):
    """r - mean of the own rows, which continued prefixes are compared with: Prefix-RFT.

    A row with a flagged token is a demonstration's prefix that the policy continued.
    The prefix gets (r - mean) / n, n the group's scored rows of that kind, since one
    prefix stands in all of them. The continuation gets, by `continuation`, own: r -
    mean; hybrid: r minus the mean of the n rows, or r itself where n = 1 (the released
    code). Without a scored own row the prefix gets 0. Source: 2507.01679.
    """

    continuation: Literal["own", "hybrid"] = "own"

    @property
    def needs(self):
        return frozenset({"rewards", "off_policy"})

    def __call__(self, batch):
        rewards = outcomes(batch, "hybrid_mean")
        own, scored = own_rows(batch), jnp.isfinite(rewards)
        known = own & scored
        hybrid = (batch.mask > 0).any(-1) & ~own & scored
        gap = _against(rewards, known, hybrid)
        rest = gap
        if self.continuation == "hybrid":
            rest = or_raw(centred(rewards, hybrid, -1), rewards, hybrid, "reward")
        share = gap / jnp.maximum(hybrid.sum(-1, keepdims=True), 1)
        rows = jnp.where(hybrid, rest, centred(rewards, known, -1))
        return jnp.where(flagged(batch), share[..., None], rows[..., None])


def _against(rewards: Array, known: Array, rows: Array) -> Array:
    """r - mean over `known` of the rows [P, G]; exactly 0 where all are equal."""
    top = jnp.where(known, rewards, -jnp.inf).max(-1, keepdims=True)
    low = jnp.where(known, rewards, jnp.inf).min(-1, keepdims=True)
    count = jnp.maximum(known.sum(-1, keepdims=True), 1)
    mean = jnp.where(known, rewards, 0.0).sum(-1, keepdims=True) / count
    mean = jnp.where(top > low, mean, top)
    return jnp.where(rows & jnp.isfinite(mean), rewards - mean, 0.0)


def content(signal: Signal) -> Signal:
    """The signal inside a selection, any other one as it is."""
    return signal.signal if isinstance(signal, Selection) else signal


MIXED = {
    "own_rows": OwnRows,
    "demonstration_rows": DemonstrationRows,
    "switched_rows": SwitchedRows,
    "outcome": Outcome,
    "hybrid_mean": HybridMean,
}
