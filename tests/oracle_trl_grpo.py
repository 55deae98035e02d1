"""TRL 1.16's GRPO, GMPO and RLOO losses written out in numpy, float64.

Options carry TRL's names; log-probs and mask are [B, T], advantages [B] or [B, T].
`at` holds the policy log-probs at which detached quantities are evaluated.
"""

import math

import numpy as np
from oracle_trl_dpo import masked, sigmoid

CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
BY_WINDOW = ("dapo", "cispo", "vespo")
LOG_FLOOR = math.log(1e-8)


def row_mean(x, mask):
    """Mean over the mask of each row; 0 for an empty row."""
    return (x * mask).sum(1) / np.maximum(mask.sum(1), 1.0)


def column(advantages):
    """[B] or [B, T] as something that broadcasts over tokens."""
    a = np.asarray(advantages, np.float64)
    return a[:, None] if a.ndim == 1 else a


def quantile_float32(x, q):
    """Linear-interpolation quantile with float32 values, rank and result."""
    x = np.sort(np.asarray(x, np.float32))
    rank = np.float32(q) * np.float32(len(x) - 1)
    low, high = x[int(np.floor(rank))], x[int(np.ceil(rank))]
    t = np.float32(rank - np.floor(rank))
    return low + t * (high - low) if t < 0.5 else high - (high - low) * (1 - t)


def high_entropy(hyper, inputs, mask):
    """The tokens at or above the (1 - top_entropy_quantile) quantile of the batch."""
    kept = hyper.get("top_entropy_quantile", 1.0)
    if kept >= 1.0:
        return mask
    entropies = np.asarray(inputs["entropies"], np.float64)
    active = entropies[mask != 0]
    if active.size == 0:
        return mask
    return mask * (entropies >= np.float64(quantile_float32(active, 1 - kept)))


def policy_terms(inputs, mask, at):
    """Policy log-probs, the same frozen at `at`, and log policy/old (on-policy: 0)."""
    policy = masked(inputs["policy_logps"], mask)
    frozen = policy if at is None else masked(at, mask)
    old = masked(inputs["old_logps"], mask) if "old_logps" in inputs else frozen
    return policy, frozen, policy - old


def k3(policy, inputs, mask):
    """exp(ref - policy) - (ref - policy) - 1 per token."""
    gap = masked(inputs["ref_logps"], mask) - policy
    return np.expm1(gap) - gap


def vespo_weight(hyper, inputs, log_ratio, a, mask):
    """phi(w) = exp(l + k log w - l w) of the product ratio, importance ratio inside."""
    log_w = (np.clip(log_ratio, -20.0, 20.0) * mask).sum(1, keepdims=True)
    if "importance_sampling_ratio" in inputs:
        with np.errstate(divide="ignore"):
            extra = np.log(np.asarray(inputs["importance_sampling_ratio"], np.float64))
        log_w = log_w + np.clip(extra, LOG_FLOOR, 20.0).sum(1, keepdims=True)
    log_w = np.clip(log_w, LOG_FLOOR, 20.0)
    k_pos, l_pos, k_neg, l_neg = (np.float64(np.float32(v)) for v in hyper["vespo"])
    k = np.where(a >= 0, k_pos, k_neg)
    rate = np.maximum(np.where(a >= 0, l_pos, l_neg), 1e-4)
    phi = np.exp(rate + k * log_w - rate * np.exp(log_w))
    return np.nan_to_num(phi, nan=0.0, posinf=0.0, neginf=0.0)


def token_loss(hyper, inputs, mask, terms, a):
    """Policy loss per token [B, T] or [B, 1] before masks and weights; the ratio."""
    policy, frozen, log_ratio = terms
    frozen_log = frozen - (policy - log_ratio)
    if hyper["importance_sampling_level"] == "sequence":
        ratio = np.exp(row_mean(log_ratio, mask))[:, None]
        detached = np.exp(row_mean(frozen_log, mask))[:, None]
    else:
        ratio, detached = np.exp(log_ratio), np.exp(frozen_log)
    kind = hyper["loss_type"]
    if kind == "cispo":
        return -np.minimum(detached, hyper["epsilon_high"]) * a * policy, ratio
    if kind in CLIPPED:
        bounds = 1 - hyper["epsilon_low"], 1 + hyper["epsilon_high"]
        capped = ratio if hyper["delta"] is None else np.minimum(ratio, hyper["delta"])
        return -np.minimum(capped * a, np.clip(ratio, *bounds) * a), ratio
    if kind == "sapo":  # TRL holds the temperatures in float32
        pos, neg = hyper["sapo_temperature_pos"], hyper["sapo_temperature_neg"]
        t = np.where(a > 0, np.float32(pos), np.float32(neg)).astype(np.float64)
        return -sigmoid(t * (ratio - 1)) * 4 / t * a, ratio
    if kind != "vespo":
        raise ValueError(kind)
    return -vespo_weight(hyper, inputs, frozen_log, a, mask) * a * policy, ratio


def kept_rows(threshold, inputs, terms, a, mask):
    """Off-policy sequence mask: A >= 0, or the row's mean log sampler/policy is low."""
    policy, frozen, log_ratio = terms
    sampler = inputs.get("sampling_logps", policy - log_ratio)
    gap = np.nan_to_num(np.asarray(sampler) - frozen, nan=0.0)
    drift = row_mean(np.where(mask != 0, gap, 0.0), mask)[:, None]
    return (a >= 0) | (drift <= threshold)


def aggregate(hyper, x, mask):
    """Tokens to the micro-batch's loss; accumulation factors only in training."""
    train, kind = hyper["mode"] == "train", hyper["loss_type"]
    accumulation = hyper["gradient_accumulation_steps"] if train else 1.0
    x = np.broadcast_to(x, mask.shape) * mask
    if kind in BY_WINDOW:
        window = max(hyper["num_items_in_batch"], 1.0)
        if train:
            window = window * accumulation / hyper["steps_per_generation"]
        return x.sum() / window
    if kind in ("grpo", "sapo"):
        loss = row_mean(x, mask).mean()
    elif kind == "bnpo":
        loss = x.sum() / max(mask.sum(), 1.0)
    elif kind == "dr_grpo":
        loss = x.sum() / (len(x) * hyper["max_completion_length"])
    else:
        loss = x.sum(1).mean()
    return loss / accumulation


def grpo(hyper, inputs, at=None):
    """Every loss_type of GRPOTrainer with its masks, weights, KL and entropy bonus.

    inputs: policy_logps, mask, advantages; old_logps unless on-policy; ref_logps with
    beta; entropies with a bonus or a quantile; importance_sampling_ratio [B, T] or
    [B, 1]. Masks and weights act on the policy loss, never on the KL or a denominator.
    """
    mask = np.asarray(inputs["mask"], np.float64)
    a, terms = column(inputs["advantages"]), policy_terms(inputs, mask, at)
    loss, ratio = token_loss(hyper, inputs, mask, terms, a)
    if hyper.get("off_policy_mask_threshold") is not None:
        threshold = hyper["off_policy_mask_threshold"]
        loss = loss * kept_rows(threshold, inputs, terms, a, mask)
    selected = high_entropy(hyper, inputs, mask)
    if hyper.get("top_entropy_quantile", 1.0) < 1.0:
        loss = loss * selected
    weighted = "importance_sampling_ratio" in inputs and hyper["loss_type"] != "vespo"
    if weighted:
        loss = loss * np.asarray(inputs["importance_sampling_ratio"], np.float64)
    if hyper["beta"] != 0.0:
        kl = k3(terms[0], inputs, mask)
        kl = kl * ratio if hyper["use_bias_correction_kl"] else kl
        loss = loss + hyper["beta"] * kl
    total = aggregate(hyper, loss, mask)
    if hyper.get("entropy_coef", 0.0) == 0.0:
        return total
    entropies = masked(inputs["entropies"], mask)
    bonus = (entropies * selected).sum() / max(selected.sum(), 1.0)
    train = hyper["mode"] == "train"
    bonus = bonus / (hyper["gradient_accumulation_steps"] if train else 1.0)
    return total - hyper["entropy_coef"] * bonus


def gmpo(hyper, inputs, at=None):
    """Geometric mean of token ratios clipped in log space on the side A's sign asks.

    An empty row has ratio 1 and counts. Options of GRPO not named here are ignored.
    """
    mask = np.asarray(inputs["mask"], np.float64)
    policy, _, log_ratio = policy_terms(inputs, mask, at)
    a = np.asarray(inputs["advantages"], np.float64)
    clipped = np.clip(log_ratio, -hyper["epsilon_low"], hyper["epsilon_high"])
    low, high = np.minimum(log_ratio, clipped), np.maximum(log_ratio, clipped)
    chosen = np.where(a[:, None] > 0, low, high)
    loss = -np.exp(row_mean(chosen, high_entropy(hyper, inputs, mask))) * a
    if hyper["beta"] != 0.0:
        loss = loss + hyper["beta"] * row_mean(k3(policy, inputs, mask), mask)
    train = hyper["mode"] == "train"
    return loss.mean() / (hyper["gradient_accumulation_steps"] if train else 1.0)


def rloo_loss(hyper, inputs, at=None):
    """-min(u A, clip(u) A), u the ratio of whole sequences; mean over all rows."""
    gap = masked(inputs["policy_logps"], inputs["mask"])
    gap = gap - masked(inputs["old_logps"], inputs["mask"])
    ratio, a = np.exp(gap.sum(1)), np.asarray(inputs["advantages"], np.float64)
    bounds = 1 - hyper["epsilon_low"], 1 + hyper["epsilon_high"]
    return np.mean(-np.minimum(ratio * a, np.clip(ratio, *bounds) * a))
