"""verl 0.9.1's policy losses, aggregation and KL penalties, in numpy alone.

Rows of B responses by T tokens, float64. A loss reads the log-probs twice: `policy`,
which is differentiated, and `fixed`, what stands under a stop-gradient (the same
numbers when it is None). `gradient` passes a complex step through `policy` alone, so
its error is that of rounding. Numbers outside the mask are never read.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray
Tokens = dict[str, Any]


def clip(x, low, high):
    """min(max(x, low), high); complex numbers are ordered by their real part."""
    return np.minimum(np.maximum(x, low), high)


def magnitude(x):
    """|x| with the derivative sign(x), for real numbers carried as complex ones."""
    return x * np.sign(np.real(x))


def masked_mean(x, mask, axis=None):
    """sum / (count + 1e-8): verl's metrics and whitening, not its losses."""
    return np.where(mask > 0, x, 0).sum(axis) / (mask.sum(axis) + 1e-8)


def gradient(loss: Callable[[Array], Any], at: Array) -> Array:
    """d loss / d at, entry by entry, by complex steps (no cancellation)."""
    out = np.zeros(at.shape)
    for index in np.ndindex(*at.shape):
        moved = at.astype(complex)
        moved[index] += 1e-30j
        out[index] = np.imag(loss(moved)) / 1e-30
    return out


def aggregate(x, mask, agg, loss_scale_factor=None):
    """Scalar of x [B, T]. Rows without tokens leave every sum and count.

    token-mean has no epsilon (an empty batch is 0/0); the row mean divides by the
    row's length + 1e-8; the -norm mode also divides by T, or by the given factor.
    """
    total = np.where(mask > 0, x, 0) * mask
    length = mask.sum(-1)
    rows = (length > 0).sum()
    if agg == "token-mean":
        return total.sum() / mask.sum()
    if agg == "token-sum":
        return total.sum()
    if agg == "seq-mean-token-sum":
        return total.sum() / rows
    if agg == "seq-mean-token-sum-norm":
        return total.sum() / rows / (loss_scale_factor or mask.shape[-1])
    if agg == "seq-mean-token-mean":
        return (total.sum(-1) / (length + 1e-8)).sum() / rows
    raise ValueError(f"agg: {agg} is not one of verl's")


@dataclass(frozen=True)
class Rows:
    """What a per-token loss reads; `delta` and `ratio` clamp at 20 as verl does."""

    policy: Array
    fixed: Array
    old: Array
    adv: Array
    mask: Array
    low: float
    high: float
    cap: float

    @property
    def delta(self):
        return clip(self.policy - self.old, -20, 20)

    @property
    def fixed_ratio(self):
        return np.exp(clip(self.fixed - self.old, -20, 20))

    def surrogates(self, ratio):
        """-A ratio and -A clip(ratio, 1 - low, 1 + high)."""
        band = clip(ratio, 1 - self.low, 1 + self.high)
        return -self.adv * ratio, -self.adv * band


def vanilla(rows: Rows, **_) -> tuple[Array, Tokens]:
    """PPO's clip; where A < 0 the loss is at most -A cap (dual clip)."""
    free, held = rows.surrogates(np.exp(rows.delta))
    worst, floor = np.maximum(free, held), -rows.adv * rows.cap
    x = np.where(rows.adv < 0, np.minimum(floor, worst), worst)
    lower = (np.real(worst) > floor) & (rows.adv < 0)
    return x, {
        "pg_clipfrac": np.real(held) > np.real(free),
        "pg_clipfrac_lower": lower,
        "ppo_kl": -rows.delta,
    }


def gspo(rows: Rows, **_) -> tuple[Array, Tokens]:
    """GSPO-token: the sequence-mean ratio's value, the token log-prob's gradient."""
    length = np.maximum(rows.mask.sum(-1, keepdims=True), 1)
    mean = ((rows.fixed - rows.old) * rows.mask).sum(-1, keepdims=True) / length
    log_ratio = np.minimum(rows.policy - rows.fixed + mean, 10)
    free, held = rows.surrogates(np.exp(log_ratio))
    return np.maximum(free, held), {
        "pg_clipfrac": np.real(held) > np.real(free),
        "pg_clipfrac_lower": np.zeros_like(rows.old),
        "ppo_kl": rows.old - rows.policy,
    }


def sapo(rows: Rows, tau_pos=1.0, tau_neg=1.05, **_) -> tuple[Array, Tokens]:
    """-A (4/tau) sigmoid(tau (ratio - 1)), tau by the sign of A."""
    tau = np.where(rows.adv > 0, tau_pos, tau_neg)
    gate = 4 / tau / (1 + np.exp(-tau * (np.exp(rows.delta) - 1)))
    none = np.zeros_like(rows.old)
    return -gate * rows.adv, {
        "pg_clipfrac": none,
        "pg_clipfrac_lower": none,
        "ppo_kl": -rows.delta,
    }


def cispo(rows: Rows, **_) -> tuple[Array, Tokens]:
    """-sg(clip(ratio, 1 - low, 1 + high)) A log pi: both sides are clipped."""
    weight = clip(rows.fixed_ratio, 1 - rows.low, 1 + rows.high)
    return -weight * rows.adv * rows.policy, {
        "pg_clipfrac": weight != rows.fixed_ratio,
        "pg_clipfrac_lower": np.zeros_like(rows.old),
        "ppo_kl": -rows.delta,
    }


def gpg(rows: Rows, **_) -> tuple[Array, Tokens]:
    """-A log pi."""
    return -rows.adv * rows.policy, {}


def dro(rows: Rows, dro_beta, **_) -> tuple[Array, Tokens]:
    """-A log pi + beta/2 (log pi/old)^2, the log-ratio not clamped."""
    delta = rows.policy - rows.old
    return -rows.adv * rows.policy + dro_beta / 2 * delta**2, {"ppo_kl": -delta}


def _dppo(rows: Rows, valid) -> tuple[Array, Tokens]:
    weight = np.minimum(rows.fixed_ratio, rows.cap) * valid
    return -rows.adv * weight * rows.policy, {
        "pg_clipfrac": 1.0 - valid,
        "pg_clipfrac_lower": (rows.fixed_ratio > rows.cap) * valid,
        "ppo_kl": -rows.delta,
    }


def dppo_tv(rows: Rows, **_) -> tuple[Array, Tokens]:
    """-A sg(min(ratio, cap)) log pi on tokens with p - q <= high, or >= -low."""
    gap = np.exp(rows.fixed) - np.exp(rows.old)
    return _dppo(rows, np.where(rows.adv > 0, gap <= rows.high, gap >= -rows.low))


def dppo_kl(rows: Rows, **_) -> tuple[Array, Tokens]:
    """As dppo_tv with the KL of (q, 1 - q) from (p, 1 - p); 1e-8 in both logs."""
    p, q = np.exp(rows.fixed), np.exp(rows.old)
    rest = np.log((1 - q + 1e-8) / (1 - p + 1e-8))
    kl = q * (rows.old - rows.fixed) + (1 - q) * rest
    up = (kl <= rows.high) | (p <= q)
    down = (kl <= rows.low) | (p >= q)
    return _dppo(rows, np.where(rows.adv > 0, up, down))


def clip_cov(
    rows: Rows,
    clip_cov_ratio=2e-4,
    clip_cov_lb=1.0,
    clip_cov_ub=5.0,
    dropped=None,
    **_,
) -> tuple[Array, Tokens]:
    """PPO's clip with some tokens of high covariance dropped.

    verl draws them at random among the candidates; without `dropped` [B, T] the
    number drawn must be all of them.
    """
    free, held = rows.surrogates(np.exp(rows.policy - rows.old))
    cov = rows.adv - masked_mean(rows.adv, rows.mask)
    cov = cov * (rows.fixed - masked_mean(rows.fixed, rows.mask))
    open_ = (rows.mask > 0) & (np.real(held) <= np.real(free))
    candidates = open_ & (cov > clip_cov_lb) & (cov < clip_cov_ub)
    count = max(int(clip_cov_ratio * rows.mask.sum()), 1)
    if dropped is None and candidates.sum() > count:
        raise ValueError("clip_cov: the draw is random; pass `dropped`")
    gone = candidates if dropped is None else dropped
    return np.maximum(free, held) * ~gone, {
        "pg_clipfrac": gone,
        "ppo_kl": rows.old - rows.policy,
    }


def kl_cov(rows: Rows, kl_cov_ratio=2e-4, ppo_kl_coef=0.1, **_):
    """-A ratio, plus coef |log-ratio| on the tokens of largest covariance; no clip."""
    delta, inside = rows.policy - rows.old, rows.mask > 0
    adv, logp = rows.adv[inside], rows.fixed[inside]
    cov = np.full(rows.mask.shape, -np.inf)
    cov[inside] = (adv - adv.mean()) * (logp - logp.mean())
    count = max(1, int(len(adv) * kl_cov_ratio))
    top = np.zeros(cov.size, bool)
    top[np.argsort(-cov, axis=None, kind="stable")[:count]] = True
    penalty = ppo_kl_coef * magnitude(delta) * top.reshape(cov.shape)
    return -rows.adv * np.exp(delta) + penalty, {"ppo_kl": magnitude(delta)}


def geo_mean(rows: Rows, is_weights=None) -> tuple[Array, Tokens]:
    """GMPO per row: -A exp(mean_t clipped log-ratio); the clip is one-sided in log."""
    count = rows.mask.sum(-1) + 1e-8
    delta, sign = rows.policy - rows.old, np.sign(rows.adv)
    band = clip(delta, -rows.low, rows.high)
    kept = sign * np.minimum(sign * delta, sign * band)
    ratio = np.exp((kept * rows.mask).sum(-1) / count)
    loss = -(rows.adv * rows.mask).sum(-1) / count * ratio
    if is_weights is not None:
        logs = np.log(np.where(rows.mask > 0, is_weights, 1.0) + 1e-10)
        loss = loss * np.exp((logs * rows.mask).sum(-1) / count)
    outside = np.real(delta) != np.real(band)
    return loss, {
        "pg_clipfrac": outside * (rows.adv > 0),
        "pg_clipfrac_lower": outside * (rows.adv < 0),
        "ppo_kl": -delta,
    }


TOKEN_LOSSES: dict[str, Callable[..., tuple[Array, Tokens]]] = {
    "vanilla": vanilla,
    "gspo": gspo,
    "sapo": sapo,
    "cispo": cispo,
    "gpg": gpg,
    "dro": dro,
    "dppo_tv": dppo_tv,
    "dppo_kl": dppo_kl,
    "clip_cov": clip_cov,
    "kl_cov": kl_cov,
}


def correction_weights(
    log_ratio,
    mask,
    rollout_is="token",
    rollout_is_threshold: float | str = 2.0,
    rollout_is_batch_normalize=False,
):
    """Importance weights [B, T], 0 outside the mask; "lower_upper" zeroes, U clips."""
    if rollout_is == "sequence":
        log_ratio = (log_ratio * mask).sum(-1, keepdims=True) + 0 * log_ratio
    weights = np.exp(clip(log_ratio, -20, 20)) * mask
    low, _, high = str(rollout_is_threshold).rpartition("_")
    if low:
        kept = (weights >= float(low)) & (weights <= float(high))
        weights = weights * kept
    else:
        weights = np.minimum(weights, float(high))
    if rollout_is_batch_normalize:
        mean = masked_mean(weights, mask)
        if rollout_is == "sequence":
            mean = masked_mean(weights, mask, -1)[mask.sum(-1) > 0].mean()
        weights = weights / mean if mean > 1e-8 else weights
    return weights


def rejection_mask(log_ratio, mask, rollout_rs, rollout_rs_threshold):
    """The mask with the rejected tokens or rows cleared; every option must pass."""
    delta = clip(log_ratio, -20, 20)
    tokens = {"k1": -delta, "k2": delta**2 / 2, "k3": np.expm1(delta) - delta}
    options = rollout_rs.split(",")
    bounds = str(rollout_rs_threshold).split(",")
    bounds = bounds * len(options) if len(bounds) == 1 else bounds
    out = mask.copy()
    for option, bound in zip(options, bounds, strict=True):
        level, _, kind = option.strip().rpartition("_")
        stat = tokens[kind]
        if level == "seq_sum":
            stat = (stat * mask).sum(-1, keepdims=True)
        elif level == "seq_mean":
            stat = masked_mean(stat, mask, -1)[:, None]
        elif level == "seq_max":
            stat = np.where(mask > 0, stat, -np.inf).max(-1, keepdims=True)
        low, _, high = bound.rpartition("_")
        if kind == "k1":
            floor = np.log(float(low)) if low else -np.log(float(high))
            out = out * ((stat >= floor) & (stat <= np.log(float(high))))
        else:
            out = out * (stat <= float(high))
    return out


def bypass_mode(rows: Rows, agg, loss_type="ppo_clip", **hyper):
    """`old` is the sampler: PPO's clip, or -A log pi with truncated weights."""
    delta = rows.fixed - rows.old
    mask, rejection = rows.mask, hyper.get("rollout_rs")
    if rejection:
        mask = rejection_mask(delta, mask, rejection, hyper["rollout_rs_threshold"])
    if loss_type == "ppo_clip":
        x, _ = vanilla(replace(rows, mask=mask))
        return aggregate(x, mask, agg)
    x = -rows.adv * rows.policy
    names = ("rollout_is_threshold", "rollout_is_batch_normalize")
    if hyper.get("rollout_is"):
        given = {name: hyper[name] for name in names if name in hyper}
        level = hyper["rollout_is"]
        x = x * correction_weights(delta, rows.mask, level, **given)
    return aggregate(x, mask, agg)


def policy_loss(
    policy_logps,
    old_logps,
    advantages,
    mask,
    mode,
    agg="token-mean",
    clip_low=0.2,
    clip_high=0.2,
    clip_c=3.0,
    is_weights=None,
    fixed=None,
    loss_scale_factor=None,
    **hyper,
) -> tuple[Any, dict[str, float]]:
    """(loss, metrics) of verl's `mode`; the names are those of the recorded cases.

    sapo always aggregates by seq-mean-token-mean and geo_mean by the mean over all
    rows, empty ones included, whatever `agg` says. bypass_mode ignores `is_weights`.
    """
    kept = [np.where(mask > 0, x, 0.0) for x in (policy_logps, old_logps, advantages)]
    policy, old, adv = kept
    fixed = np.real(policy) if fixed is None else np.where(mask > 0, fixed, 0.0)
    rows = Rows(policy, fixed, old, adv, mask, clip_low, clip_high, clip_c)
    if mode == "bypass_mode":
        return bypass_mode(rows, agg, **hyper), {}
    if mode == "geo_mean":
        x, tokens = geo_mean(rows, is_weights)
        loss = x.mean()
    else:
        x, tokens = TOKEN_LOSSES[mode](rows, **hyper)
        x = x if is_weights is None else x * np.where(mask > 0, is_weights, 0.0)
        how = "seq-mean-token-mean" if mode == "sapo" else agg
        loss = aggregate(x, mask, how, loss_scale_factor)
    metrics = {
        f"actor/{name}": float(masked_mean(np.real(value), mask))
        for name, value in tokens.items()
    }
    return loss, metrics


def _kl_value(delta, estimator):
    if estimator in ("k1", "kl"):
        return delta
    if estimator == "abs":
        return magnitude(delta)
    if estimator in ("k2", "mse"):
        return delta**2 / 2
    if estimator in ("k3", "low_var_kl"):
        back = clip(-delta, -20, 20)
        return clip(np.exp(back) - back - 1, -10, 10)
    raise ValueError(f"estimator: {estimator} has no per-token value in verl")


def kl(policy_logps, ref_logps, estimator, fixed=None):
    """KL estimate per token; a trailing + keeps the value and takes k2's gradient."""
    fixed = np.real(policy_logps) if fixed is None else fixed
    if not estimator.endswith("+"):
        return _kl_value(policy_logps - ref_logps, estimator)
    now, then = policy_logps - ref_logps, fixed - ref_logps
    return _kl_value(then, estimator[:-1]) + (now**2 - then**2) / 2


def value_loss(values, old_values, returns, mask, cliprange_value, agg="token-mean"):
    """0.5 max((V - R)^2, (clip(V, V_old +- c) - R)^2), aggregated; and its clipfrac."""
    held = clip(values, old_values - cliprange_value, old_values + cliprange_value)
    free, clipped = (values - returns) ** 2, (held - returns) ** 2
    loss = aggregate(np.maximum(free, clipped), mask, agg) / 2
    return loss, float(masked_mean(np.real(clipped) > np.real(free), mask))
