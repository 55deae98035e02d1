"""The one objective.

    implicit reward  z = beta f'(policy/anchor)                on tokens or sequences
    loss             sum_i w_i link(z_i, signal_i) + penalty D_g(policy || reference)

SFT, DPO, GRPO and the off-policy objectives are functions that return this object
(`unipost.presets`). It sees log-prob streams, masks and signals only, and says in
`needs` which of them it reads.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from unipost.aggregation import Aggregation, TokenMean
from unipost.batch import Batch, Prepared, Streams, check_shapes, clean
from unipost.classical import ReverseKL
from unipost.links import PairLink
from unipost.parts import Scalar, part
from unipost.penalties import Penalty, exact_divergence
from unipost.refusals import check
from unipost.score import Score, clamped, log_ratio, telescoped
from unipost.signals import Ones, Signal
from unipost.special import at_least_float32

Array = jax.Array
Gauge = Literal["zero", "lse", "lsediff"]


@part
class Objective(Score):
    """A score, a signal for it to follow, a penalty, and one denominator.

    signal         what the data say: ones, preference, or an advantage
    off_policy     the score for rows flagged `batch.off_policy` (mixed groups);
                   None: such rows are treated as the others
    penalty        weight * D_g(policy || reference) by a named estimator, or None
    gauge          V(s) in the implicit reward of demonstrations, beta log u + V - V':
                   zero; lse: V = beta lse(logits); lsediff: minus the reference's
    aggregation    the denominator
    entropy_bonus  coefficient of the mean token entropy, subtracted from the loss

    Numeric fields are pytree leaves: pass the objective as an argument of a jitted
    function and a sweep over them compiles once.

        >>> objective = unipost.presets.dpo(beta=0.1)
        >>> batch = unipost.Batch(mask=mask, reference=reference)      # [P, 2, T]
        >>> (loss, metrics), grad = jax.value_and_grad(objective, has_aux=True)(
        ...     logps, batch)
    """

    signal: Signal = Ones()
    off_policy: Score | None = None
    penalty: Penalty | None = None
    gauge: Gauge = "zero"
    aggregation: Aggregation = TokenMean()
    entropy_bonus: Scalar | None = None

    def __post_init__(self):
        super().__post_init__()
        check(self)

    @property
    def needs(self) -> frozenset[str]:
        """Names of the streams and batch arrays that the loss reads."""
        names = {"policy"} | set(self.signal.needs)
        for score in (self, self.off_policy):
            if score is not None:
                names |= {score.anchor, getattr(score.link, "over", "none")}
        if self.off_policy is not None:
            names.add("off_policy")
        if self.penalty is not None:
            names |= self.penalty.needs
        if self.gauge != "zero":
            names |= {"lse"} | ({"reference_lse"} if self.gauge == "lsediff" else set())
        if self.entropy_bonus is not None:
            names.add("entropy")
        return frozenset(names - {"none", "self"})

    def __call__(self, logps: Array | Streams, batch: Batch):
        """(loss, metrics) of a whole batch; `logps` [P, G, T] or `Streams`."""
        return self.loss(logps, self.prepare(batch))

    @property
    def _exponential(self) -> bool:
        penalty = self.penalty
        if penalty is None or penalty.estimator == "exact":
            return super()._exponential
        linear = isinstance(penalty.divergence, ReverseKL)
        sampled = not (linear and penalty.estimator in ("in_reward", "k1", "k2"))
        return super()._exponential or sampled

    def advantage(self, batch: Batch) -> Array:
        """The signal [P, G, T] of the batch as it was drawn, a constant.

        Statistics over the batch are taken here: give the result to `prepare` when the
        batch is then cut into minibatches with optimiser steps of their own.
        """
        check_shapes(batch)
        batch = clean(batch)
        return jax.lax.stop_gradient(self.signal(self._with_reward_penalty(batch)))

    def prepare(self, batch: Batch, signal: Array | None = None) -> Prepared:
        """Signal and weights over the logical batch, before it is cut along P.

        `signal` is that of `advantage`, computed here when it is not given. Raises
        ValueError naming a missing array or a shape that does not fit.
        """
        check_shapes(batch)
        own = {"policy", "lse", "vocab", "entropy"}
        for name in sorted(self.needs - own):
            if getattr(batch, name) is None:
                raise ValueError(f"batch.{name}: missing; the objective needs it")
        if signal is None:
            signal = self.advantage(batch)
        batch = clean(batch)
        if isinstance(self.link, PairLink):
            batch = _decided_pairs(batch, signal)
        mask = batch.mask
        weight = self.aggregation.weights(mask)
        if batch.weight is not None:
            weight = weight * self._row_weight(batch.weight)[..., None]
        rows = (mask.sum(-1) > 0).astype(mask.dtype)
        return Prepared(
            batch=batch,
            signal=signal,
            weight=weight,
            mean=TokenMean().weights(mask),
            row_mean=rows / jnp.maximum(rows.sum(), 1.0),
        )

    def loss(self, logps: Array | Streams, prepared: Prepared):
        """(loss, metrics) of a prepared batch or of any slice of it along P.

        Both add up over slices: the normalisers are those of the logical batch.
        """
        streams = _cleaned(logps, prepared)
        rows = jnp.ones(prepared.batch.mask.shape[:2], bool)
        if self.off_policy is None:
            value = _value_gauge(self, streams, prepared.batch)
            loss, metrics = _fit(self, streams, prepared, rows, value)
        else:
            off = _given(prepared.batch.off_policy, "off_policy")
            loss, metrics = _fit(self, streams, prepared, ~off)
            extra, numbers = _fit(self.off_policy, streams, prepared, off)
            loss = loss + extra
            metrics |= {f"off_policy/{k}": v for k, v in numbers.items()}
        if self.penalty is not None:
            extra, numbers = self._penalise(self.penalty, streams, prepared, rows)
            loss, metrics = loss + extra, metrics | numbers
        if self.entropy_bonus is not None:
            entropy = (prepared.mean * _given(streams.entropy, "entropy")).sum()
            loss = loss - self.entropy_bonus * entropy
            metrics["entropy"] = entropy
        return loss, {"loss": loss} | metrics

    def _row_weight(self, weight: Array) -> Array:
        # the loss of a pair has one weight: the product of its rows' (as WPO)
        if isinstance(self.link, PairLink):
            return jnp.broadcast_to(weight.prod(-1, keepdims=True), weight.shape)
        return weight

    def _with_reward_penalty(self, batch: Batch) -> Batch:
        """r <- r - w f'(u), u = old/reference over the sequence: k1 in the reward."""
        penalty = self.penalty
        if penalty is None or penalty.estimator != "in_reward":
            return batch
        old = _given(batch.old, "old")
        rows = jnp.ones(batch.mask.shape[:2], bool)
        log_u = log_ratio(old, batch, "reference", "sequence", rows)
        if not isinstance(penalty.divergence, ReverseKL):  # log u itself needs no bound
            log_u, _ = clamped(log_u, "reference", self.bound)
        cost = penalty.weight * penalty.divergence.f_prime(log_u)
        return dataclasses.replace(
            batch, rewards=_given(batch.rewards, "rewards") - cost
        )

    def _penalise(self, penalty, streams, prepared, rows):
        batch, metrics = prepared.batch, {}
        if penalty.estimator == "exact":
            policy = _given(streams.vocab, "vocab")
            reference = _given(batch.reference_vocab, "reference_vocab")
            value = exact_divergence(penalty.divergence, policy, reference)
        elif penalty.estimator == "in_reward":
            log_u = log_ratio(streams.policy, batch, "reference", "token", rows)
            log_u, _ = clamped(log_u, "reference", self.bound)
            value = penalty.divergence.f_prime(log_u)
            return 0.0, {"penalty": (prepared.mean * value).sum()}
        else:
            hits = []

            def clipped(anchor):
                log_u = log_ratio(streams.policy, batch, anchor, "token", rows)
                log_u, hit = clamped(log_u, anchor, self.bound)
                hits.append(0.0 if hit is None else hit)
                return log_u

            value = penalty.per_token(
                lambda: clipped("reference"), lambda: clipped("old")
            )
            share = (prepared.mean * jnp.maximum(*(hits * 2)[:2])).sum()
            metrics["penalty_clamp_share"] = share
        cost = penalty.weight * (prepared.weight * value).sum()
        return cost, metrics | {"penalty": (prepared.mean * value).sum()}


def _fit(
    score: Score,
    streams: Streams,
    prepared: Prepared,
    rows: Array,
    value: Array | float = 0.0,
):
    """Loss and metrics of the rows [P, G] that `score` treats; `value` is V - V'."""
    policy, batch = streams.policy, prepared.batch
    log_u = log_ratio(policy, batch, score.anchor, score.level, rows)
    log_u, hit = clamped(log_u, score.anchor, score.bound)
    z = score.beta * score.divergence.f_prime(log_u) + value
    token = score.level == "token"
    chosen = rows[..., None] if token else rows
    mean = jnp.where(chosen, prepared.mean if token else prepared.row_mean, 0.0)
    metrics = {"implicit_reward": (mean * z).sum()}
    if hit is not None:
        metrics["clamp_share"] = (mean * hit).sum()
    if isinstance(score.link, PairLink):
        loss, numbers = _fit_pairs(score.link, z, prepared)
        return loss, metrics | numbers
    signal = prepared.signal if token else prepared.signal[..., 0]
    weight = prepared.weight if token else prepared.weight.sum(-1)
    losses = score.link.loss(
        z, signal, lambda other: log_ratio(policy, batch, other, score.level, rows)
    )
    # -phi(r) + V - V' per token: the sum carries the + V(s_1) of the dual
    loss = (jnp.where(chosen, weight, 0.0) * (losses + signal * value)).sum()
    metrics["signal"] = (mean * signal).sum()
    for name, number in score.link.metrics(z, signal).items():
        metrics[name] = (mean * number).sum()
    return loss, metrics


def _fit_pairs(link: PairLink, z: Array, prepared: Prepared):
    sign = prepared.signal[..., 0]
    margin = (sign * z).sum(-1)
    # a row's weight is its share of the rows, so a pair's is the sum of its two
    weight = prepared.weight.sum((-2, -1))
    mean = prepared.row_mean.sum(-1)
    metrics = {
        "margin": (mean * margin).sum(),
        "accuracy": (mean * (margin > 0)).sum(),
        "chosen": (mean * jnp.where(sign > 0, z, 0.0).sum(-1)).sum(),
        "rejected": (mean * jnp.where(sign < 0, z, 0.0).sum(-1)).sum(),
    }
    return (weight * link.loss(margin)).sum(), metrics


def _value_gauge(objective: Objective, streams: Streams, batch: Batch) -> Array | float:
    """V(s_t) - V(s_t+1) of the gauge; adding it back to -phi gives the + V(s_1)."""
    if objective.gauge == "zero":
        return 0.0
    value = _given(streams.lse, "lse")
    if objective.gauge == "lsediff":
        value = value - _given(batch.reference_lse, "reference_lse")
    return telescoped(objective.beta * value, batch.mask)


def _given(value: Array | None, name: str) -> Array:
    if value is None:
        raise ValueError(f"streams.{name}: missing; the objective needs it")
    return value


def _cleaned(logps: Array | Streams, prepared: Prepared) -> Streams:
    """Streams in float32 or more, zero outside the mask (no NaN can leak through)."""
    streams = logps if isinstance(logps, Streams) else Streams(policy=logps)
    kept = prepared.batch.mask > 0
    shape = prepared.batch.mask.shape
    if tuple(streams.policy.shape) != shape:
        raise ValueError(
            f"logps: shape {tuple(streams.policy.shape)}; the batch's mask is {shape}"
        )

    def keep(x):
        if tuple(x.shape[:3]) != shape:
            raise ValueError(f"streams: shape {tuple(x.shape)}; the mask is {shape}")
        mask = kept[..., None] if x.ndim == 4 else kept
        return jnp.where(mask, at_least_float32(x), 0.0)

    return jax.tree.map(keep, streams)


def _decided_pairs(batch: Batch, signal: Array) -> Batch:
    """Empty the pairs that compare nothing: an empty response, or a tie."""
    whole = (batch.mask.sum(-1) > 0).all(-1) & (signal[..., 0] != 0).all(-1)
    mask = jnp.where(whole[:, None, None], batch.mask, 0.0)
    return dataclasses.replace(batch, mask=mask)
