"""The one objective.

    implicit reward  z = beta f'(policy/anchor)                on tokens or sequences
    loss             sum_i w_i link(z_i, signal_i) + penalty D_g(policy || reference)

SFT, DPO, GRPO and the off-policy objectives are functions that return this object
(`unipost.presets`). It sees log-prob streams, masks and signals only, and says in
`needs` which of them it reads.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from unipost.advantages import GAE, at_the_end
from unipost.aggregation import Aggregation, TokenMean
from unipost.annealed import at_first_step
from unipost.batch import Batch, Prepared, Streams, check_shapes, clean
from unipost.classical import ReverseKL
from unipost.corrections import Correction
from unipost.fitting import cleaned_streams, fit
from unipost.levels import at_level, given, log_ratio, stream, token_log_ratio
from unipost.links import Link
from unipost.pair_links import PairLink
from unipost.parts import Scalar, part
from unipost.penalties import Penalty, exact_divergence
from unipost.reference_points import ReferencePoint
from unipost.refusals import check
from unipost.score import Score, clamped, telescoped
from unipost.signals import Ones, Signal

Array = jax.Array
Gauge = Literal["zero", "lse", "lsediff", "vocabulary"]
# what the policy says itself, not the data
OWN = frozenset({"policy", "lse", "vocab", "entropy", "collision"})


@part
class Objective(Score):
    """A score, a signal for it to follow, a penalty, and one denominator.

    signal         what the data say: ones, preference, or an advantage
    off_policy     the score for rows (or tokens) flagged `batch.off_policy`; None:
                   as the others. With anchor behavior an unreported one (NaN) is 1
    reference_point  what the implicit reward is measured from, or None
    corrections    detached weights of the link's loss
    penalty        weight * D_g(policy || reference) by a named estimator, or None
    gauge          V(s) in the implicit reward of demonstrations, beta log u + V - V':
                   zero; lse: V = beta lse(logits); lsediff: minus the reference's.
                   "vocabulary": the correction c(s) that makes token-level implicit
                   rewards of a preference add up to a reward
    aggregation    the denominator
    entropy_bonus  coefficient of the mean token entropy, subtracted from the loss
    waived         names of refusals that do not hold here, for another library's number

    Numeric fields are pytree leaves: pass the objective as an argument of a jitted
    function and a sweep over them compiles once.

        >>> objective = unipost.presets.dpo(beta=0.1)
        >>> batch = unipost.Batch(mask=mask, reference=reference)      # [P, 2, T]
        >>> (loss, metrics), grad = jax.value_and_grad(objective, has_aux=True)(
        ...     logps, batch)
    """

    signal: Signal = Ones()
    off_policy: Score | None = None
    reference_point: ReferencePoint | None = None
    corrections: tuple[Correction, ...] = ()
    penalty: Penalty | None = None
    gauge: Gauge = "zero"
    aggregation: Aggregation = TokenMean()
    entropy_bonus: Scalar | None = None
    waived: tuple[str, ...] = ()
    vanishing: ClassVar = ("entropy_bonus",)

    def __post_init__(self):
        super().__post_init__()
        check(self)

    @property
    def needs(self) -> frozenset[str]:
        """Names of the streams and batch arrays that the loss reads."""
        names = {"policy"} | set(self.signal.needs)
        for score in (self, self.off_policy):
            if score is not None:
                names.add(score.anchor)
                if isinstance(score.link, Link):
                    names.add(score.link.over)
        if self.off_policy is not None:
            names.add("off_policy")
        for thing in (self.penalty, self.reference_point, *self.corrections):
            if thing is not None:
                names |= thing.needs
        names |= {
            "zero": set[str](),
            "lse": {"lse"},
            "lsediff": {"lse", "reference_lse"},
            "vocabulary": {"vocab", "reference_vocab"},
        }[self.gauge]
        if self.entropy_bonus is not None:
            names.add("entropy")
        return frozenset(names - {"none", "self"})

    def __call__(self, logps: Array | Streams, batch: Batch):
        """(loss, metrics) of a whole batch; `logps` [P, G, T] or `Streams`.

        `batch.current` and `batch.current_entropy` are filled in from the streams,
        detached, where they are needed and not given.
        """
        return self.loss(logps, self.prepare(at_present(self, logps, batch)))

    @property
    def _exponential(self) -> bool:
        penalty = self.penalty
        if penalty is None or penalty.estimator == "exact":
            return super()._exponential
        linear = isinstance(penalty.divergence, ReverseKL)
        names = {penalty.estimator, penalty.gradient}
        plain = linear and names <= {"in_reward", "k1", "abs", "k2", "own"}
        return super()._exponential or not plain

    @at_first_step
    def advantage(self, batch: Batch) -> Array:
        """The signal [P, G, T] of the batch as it was drawn, a constant.

        Statistics over the batch are taken here: give the result to `prepare` when the
        batch is then cut into minibatches with optimiser steps of their own.
        """
        return jax.lax.stop_gradient(self.signal(self._rewarded(batch)))

    @at_first_step
    @at_first_step
    def returns(self, batch: Batch) -> Array:
        """What a critic regresses on [P, G, T]: the returns of the signal's own GAE.

        Of the same rewards less the same penalty. Raises ValueError for another signal.
        """
        if not isinstance(self.signal, GAE):
            name = type(self.signal).__name__
            raise ValueError(f"objective.signal: {name} has no critic; write gae")
        return jax.lax.stop_gradient(self.signal.returns(self._rewarded(batch)))

    def _rewarded(self, batch: Batch) -> Batch:
        """The batch as the signal reads it: cleaned, with the penalty in the reward."""
        check_shapes(batch)
        batch = self.signal.rewarded(clean(self.signal.seen(batch)))
        return self._with_reward_penalty(batch)

    @at_first_step
    def prepare(self, batch: Batch, signal: Array | None = None) -> Prepared:
        """Signal and weights over the logical batch, before it is cut along P.

        `signal` is that of `advantage`, computed here when it is not given. Raises
        ValueError naming a missing array or a shape that does not fit.
        """
        check_shapes(batch)
        for name in sorted(self.needs - OWN):
            if getattr(batch, name) is None:
                raise ValueError(f"batch.{name}: missing; the objective needs it")
        per_token = batch.advantage is not None and batch.advantage.ndim == 3
        if per_token and "advantage" in self.needs and self.level != "token":
            raise ValueError(
                f"batch.advantage: one per token with level {self.level}; write "
                "[prompts, group], or level: token (GSPO-token: ratio sequence_token)"
            )
        flags = batch.off_policy if "off_policy" in self.needs else None
        if flags is not None and flags.ndim == 3 and self.level != "token":
            raise ValueError(
                f"batch.off_policy: one per token with level {self.level}; write "
                "[prompts, group], or level: token"
            )
        if signal is None:
            signal = self.advantage(batch)
        batch = clean(self.signal.select(batch))
        if isinstance(self.link, PairLink) and not self.aggregation.counts_empty:
            batch = _decided_pairs(batch, signal)
        if isinstance(self.link, Link) and self.link.regresses:
            batch = _scored_rows(batch, self.signal)
        mask = batch.mask
        weight, row_weight = self._weights(batch)
        corrected = jnp.ones_like(mask)
        for correction in self.corrections:
            if not correction.local:
                value = jax.lax.stop_gradient(correction(batch, signal, None))
                corrected = corrected * value
        rows = (mask.sum(-1) > 0).astype(mask.dtype)
        return Prepared(
            batch=batch,
            signal=signal,
            weight=weight,
            row_weight=row_weight,
            correction=corrected,
            offset=self._offset(batch, signal),
            mean=TokenMean().weights(mask),
            row_mean=rows / jnp.maximum(rows.sum(), 1.0),
        )

    @at_first_step
    def loss(self, logps: Array | Streams, prepared: Prepared):
        """(loss, metrics) of a prepared batch or of any slice of it along P.

        Both add up over slices: the normalisers are those of the logical batch.
        """
        streams = cleaned_streams(logps, prepared)
        prepared = self._corrected(streams, prepared)
        rows = jnp.ones(prepared.batch.mask.shape[:2], bool)
        if self.off_policy is None:
            value = _value_gauge(self, streams, prepared.batch)
            loss, metrics = fit(self, streams.policy, prepared, rows, value)
        else:
            off = given(prepared.batch, "off_policy")
            loss, metrics = fit(self, streams.policy, prepared, ~off)
            told = dataclasses.replace(prepared, batch=_sampled(prepared.batch))
            extra, numbers = fit(self.off_policy, streams.policy, told, off)
            loss = loss + extra
            metrics |= {f"off_policy/{k}": v for k, v in numbers.items()}
        if self.penalty is not None:
            extra, numbers = self._penalise(self.penalty, streams, prepared, rows)
            loss, metrics = loss + extra, metrics | numbers
        if self.entropy_bonus is not None:
            entropy = (prepared.mean * stream(streams, "entropy")).sum()
            loss = loss - self.entropy_bonus * entropy
            metrics["entropy"] = entropy
        return loss, {"loss": loss} | metrics | self._constants(prepared)

    def _constants(self, prepared: Prepared) -> dict[str, Array]:
        """Means of what enters the loss without a gradient."""
        metrics = {}
        if self.corrections:
            kept = jnp.where(prepared.mean > 0, prepared.correction, 0.0)
            metrics["correction"] = (prepared.mean * kept).sum()
        if self.reference_point is not None:
            metrics["reference_point"] = (prepared.row_mean * prepared.offset).sum()
        return metrics

    def _weights(self, batch: Batch) -> tuple[Array, Array]:
        """Weights of per-token and of per-row losses, those of the rows included."""
        weight = self.aggregation.weights(batch.mask)
        row_weight = self.aggregation.row_weights(batch.mask)
        if batch.weight is None:
            return weight, row_weight
        own = batch.weight
        if isinstance(self.link, PairLink):
            # the loss of a pair has one weight: the product of its rows' (as WPO)
            own = jnp.broadcast_to(own.prod(-1, keepdims=True), own.shape)
        return weight * own[..., None], row_weight * own

    def _offset(self, batch: Batch, signal: Array) -> Array:
        """Reference points [P, G] of the implicit rewards, constants."""
        if self.reference_point is None:
            return jnp.zeros_like(batch.mask[..., 0])
        rows = jnp.ones(batch.mask.shape[:2], bool)

        def measured(anchor):
            log_u = token_log_ratio(given(batch, "current"), batch, anchor, rows)
            if self.ratio is not None:
                log_u = self.ratio(log_u, signal, batch.mask)
            return at_level(log_u, batch.mask, self.level)

        return jax.lax.stop_gradient(self.reference_point(batch, signal, measured))

    def _corrected(self, streams: Streams, prepared: Prepared) -> Prepared:
        stop, correction = jax.lax.stop_gradient, prepared.correction
        for each in self.corrections:
            if each.local:
                held = stop(streams)
                value = each(prepared.batch, prepared.signal, held)
                correction = correction * stop(value)
        return dataclasses.replace(prepared, correction=correction)

    def _with_reward_penalty(self, batch: Batch) -> Batch:
        """r <- r - w f'(u), u = old/reference over the sequence: k1 in the reward.

        For signals of token rewards u is the token's own and r the token's.
        """
        penalty = self.penalty
        if penalty is None or penalty.estimator != "in_reward":
            return batch
        rows = jnp.ones(batch.mask.shape[:2], bool)
        level = "token" if self.signal.token_rewards else "sequence"
        log_u = log_ratio(given(batch, "old"), batch, "reference", level, rows)
        if not isinstance(penalty.divergence, ReverseKL):  # log u itself needs no bound
            log_u, _ = clamped(log_u, "reference", self.bound)
        cost = penalty.weight * penalty.divergence.f_prime(log_u)
        rewards = given(batch, "rewards")
        if level == "token":
            rewards = at_the_end(rewards, batch.mask)
            cost = jnp.where(batch.mask > 0, cost, 0.0)
        return dataclasses.replace(batch, rewards=rewards - cost)

    def _penalise(self, penalty, streams, prepared, rows):
        batch, metrics = prepared.batch, {}
        if penalty.estimator == "exact":
            policy = stream(streams, "vocab")
            reference = given(batch, "reference_vocab")
            value = exact_divergence(penalty.divergence, policy, reference)
        else:
            hits = []

            def log_u(anchor, level):
                ratio = log_ratio(streams.policy, batch, anchor, level, rows)
                own = anchor == "reference" and penalty.clamp is not None
                ratio, hit = clamped(ratio, anchor, None if own else self.bound)
                if hit is not None:
                    hits.append(hit if level == "token" else hit[..., None])
                return ratio if level == "token" else ratio[..., None]

            reference = log_u("reference", "token")
            if penalty.estimator == "in_reward":
                value = penalty.divergence.f_prime(reference)
                return 0.0, {"penalty": (prepared.mean * value).sum()}
            value = penalty.per_token(
                reference,
                lambda: log_u(penalty.over, penalty.importance),
                streams.policy,
                batch.mask,
            )
            if hits:
                touched = sum(hits[1:], hits[0]) > 0
                share = (prepared.mean * touched).sum()
                metrics["penalty_clamp_share"] = share
        cost = penalty.weight * (prepared.weight * value).sum()
        return cost, metrics | {"penalty": (prepared.mean * value).sum()}


def at_present(objective, logps: Array | Streams, batch: Batch) -> Batch:
    """`batch` with what the policy says now, as constants, where it is needed."""
    streams = logps if isinstance(logps, Streams) else Streams(policy=logps)
    filled = {}
    for name, source in (("current", "policy"), ("current_entropy", "entropy")):
        value = getattr(streams, source)
        missing = name in objective.needs and getattr(batch, name) is None
        if missing and value is not None:
            filled[name] = jax.lax.stop_gradient(value)
    return dataclasses.replace(batch, **filled)


def _value_gauge(objective: Objective, streams: Streams, batch: Batch) -> Array | float:
    """V(s_t) - V(s_t+1) of the gauge; adding it back to -phi gives the + V(s_1)."""
    if objective.gauge == "zero":
        return 0.0
    if objective.gauge == "vocabulary":
        return _vocabulary_correction(objective, streams, batch)
    value = stream(streams, "lse")
    if objective.gauge == "lsediff":
        value = value - given(batch, "reference_lse")
    return telescoped(objective.beta * value, batch.mask)


def _vocabulary_correction(objective, streams: Streams, batch: Batch) -> Array:
    """-c(s_t), c(s) = beta (E_pi[f'(u)] - D_f(pi || ref)) = beta E_ref[f*(f'(u))]."""
    policy = stream(streams, "vocab")
    reference = given(batch, "reference_vocab")
    f = objective.divergence
    log_u, _ = clamped(policy - reference, "reference", objective.bound)
    mean = (jnp.exp(policy) * f.f_prime(log_u)).sum(-1)
    excess = mean - exact_divergence(f, policy, reference)
    return jnp.where(batch.mask > 0, -objective.beta * excess, 0.0)


def _sampled(batch: Batch) -> Batch:
    """Demonstrations whose sampler's probability is not known: it is taken as 1."""
    if batch.behavior is None:
        return batch
    known = jnp.where(jnp.isnan(batch.behavior), 0.0, batch.behavior)
    return dataclasses.replace(batch, behavior=known)


def _decided_pairs(batch: Batch, signal: Array) -> Batch:
    """Empty the pairs that compare nothing: an empty response, or a tie."""
    whole = (batch.mask.sum(-1) > 0).all(-1) & (signal[..., 0] != 0).all(-1)
    mask = jnp.where(whole[:, None, None], batch.mask, 0.0)
    return dataclasses.replace(batch, mask=mask)


def _scored_rows(batch: Batch, signal: Signal) -> Batch:
    """Empty the rows without a reward: A = 0 would be a target, not no information."""
    rewards = batch.rewards
    if rewards is None or rewards.ndim != 2 or "rewards" not in signal.needs:
        return batch
    mask = jnp.where(jnp.isfinite(rewards)[..., None], batch.mask, 0.0)
    return dataclasses.replace(batch, mask=mask)
