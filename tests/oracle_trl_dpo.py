"""The DPO losses of TRL 1.16 written out in numpy, float64.

Independent of the library. Options carry TRL's names; log-probs are [2N, T], rows
0..N-1 the chosen responses. `at` holds the policy log-probs at which detached
quantities are evaluated: a central difference in `policy_logps` is then the gradient.
"""

import math
from typing import Any

import numpy as np

DEFAULTS: dict[str, Any] = {
    "loss_type": ["sigmoid"],
    "loss_weights": None,
    "beta": 0.1,
    "label_smoothing": 0.0,
    "f_divergence_type": "reverse_kl",
    "ld_alpha": None,
    "use_weighting": False,
    "discopop_tau": 0.05,
}
TAKES_A_DIVERGENCE = {
    *("sigmoid", "sigmoid_norm", "hinge", "ipo"),
    *("exo_pair", "robust", "discopop", "sft"),
}


def masked(x, mask):
    """x in float64 with zeros outside the mask, whatever stood there."""
    return np.where(np.asarray(mask) != 0, np.asarray(x, np.float64), 0.0)


def log_sigmoid(x):
    """log(1 / (1 + e^-x))."""
    return -np.logaddexp(0.0, -x)


def sigmoid(x):
    """1 / (1 + e^-x), exact in both tails."""
    return np.exp(log_sigmoid(x))


def halves(x):
    """The chosen rows and the rejected rows."""
    return np.split(np.asarray(x), 2)


def smoothed(x, eps):
    """-(1-e) log sig(x) - e log sig(-x)."""
    return -(1 - eps) * log_sigmoid(x) - eps * log_sigmoid(-x)


def robust(x, eps):
    """[-(1-e) log sig(x) + e log sig(-x)] / (1-2e)."""
    return (-(1 - eps) * log_sigmoid(x) + eps * log_sigmoid(-x)) / (1 - 2 * eps)


def exo(x, log_keep, log_flip):
    """KL of (sig x, sig -x) from (1-e, e), given the two logs of the latter."""
    keep = sigmoid(x) * (log_sigmoid(x) - log_keep)
    return keep + sigmoid(-x) * (log_sigmoid(-x) - log_flip)


def discopop(x, tau):
    """Logistic and exponential losses mixed by sig(x / tau)."""
    m = sigmoid(x / tau)
    return -log_sigmoid(x) * (1 - m) + np.exp(-x) * m


def pair_loss(name, r, beta, eps):
    """The losses of two implicit rewards that take no divergence; r = (r_w, r_l)."""
    w, low = beta * r[0], beta * r[1]
    if name == "nca_pair":
        return -log_sigmoid(w) - 0.5 * log_sigmoid(-w) - 0.5 * log_sigmoid(-low)
    if name == "bco_pair":
        return -log_sigmoid(w) - log_sigmoid(-low)
    if name == "sppo_hard":
        return (r[0] - 0.5 / beta) ** 2 + (r[1] + 0.5 / beta) ** 2
    if name == "aot_unpaired":
        return smoothed(beta * (np.sort(r[0]) - np.sort(r[1])), eps)
    if name == "apo_zero":
        return 1 - sigmoid(w) + sigmoid(low)
    if name == "apo_down":
        return sigmoid(w) + 1 - sigmoid(w - low)
    raise ValueError(name)


def score(r, kind, alpha):
    """f'(e^r) with the constants TRL 1.16 keeps; alpha runs in float32 there."""
    if kind == "reverse_kl":
        return r
    if kind == "forward_kl":
        return 1 - np.exp(-r)
    if kind == "js_divergence":
        return math.log(2) + log_sigmoid(r)
    if kind != "alpha_divergence":
        raise ValueError(kind)
    if abs(alpha - 1) < 1e-6:
        return r
    return np.expm1(np.minimum((alpha - 1) * r, 80.0)) / (alpha - 1)


def length_desensitised(mask, ld_alpha):
    """Token weights: 1 up to the pair's shorter length, `ld_alpha` after it."""
    mask = (np.asarray(mask) != 0).astype(np.float64)
    if ld_alpha is None:
        return mask
    shared = np.minimum(*halves(mask.sum(1)))
    shared = np.concatenate([shared, shared])[:, None]
    return mask * np.where(np.cumsum(mask, 1) <= shared, 1.0, ld_alpha)


def weighted_members(h):
    """(loss name, weight) of each member of `loss_type`; weights default to 1."""
    names = [h["loss_type"]] if isinstance(h["loss_type"], str) else h["loss_type"]
    return list(zip(names, h["loss_weights"] or [1.0] * len(names), strict=True))


def _one_loss(name, h, r, gaps, scores, lengths):
    """Loss per pair of one member of `loss_type`."""
    beta, eps = h["beta"], h["label_smoothing"]
    x = beta * (scores[0] - scores[1])
    averaged = scores[0] / lengths[0] - scores[1] / lengths[1]
    if name == "sigmoid":
        return -log_sigmoid(x)
    if name == "hinge":
        return np.maximum(1 - x, 0.0)
    if name == "ipo":
        return (averaged - 1 / (2 * beta)) ** 2
    if name == "sigmoid_norm":
        return -log_sigmoid(beta * averaged)
    if name == "exo_pair":  # TRL holds the smoothing constant in float32
        keep, flip = np.log1p(-np.float32(eps)), np.log(np.float32(eps))
        return exo(x, float(keep), float(flip))
    if name == "robust":
        return robust(x, eps)
    if name == "discopop":
        return discopop(x, h["discopop_tau"])
    if name == "aot":
        return smoothed(beta * (np.sort(gaps[0]) - np.sort(gaps[1])), eps)
    return pair_loss(name, r, beta, eps)


def dpo(hyper, inputs, at=None):
    """Loss of TRL 1.16: sum over `loss_type` of weight times mean over pairs.

    inputs: policy_logps, ref_logps, mask [2N, T]; log_sum_sq_probs [2N, T] with
    `use_weighting`. An empty row counts as length 1 and ratio 1.
    """
    h = DEFAULTS | {"f_alpha_divergence_coef": 0.5} | dict(hyper)
    members, kind = weighted_members(h), h["f_divergence_type"]
    names = {name for name, _ in members}
    if kind != "reverse_kl" and not names <= TAKES_A_DIVERGENCE:
        raise ValueError(f"{sorted(names)} take no divergence")
    mask, lengths = inputs["mask"], np.asarray(inputs["mask"]).sum(1)
    tokens = masked(inputs["policy_logps"], mask)
    weight = length_desensitised(mask, h["ld_alpha"])
    policy = halves((tokens * weight).sum(1))
    ref = halves((masked(inputs["ref_logps"], mask) * weight).sum(1))
    r = [policy[0] - ref[0], policy[1] - ref[1]]
    scores = [score(x, kind, h["f_alpha_divergence_coef"]) for x in r]
    factor = wpo_weight(inputs, at) if h["use_weighting"] else 1.0
    total = 0.0
    for name, scale in members:
        if name == "sft":
            chosen = halves(np.asarray(mask) != 0)[0]
            losses = -halves(tokens)[0][chosen].mean()
        else:
            gaps = (policy[0] - policy[1], ref[0] - ref[1])
            clamped = halves(np.maximum(lengths, 1))
            losses = _one_loss(name, h, r, gaps, scores, clamped)
        total += scale * np.mean(losses * factor)
    return total


def wpo_weight(inputs, at):
    """Detached weight per pair: exp of the sum of the two rows' aligned means."""
    policy = inputs["policy_logps"] if at is None else at
    gap = np.asarray(policy) - np.asarray(inputs["log_sum_sq_probs"])
    length = np.maximum(np.asarray(inputs["mask"]).sum(1), 1)
    return np.exp(sum(halves(masked(gap, inputs["mask"]).sum(1) / length)))
