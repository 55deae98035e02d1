"""TRL 1.16's advantages, sampler correction, A*-PO and JSD distillation in numpy."""

import numpy as np
from oracle_trl_dpo import masked
from oracle_trl_preference import log_softmax

EPS = 1e-4


def nan_mean(x, axis=None):
    """Mean over the valid entries; NaN without any. Kept dimensions."""
    valid = ~np.isnan(x)
    with np.errstate(invalid="ignore"):
        total = np.where(valid, x, 0.0).sum(axis, keepdims=True)
        return total / valid.sum(axis, keepdims=True)


def nan_std(x, axis=None):
    """Sample deviation over the valid entries; NaN below two of them."""
    count = (~np.isnan(x)).sum(axis, keepdims=True)
    square = nan_mean((x - nan_mean(x, axis)) ** 2, axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(square * np.where(count > 1, count / (count - 1.0), np.nan))


def total_reward(rewards, weights):
    """Weighted sum over reward functions [N, K] -> [N]; NaN where none scored."""
    scored = ~np.isnan(rewards)
    total = (np.where(scored, rewards, 0.0) * weights).sum(1)
    return np.where(scored.any(1), total, np.nan)


def weights_of(hyper, rewards):
    """`reward_weights`, ones by default."""
    given = hyper.get("reward_weights")
    return np.ones(rewards.shape[1]) if given is None else np.asarray(given, np.float64)


def grpo_advantages(hyper, inputs, at=None):
    """Group-relative advantages; rows of a group are contiguous, unscored rows get 0.

    sum_then_normalize: total minus the group's mean, over the deviation of the group,
    of the batch, or nothing. normalize_then_sum: each reward is standardised in its
    group, summed, and the sum standardised over the batch; `scale_rewards` is unused.
    """
    rewards = np.asarray(inputs["rewards"], np.float64)
    size, eps = hyper["num_generations"], hyper.get("eps", EPS)
    weights = weights_of(hyper, rewards)
    if hyper["aggregation"] == "sum_then_normalize":
        total = total_reward(rewards, weights)
        groups = total.reshape(-1, size)
        centred = groups - nan_mean(groups, 1)
        if hyper["scale_rewards"] == "group":
            spread = nan_std(groups, 1) if size > 1 else 0.0
            centred = centred / (spread + eps)
        elif hyper["scale_rewards"] == "batch":
            spread = nan_std(total) if total.size > 1 else 0.0
            centred = centred / (spread + eps)
        return np.nan_to_num(centred.reshape(-1), nan=0.0)
    grouped = rewards.reshape(-1, size, rewards.shape[1])
    spread = nan_std(grouped, 1) if size > 1 else 0.0
    scaled = ((grouped - nan_mean(grouped, 1)) / (spread + eps)).reshape(rewards.shape)
    total = np.where(np.isnan(scaled), 0.0, scaled) @ weights
    total = np.where(np.isnan(rewards).all(1), np.nan, total)
    spread = nan_std(total) if total.size > 1 else 0.0
    return np.nan_to_num((total - nan_mean(total)) / (spread + eps), nan=0.0)


def rloo_advantages(hyper, inputs, at=None):
    """Leave-one-out over the scored rows; clip first, then the k1 penalty."""
    rewards = np.asarray(inputs["rewards"], np.float64)
    size, eps = hyper["num_generations"], hyper.get("eps", EPS)
    total = total_reward(rewards, weights_of(hyper, rewards))
    if hyper["reward_clip_range"]:
        total = np.clip(total, *hyper["reward_clip_range"])
    if hyper["beta"] != 0.0:
        gap = masked(inputs["old_logps"], inputs["mask"])
        gap = gap - masked(inputs["ref_logps"], inputs["mask"])
        total = total - hyper["beta"] * gap.sum(1)
    groups = total.reshape(-1, size)
    if size == 1:
        return np.zeros(len(total))
    others = (~np.isnan(groups)).sum(1, keepdims=True) - 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        baseline = (np.nansum(groups, 1, keepdims=True) - groups) / others
    advantages = (groups - baseline).reshape(-1)
    if hyper["normalize_advantages"]:
        centred = advantages - nan_mean(advantages)
        advantages = centred / (nan_std(advantages) + eps)
    return np.nan_to_num(advantages, nan=0.0)


def is_correction(hyper, inputs, at=None):
    """Trainer/sampler weights [B, T] or [B, 1]; an unreported token has ratio 1."""
    gap = np.asarray(inputs["old_logps"], np.float64) - inputs["sampling_logps"]
    gap = np.where(np.isnan(gap), 0.0, masked(gap, inputs["mask"]))
    level, rule = hyper["mode"].split("_")
    ratio = np.exp(gap.sum(1, keepdims=True) if level == "sequence" else gap)
    low = -np.inf if hyper["clip_min"] is None else hyper["clip_min"]
    high = np.inf if hyper["clip_max"] is None else hyper["clip_max"]
    if rule == "truncate":
        return np.clip(ratio, low, high)
    return np.where((ratio < low) | (ratio > high), 0.0, ratio)


def a2po_values(hyper, rewards):
    """V* = beta1 log mean_i exp(r_i / beta1) of rewards [N, num_value_samples]."""
    x = np.asarray(rewards, np.float64) / hyper["beta1"]
    top = x.max(1, keepdims=True)
    return hyper["beta1"] * (top[:, 0] + np.log(np.exp(x - top).mean(1)))


def a2po(hyper, inputs, at=None):
    """mean over rows of (beta2 log policy/ref - (r - V*))^2, one row per prompt.

    inputs: policy_logps, ref_logps, mask [B, T], rewards [B], and v_star [B] or the
    reference's value_rewards [B, num_value_samples].
    """
    gap = masked(inputs["policy_logps"], inputs["mask"])
    gap = gap - masked(inputs["ref_logps"], inputs["mask"])
    value = inputs.get("v_star")
    value = a2po_values(hyper, inputs["value_rewards"]) if value is None else value
    target = np.asarray(inputs["rewards"], np.float64) - value
    return np.mean((hyper["beta2"] * gap.sum(1) - target) ** 2)


def kl_terms(p, q):
    """e^p (p - q) per vocabulary entry."""
    return np.exp(p) * (p - q)


def gkd(hyper, inputs, at=None):
    """GKD's generalised JSD of student and teacher logits [B, T, V], no T^2 factor.

    labels (-100: ignored) are aligned with the logits. batchmean divides by the valid
    tokens, or by B without labels; mean by tokens times V; a count by itself.
    """
    beta, temperature = hyper.get("beta", 0.5), hyper.get("temperature", 1.0)
    student = log_softmax(
        np.asarray(inputs["student_logits"], np.float64) / temperature
    )
    teacher = log_softmax(
        np.asarray(inputs["teacher_logits"], np.float64) / temperature
    )
    if beta == 0:
        jsd = kl_terms(teacher, student)
    elif beta == 1:
        jsd = kl_terms(student, teacher)
    else:
        mix = np.logaddexp(student + np.log1p(-beta), teacher + np.log(beta))
        jsd = beta * kl_terms(teacher, mix) + (1 - beta) * kl_terms(student, mix)
    labels, rows = inputs.get("labels"), len(jsd)
    if labels is not None:
        jsd = jsd[np.asarray(labels) != -100]
        rows = len(jsd)
    if hyper.get("num_items_in_batch") is not None:
        return jsd.sum() / hyper["num_items_in_batch"]
    reduction = hyper.get("reduction", "batchmean")
    if reduction == "batchmean":
        return jsd.sum() / max(rows, 1)
    return {"sum": np.sum, "mean": np.mean}.get(reduction, np.asarray)(jsd)
