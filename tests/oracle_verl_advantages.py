"""verl 0.9.1's advantage estimators, in numpy alone.

Inputs are [B, T] (rewards per token, mask) and [B] (group ids). Each estimator
returns (advantages, returns), both [B, T]. Outcome scores sum a row's rewards over
every column; groups of one follow verl, which treats them differently by estimator.
"""

from collections.abc import Callable

import numpy as np
from oracle_verl import masked_mean

Array = np.ndarray
Pair = tuple[Array, Array]


def whiten(x, mask):
    """(x - mean) / sqrt(var + 1e-8), ddof 1, over the tokens of the whole batch."""
    count = mask.sum()
    if count < 2:
        raise ValueError("whiten: fewer than two tokens")
    centred = x - masked_mean(x, mask)
    variance = masked_mean(centred**2, mask) * count / (count - 1)
    return centred / np.sqrt(variance + 1e-8)


def reward_to_go(rewards, mask, gamma=1.0):
    """R_t = r_t + gamma R_t+1; tokens outside the mask are stepped over."""
    out, running = np.zeros_like(rewards), np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        new = rewards[:, t] + gamma * running
        out[:, t] = new * mask[:, t]
        running = np.where(mask[:, t] > 0, new, running)
    return out


def groups(group_ids):
    """The row indices of each group."""
    return [np.flatnonzero(group_ids == g) for g in np.unique(group_ids)]


def _spread(scores, mask) -> Pair:
    advantages = scores[:, None] * mask
    return advantages, advantages


def _baseline(scores, group_ids, mean=np.mean):
    """One baseline per row; 0 in a group of one."""
    out = np.zeros_like(scores)
    for rows in groups(group_ids):
        out[rows] = mean(scores[rows]) if len(rows) > 1 else 0.0
    return out


def grpo(rewards, mask, group_ids, eps=1e-6, **_) -> Pair:
    """(s - mean) / (std + eps), ddof 1; a group of one has mean 0 and std 1."""
    scores = rewards.sum(-1)
    std = np.ones_like(scores)
    for rows in groups(group_ids):
        std[rows] = np.std(scores[rows], ddof=1) if len(rows) > 1 else 1.0
    return _spread((scores - _baseline(scores, group_ids)) / (std + eps), mask)


def grpo_nostd(rewards, mask, group_ids, **_) -> Pair:
    """s - mean; a group of one keeps s."""
    scores = rewards.sum(-1)
    return _spread(scores - _baseline(scores, group_ids), mask)


def grpo_passk(rewards, mask, group_ids, eps=1e-6, **_) -> Pair:
    """(best - second) / (std + eps) for the best row of a group, 0 for the others."""
    scores = rewards.sum(-1)
    out = np.zeros_like(scores)
    for rows in groups(group_ids):
        if len(rows) < 2:
            raise ValueError("grpo_passk: a group of one")
        first, second = rows[np.argsort(-scores[rows], kind="stable")[:2]]
        out[first] = scores[first] - scores[second]
        out[first] /= np.std(scores[rows], ddof=1) + eps
    return _spread(out, mask)


def gdpo(rewards, mask, group_ids, components=None, weights=None, **hyper) -> Pair:
    """sum_k w_k grpo_k, whitened over the tokens; one component: the rewards."""
    parts = [rewards] if components is None else components
    weights = np.ones(len(parts)) if weights is None else weights
    pairs = [grpo(part, mask, group_ids, **hyper) for part in parts]
    total = sum(w * pair[0] for w, pair in zip(weights, pairs, strict=True))
    advantages = whiten(total, mask) * mask
    return advantages, advantages


def rloo(rewards, mask, group_ids, **_) -> Pair:
    """G/(G-1) (s - mean); a group of one keeps its score."""
    scores = rewards.sum(-1)
    out = scores.copy()
    for rows in groups(group_ids):
        size = len(rows)
        if size > 1:
            centred = scores[rows] - scores[rows].mean()
            out[rows] = centred * size / (size - 1)
    return _spread(out, mask)


def rloo_vectorized(rewards, mask, group_ids, **_) -> Pair:
    """As rloo, but 0 for a group of one."""
    lonely = np.ones(len(rewards))
    for rows in groups(group_ids):
        lonely[rows] = len(rows) > 1
    advantages = rloo(rewards, mask, group_ids)[0] * lonely[:, None]
    return advantages, advantages


def opo(rewards, mask, group_ids, **_) -> Pair:
    """s - sum(length s) / sum(length)."""
    scores, length = rewards.sum(-1), mask.sum(-1)
    base = np.zeros_like(scores)
    for rows in groups(group_ids):
        if len(rows) > 1:
            base[rows] = (length * scores)[rows].sum() / length[rows].sum()
    return _spread(scores - base, mask)


def gpg(rewards, mask, group_ids, f_norm=1.0, **_) -> Pair:
    """alpha (s - mean) / f_norm, alpha = rows / rows with a score other than 0."""
    scores = rewards.sum(-1)
    alpha = len(scores) / max(np.count_nonzero(scores), 1)
    return _spread(alpha * (scores - _baseline(scores, group_ids)) / f_norm, mask)


def reinforce_plus_plus(rewards, mask, gamma=1.0, **_) -> Pair:
    """Discounted reward-to-go, whitened over the tokens."""
    returns = reward_to_go(rewards, mask, gamma)
    return whiten(returns, mask) * mask, returns


def reinforce_plus_plus_baseline(rewards, mask, group_ids, **_) -> Pair:
    """s - group mean on every token, whitened over the tokens."""
    centred = grpo_nostd(rewards, mask, group_ids)[0]
    advantages = whiten(centred, mask) * mask
    return advantages, advantages


def remax(rewards, mask, reward_baselines, **_) -> Pair:
    """Reward-to-go minus the greedy response's reward."""
    returns = (rewards * mask)[:, ::-1].cumsum(-1)[:, ::-1]
    return returns - reward_baselines[:, None] * mask, returns


def gae(rewards, values, mask, gamma=1.0, lam=1.0, **_) -> Pair:
    """GAE, stepping over tokens outside the mask; whitened. Compare under the mask.

    Returns are the unwhitened advantages plus the values.
    """
    out = np.zeros_like(rewards)
    after = running = np.zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        inside = mask[:, t] > 0
        delta = rewards[:, t] + gamma * after - values[:, t]
        running = np.where(inside, delta + gamma * lam * running, running)
        after = np.where(inside, values[:, t], after)
        out[:, t] = running
    return whiten(out, mask), out + values


def _tail(baseline, lengths, rows):
    """verl's handle_zero_tail: no baseline where only the longest row is left."""
    order = np.sort(lengths[rows])
    if order[-1] > order[-2]:
        longest = rows[np.argmax(lengths[rows])]
        baseline[longest, int(order[-2]) :] = 0.0


def optimal_token_baseline(
    rewards,
    mask,
    group_ids,
    old_log_probs,
    sum_pi_squared,
    rollout_is_weights=None,
    **_,
) -> Pair:
    """G_t - sum_i G_t W_t / sum_i W_t per column, W_t = sum_{j<=t} |score_j|^2.

    |score|^2 = 1 - 2 pi + sum pi^2, times the squared importance weight if given.
    Its columns are those of the padded batch; the tail rule counts tokens.
    """
    returns = (rewards * mask)[:, ::-1].cumsum(-1)[:, ::-1]
    energy = 1 - 2 * np.exp(old_log_probs) + sum_pi_squared
    energy = energy * (1.0 if rollout_is_weights is None else rollout_is_weights**2)
    path = np.where(mask > 0, energy, 0.0).cumsum(-1) * mask
    lengths, baseline = mask.sum(-1), np.zeros_like(returns)
    for rows in groups(group_ids):
        if len(rows) < 2:
            continue
        weighted = (returns[rows] * path[rows]).sum(0)
        baseline[rows] = weighted / (path[rows].sum(0) + 1e-8)
        _tail(baseline, lengths, rows)
    return (returns - baseline) * mask, returns


def tir_optimal_token_baseline(
    rewards,
    mask,
    group_ids,
    old_log_probs,
    sum_pi_squared,
    rollout_is_weights=None,
    **_,
) -> Pair:
    """The same after packing each row's tokens to the left; rows without any drop."""
    returns = (rewards * mask)[:, ::-1].cumsum(-1)[:, ::-1]
    order = np.argsort(mask <= 0, axis=-1, kind="stable")
    full = mask.sum(-1) > 0

    def pack(x):
        return np.take_along_axis(x, order, -1)[full]

    weights = np.ones_like(mask) if rollout_is_weights is None else rollout_is_weights
    packed = optimal_token_baseline(
        pack(rewards * mask),
        pack(mask),
        group_ids[full],
        pack(old_log_probs),
        pack(sum_pi_squared),
        pack(weights),
    )[0]
    out = np.zeros_like(returns)
    spread = np.zeros_like(packed)
    np.put_along_axis(spread, order[full], packed, -1)
    out[full] = spread
    return out * mask, returns


ESTIMATORS: dict[str, Callable[..., Pair]] = {
    "gae": gae,
    "grpo": grpo,
    "grpo_nostd": grpo_nostd,
    "grpo_vectorized": grpo,
    "gdpo": gdpo,
    "grpo_passk": grpo_passk,
    "reinforce_plus_plus": reinforce_plus_plus,
    "reinforce_plus_plus_baseline": reinforce_plus_plus_baseline,
    "rloo": rloo,
    "rloo_vectorized": rloo_vectorized,
    "opo": opo,
    "remax": remax,
    "gpg": gpg,
    "optimal_token_baseline": optimal_token_baseline,
    "tir_optimal_token_baseline": tir_optimal_token_baseline,
}


def advantages(estimator, token_level_rewards, mask, group_ids, **hyper) -> Pair:
    """(advantages, returns) of verl's `estimator`; names as in the recorded cases."""
    return ESTIMATORS[estimator](
        token_level_rewards, mask=mask, group_ids=group_ids, **hyper
    )
