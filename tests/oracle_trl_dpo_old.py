"""`DPOTrainer.dpo_loss` of TRL 0.13 to 0.27 written out in numpy, float64.

Its formulas did not change over those versions; 0.21 added lists of losses. They
differ from 1.16 in label smoothing, the alpha-divergence, ipo, bco_pair and WPO.
"""

import math

import numpy as np
from oracle_trl_dpo import (
    DEFAULTS,
    discopop,
    exo,
    halves,
    masked,
    pair_loss,
    robust,
    smoothed,
    weighted_members,
    wpo_weight,
)
from oracle_trl_preference import row_logps


def old_margin(r, kind, alpha, log_max=709.7827):
    """The margin before beta in TRL 0.13-0.27; alpha form (1 - u^-a) / a, capped."""
    if kind == "alpha_divergence":
        w, low = (np.exp(np.minimum(-alpha * x, log_max)) for x in r)
        return (low - w) / alpha
    if kind == "js_divergence":
        soft = np.logaddexp(0.0, r[0]) - np.logaddexp(0.0, r[1])
        return r[0] - r[1] - soft
    if kind != "reverse_kl":
        raise ValueError(kind)
    return r[0] - r[1]


def _old_loss(name, h, margin, policy, ref, delta):
    """Loss per pair; only the losses of the margin honour `reference_free`."""
    beta, eps = h["beta"], h["label_smoothing"]
    x = beta * margin
    r = [policy[0] - ref[0], policy[1] - ref[1]]
    if name == "sigmoid":
        return smoothed(x, eps)
    if name == "robust":
        return robust(x, eps)
    if name == "exo_pair":
        return exo(x, math.log(1 - eps), math.log(eps))
    if name == "hinge":
        return np.maximum(1 - x, 0.0)
    if name == "ipo":
        return (margin - 1 / (2 * beta)) ** 2
    if name == "bco_pair":
        shift = delta / beta
        return pair_loss(name, [r[0] - shift, r[1] - shift], beta, eps)
    if name == "aot":
        gap = np.sort(policy[0] - policy[1]) - np.sort(ref[0] - ref[1])
        return smoothed(beta * gap, eps)
    if name == "discopop":
        return discopop(beta * (r[0] - r[1]), h["discopop_tau"])
    if name.startswith("apo_") and h["reference_free"]:
        return pair_loss(name, policy, beta, eps)
    return pair_loss("aot_unpaired" if name == "aot_pair" else name, r, beta, eps)


def dpo_old(hyper, inputs, at=None):
    """Loss of TRL 0.13-0.27 from token log-probs; sums per row, averages under `ipo`.

    inputs as for `dpo`. `at` freezes the reward mean of bco_pair and WPO's factor;
    `running`, the means of earlier batches, continues bco_pair's. exo_pair without
    smoothing uses 1e-3, for itself and for the members after it. `average` (default:
    ipo in `loss_type`) says whether log-probs are divided by the lengths.
    """
    h = DEFAULTS | {"f_alpha_divergence_coef": 1.0, "reference_free": False}
    h |= {"rpo_alpha": None, "running": []} | dict(hyper)
    members, mask = weighted_members(h), inputs["mask"]
    average = h.get("average", "ipo" in [name for name, _ in members])
    policy = halves(row_logps(inputs["policy_logps"], mask, average))
    ref = halves(row_logps(inputs["ref_logps"], mask, average))
    frozen = policy if at is None else halves(row_logps(at, mask, average))
    zero = [0.0, 0.0] if h["reference_free"] else ref
    margin = old_margin(
        [policy[0] - zero[0], policy[1] - zero[1]],
        h["f_divergence_type"],
        h["f_alpha_divergence_coef"],
    )
    rewards = h["beta"] * (np.concatenate(frozen) - np.concatenate(ref))
    delta = np.mean([*h["running"], np.float32(rewards.mean())])
    chosen = halves(np.asarray(mask) != 0)[0]
    nll = -halves(masked(inputs["policy_logps"], mask))[0][chosen].mean()
    losses = 0.0
    for name, scale in members:
        if name == "exo_pair" and h["label_smoothing"] == 0:
            h["label_smoothing"] = 1e-3
        one = nll if name == "sft" else _old_loss(name, h, margin, policy, ref, delta)
        losses = losses + scale * one
    if h["rpo_alpha"] is not None:
        losses = losses + h["rpo_alpha"] * nll
    if h["use_weighting"]:
        losses = losses * np.minimum(wpo_weight(inputs, at), 1.0)
    return np.mean(losses)
