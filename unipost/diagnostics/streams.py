"""Ratios and distances of the policy to what sampled the tokens and to the reference.

On the policy's own tokens (those not flagged off-policy), with w = policy/behavior and
u = policy/reference per token, means over tokens:

    k1_behavior   mean -log w           k1_reference   mean log u
    k3_behavior   mean w - 1 - log w    k3_reference   mean 1/u - 1 + log u
    chi2_behavior mean w^2 - 1          chi2_reference mean u - 1
    ess_behavior  (sum w)^2 / (n sum w^2), and the same of w multiplied over a row

The tokens are drawn from the behaviour, so these estimate KL(behavior || policy) and
chi^2(policy || behavior); k1 and k3 to the reference estimate KL(policy || reference)
and chi2 chi^2(policy || reference), while the tokens are nearly the policy's own.
Sources: Schulman, Approximating KL Divergence (2020); Kong, 1992, for the ESS.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from unipost.batch import Batch, Prepared, Streams
from unipost.diagnostics.tallies import Tally
from unipost.fitting import implicit_reward
from unipost.links import Link
from unipost.mixture import Mixture
from unipost.objective import Objective
from unipost.objectives import Trainable
from unipost.scalar.objective import ScalarObjective
from unipost.score import CLAMP
from unipost.signals import Ones, Zeros
from unipost.special import expm1m

Array = jax.Array
SEEN = ("mask", "off_policy", "old", "behavior", "reference")


def watched(objective: Trainable, batch: Batch) -> Batch | None:
    """The arrays of a batch that `tally` reads; None for a scalar head.

    The streams are taken where somebody sampled the rows: where there is an old or a
    behaviour stream. Of other rows a distance to the reference would be no estimate.
    """
    if isinstance(objective, ScalarObjective):
        return None
    names = SEEN if _sampled(batch) else SEEN[:2]
    return Batch(**{name: getattr(batch, name) for name in names})


def extras(seen: Batch | None) -> tuple[str, ...]:
    """Streams beside the policy's that `tally` reads."""
    return () if seen is None or not _sampled(seen) else ("entropy",)


def _sampled(batch: Batch) -> bool:
    return batch.old is not None or batch.behavior is not None


def tally(
    objective: Trainable, streams: Streams, prepared: Any, seen: Batch | None
) -> Tally:
    """Sums over a batch, or over any slice of it along P; `merge` adds them.

    `prepared` is what the objective prepared, `seen` what `watched` gave. Log-ratios
    of tokens are taken within +-20, so that every number stays finite in float32.
    """
    if seen is None:
        return {}
    streams, prepared = jax.lax.stop_gradient((streams, prepared))
    found = _margin(objective, streams, prepared)
    if not _sampled(seen):
        return found
    own = _own(seen)
    found |= _ratio(objective, streams.policy, prepared, seen, own)
    if streams.entropy is not None:
        kept = seen.mask > 0
        found["entropy_sum"] = jnp.where(kept, streams.entropy, 0.0).sum()
        found["entropy_count"] = _count(kept)
    if seen.behavior is not None:
        found |= _behavior(streams.policy, seen, own)
    if seen.reference is not None:
        known = own & ~jnp.isnan(seen.reference)
        log_u = _log_ratio(streams.policy, seen.reference, known)
        sums = {"k1": log_u, "k3": expm1m(-log_u), "chi2": jnp.expm1(log_u)}
        found |= {f"reference_{k}": _over(known, x) for k, x in sums.items()}
        found["reference_count"] = _count(known)
    return found


def finished(found: Tally) -> Tally:
    """The metrics of a tally, all finite.

    What has no token to be measured on gets the value of an on-policy step: ratios
    and effective sample sizes 1, everything else 0.
    """
    out = {}
    if "ratio_count" in found:
        some = found["ratio_count"] > 0
        mean = _mean(found, "ratio_sum", "ratio_count")
        ratios = {k: jnp.exp(found[k]) for k in ("ratio_min", "ratio_max")}
        ratios["ratio_mean"] = mean
        out |= {name: jnp.where(some, x, 1.0) for name, x in ratios.items()}
    if "entropy_sum" in found:
        out["entropy"] = _mean(found, "entropy_sum", "entropy_count")
    for side in ("behavior", "reference"):
        if f"{side}_count" in found:
            for name in ("k1", "k3", "chi2"):
                number = _mean(found, f"{side}_{name}", f"{side}_count")
                out[f"{name}_{side}"] = number
    if "behavior_count" in found:
        out["ess_behavior"] = _effective(found, "token", "behavior_count")
        out["ess_behavior_sequence"] = _effective(found, "row", "row_count")
        out["sampler_gap"] = _mean(found, "gap_sum", "behavior_count")
        out["sampler_gap_max"] = jnp.maximum(found["gap_max"], 0.0)
    if "up_sum" in found:
        both = (found["up_count"] > 0) & (found["down_count"] > 0)
        up, down = (_mean(found, f"{x}_sum", f"{x}_count") for x in ("up", "down"))
        out["margin"] = jnp.where(both, up - down, 0.0)
    return out


def _mean(found: Tally, total: str, count: str) -> Array:
    return found[total] / jnp.maximum(found[count], 1.0)


def _effective(found: Tally, unit: str, count: str) -> Array:
    """(sum w)^2 / (n sum w^2) from the logs of the two sums."""
    some = found[count] > 0
    first = jnp.where(some, found[f"{unit}_weight_log"], 0.0)
    second = jnp.where(some, found[f"{unit}_square_log"], 0.0)
    share = jnp.exp(2.0 * first - second) / jnp.maximum(found[count], 1.0)
    return jnp.where(some, jnp.minimum(share, 1.0), 1.0)


def _own(seen: Batch) -> Array:
    """Which tokens [P, G, T] the policy, or an earlier one, has sampled."""
    own = seen.mask > 0
    off = seen.off_policy
    if off is None:
        return own
    return own & ~((off > 0) if off.ndim == 3 else (off > 0)[..., None])


def _count(kept: Array) -> Array:
    return kept.sum(dtype=jnp.result_type(float))


def _over(kept: Array, values: Array) -> Array:
    return jnp.where(kept, values, 0.0).sum()


def _log_ratio(policy: Array, other: Array, kept: Array) -> Array:
    """log(policy/other) within +-20 where `kept`, else 0."""
    return jnp.clip(jnp.where(kept, policy - other, 0.0), -CLAMP, CLAMP)


def _log_sum(log_w: Array, kept: Array) -> Array:
    """log of the sum of w where `kept`; -inf where nothing is."""
    return jax.nn.logsumexp(jnp.where(kept, log_w, -jnp.inf))


def _behavior(policy: Array, seen: Batch, own: Array) -> Tally:
    """Sums over the tokens that the sampler reported, and the rows of such tokens."""
    given = jnp.asarray(seen.behavior)
    known = own & jnp.isfinite(given)
    log_w = _log_ratio(policy, given, known)
    rows = own.any(-1) & (known == own).all(-1)
    log_row = log_w.sum(-1)
    # the trainer before the updates; where it has no such stream, the policy as it is
    trainer = policy if seen.old is None else jnp.asarray(seen.old)
    gap = jnp.abs(_log_ratio(trainer, given, known))
    sums = {"k1": -log_w, "k3": expm1m(log_w), "chi2": jnp.expm1(2.0 * log_w)}
    found = {f"behavior_{k}": _over(known, x) for k, x in sums.items()}
    return found | {
        "behavior_count": _count(known),
        "row_count": _count(rows),
        "token_weight_log": _log_sum(log_w, known),
        "token_square_log": _log_sum(2.0 * log_w, known),
        "row_weight_log": _log_sum(log_row, rows),
        "row_square_log": _log_sum(2.0 * log_row, rows),
        "gap_sum": gap.sum(),
        "gap_max": jnp.max(gap, initial=-jnp.inf),
    }


def _ratio(
    objective: Trainable, policy: Array, prepared: Any, seen: Batch, own: Array
) -> Tally:
    """The ratio that the link sees, or policy/old, or policy/behavior, per token.

    Of the first term whose score has a snapshot as its anchor, at the level of that
    score, clamped as it is and not yet clipped.
    """
    for term, piece in each_term(objective, prepared):
        if isinstance(term, Objective) and term.anchor in ("old", "behavior"):
            rows = own.any(-1)
            log_u, _ = term.log_u(policy, piece.batch, piece.signal, rows)
            kept = (piece.batch.mask > 0) & rows[..., None]
            kept = kept & own if term.level == "token" else kept.any(-1)
            kept = kept & ~jnp.isnan(log_u)
            return _ratio_sums(jnp.where(kept, log_u, 0.0), kept)
    snapshot = jnp.asarray(seen.behavior if seen.old is None else seen.old)
    kept = own & jnp.isfinite(snapshot)
    return _ratio_sums(_log_ratio(policy, snapshot, kept), kept)


def _ratio_sums(log_u: Array, kept: Array) -> Tally:
    log_u = jnp.clip(log_u, -CLAMP, CLAMP)
    return {
        "ratio_sum": _over(kept, jnp.exp(log_u)),
        "ratio_count": _count(kept),
        "ratio_min": jnp.where(kept, log_u, jnp.inf).min(),
        "ratio_max": jnp.where(kept, log_u, -jnp.inf).max(),
    }


def _margin(objective: Trainable, streams: Streams, prepared: Any) -> Tally:
    """Sums of the implicit reward of units with A > 0 and of units with A < 0.

    Of the first term that has a signed signal; a pair link has a margin of its own.
    """
    for term, piece in each_term(objective, prepared):
        if not isinstance(term, Objective) or not isinstance(term.link, Link):
            continue
        if isinstance(term.signal, Ones | Zeros):
            continue
        return _margin_sums(term, streams, piece)
    return {}


def _margin_sums(term: Objective, streams: Streams, piece: Prepared) -> Tally:
    batch = piece.batch
    kept = batch.mask > 0
    policy = jnp.where(kept, streams.policy, 0.0)
    rows = kept.any(-1)
    if term.off_policy is not None and batch.off_policy is not None:
        rows = rows & (_own(batch).any(-1))
    z, _ = implicit_reward(term, policy, piece, rows)
    signal = piece.signal
    if term.level == "token":
        kept = kept & rows[..., None]
    else:
        kept, signal = rows, signal[..., 0]
    found = {}
    for name, side in (("up", signal > 0), ("down", signal < 0)):
        found[f"{name}_sum"] = _over(kept & side, z)
        found[f"{name}_count"] = _count(kept & side)
    return found


def each_term(objective: Trainable, prepared: Any) -> list[tuple[Any, Any]]:
    """Every term with its own prepared batch."""
    if isinstance(objective, Mixture):
        return list(zip(objective.terms, prepared, strict=True))
    return [(objective, prepared)]
