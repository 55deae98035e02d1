"""TRL 1.16's KTO, CPO, ORPO, SFT and reward-model losses in numpy, float64.

Each function takes the options under TRL's names, the arrays of a case, and `at`, the
policy values at which detached quantities are evaluated (default: the inputs).
"""

import numpy as np
from oracle_trl_dpo import halves, log_sigmoid, masked, sigmoid, smoothed


def kto(hyper, inputs, at=None):
    """KTO and apo_zero_unpaired; z0 from the mismatched rows, clamped at 0.

    inputs: policy_logps, ref_logps, mask [B, T], labels [B], and for kto
    kl_policy_logps, kl_ref_logps, kl_mask. The mean runs over rows, not over weights;
    NaN rows drop out.
    """
    mask = inputs["mask"]
    gap = masked(inputs["policy_logps"], mask) - masked(inputs["ref_logps"], mask)
    r, beta = gap.sum(1), hyper["beta"]
    if hyper["loss_type"] == "kto":
        kl = masked(inputs["kl_policy_logps"], inputs["kl_mask"])
        kl = kl - masked(inputs["kl_ref_logps"], inputs["kl_mask"])
        z = max(kl.sum(1).mean(), 0.0)
        losses = [1 - sigmoid(beta * (r - z)), 1 - sigmoid(beta * (z - r))]
    elif hyper["loss_type"] == "apo_zero_unpaired":
        losses = [1 - sigmoid(beta * r), sigmoid(beta * r)]
    else:
        raise ValueError(hyper["loss_type"])
    weights = hyper["desirable_weight"], hyper["undesirable_weight"]
    good = np.asarray(inputs["labels"]) != 0
    return np.nanmean(np.where(good, weights[0] * losses[0], weights[1] * losses[1]))


def cpo_pairs(hyper, w, low):
    """Loss per pair of CPO, SimPO and AlphaPO from sequence log-probs w and low."""
    beta, eps = hyper["beta"], hyper.get("label_smoothing", 0.0)
    alpha, kind = hyper.get("alpha", 0.0), hyper["loss_type"]
    if alpha:
        w, low = ((1 - np.exp(-alpha * x)) / alpha for x in (w, low))
    x = beta * (w - low)
    if kind in ("simpo", "alphapo"):
        return smoothed(x - hyper["simpo_gamma"], eps)
    if kind == "sigmoid":
        return smoothed(x, eps)
    if kind == "hinge":
        return np.maximum(1 - x, 0.0)
    if kind == "ipo":
        return (w - low - 1 / (2 * beta)) ** 2
    raise ValueError(kind)


def cpo(hyper, inputs, at=None):
    """From token log-probs [2N, T], or from logits with the NLL of the chosen rows.

    ipo and simpo average over tokens (an empty row gives NaN), the others sum.
    """
    kind = hyper["loss_type"]
    average = kind in ("ipo", "simpo", "alphapo")
    if "logits" not in inputs:
        logps, mask = inputs["policy_logps"], inputs["mask"]
        return np.mean(cpo_pairs(hyper, *halves(row_logps(logps, mask, average))))
    logps, mask = label_logps(inputs["logits"], inputs["labels"])
    loss = np.mean(cpo_pairs(hyper, *halves(row_logps(logps, mask, average))))
    weight = 0.0 if kind == "alphapo" else hyper["cpo_alpha"]
    if weight == 0:
        return loss
    return loss - weight * halves(logps)[0][halves(mask)[0]].mean()


def row_logps(logps, mask, average):
    """Sum over the mask, or its mean (0/0 where a row is empty)."""
    sums = masked(logps, mask).sum(1)
    return sums / np.asarray(mask).sum(1) if average else sums


def label_logps(logits, labels):
    """log p(labels[t] | before t) [B, S-1] and where labels[t] != -100."""
    logits = np.asarray(logits, np.float64)[:, :-1]
    labels = np.asarray(labels)[:, 1:]
    logps = log_softmax(logits)
    picked = np.take_along_axis(logps, np.maximum(labels, 0)[..., None], 2)[..., 0]
    return picked, labels != -100


def log_softmax(logits):
    """Normalised over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def orpo(hyper, inputs, at=None):
    """-beta mean log sig(log odds ratio), plus the chosen rows' NLL given logits.

    The odds use length-averaged log-probs of the labels; the NLL covers every attended
    chosen token, prompt and response.
    """
    if "logits" in inputs:
        logps, mask = label_logps(inputs["logits"], inputs["labels"])
        attended = np.where(inputs["attention_mask"] == 1, inputs["input_ids"], -100)
        tokens, where = label_logps(inputs["logits"], attended)
        nll = -halves(tokens)[0][halves(where)[0]].mean()
    else:
        logps, mask, nll = inputs["policy_logps"], inputs["mask"], 0.0
    w, low = halves(row_logps(logps, mask, average=True))
    odds = (w - low) - (np.log(-np.expm1(w)) - np.log(-np.expm1(low)))
    return nll - hyper["beta"] * np.mean(log_sigmoid(odds))


def sft(hyper, inputs, at=None):
    """nll or dft over `num_items_in_batch` (None: the mask's tokens), at least 1.

    With `label_smoothing_factor` from logits and unshifted labels: the smoothing term
    spreads over the vocabulary and the denominator is not clamped.
    """
    count = hyper["num_items_in_batch"]
    if "logits" in inputs:
        return _smoothed_nll(hyper["label_smoothing_factor"], count, inputs)
    mask = np.asarray(inputs["mask"])
    logps = masked(inputs["policy_logps"], mask)
    if hyper["loss_type"] == "dft":
        frozen = inputs["policy_logps"] if at is None else at
        logps = logps * np.exp(masked(frozen, mask))
    return -logps.sum() / max(mask.sum() if count is None else count, 1)


def _smoothed_nll(eps, count, inputs):
    """(1-e) NLL + e mean over the vocabulary of -log p, per counted token."""
    picked, where = label_logps(inputs["logits"], inputs["labels"])
    logps = log_softmax(np.asarray(inputs["logits"], np.float64)[:, :-1])
    count = where.sum() if count is None else count
    spread = logps.mean(-1)[where].sum()
    return -((1 - eps) * picked[where].sum() + eps * spread) / count


def reward_model(hyper, inputs, at=None):
    """Bradley-Terry on scores [2N, 1] with an optional margin [N] and centering."""
    w, low = halves(np.asarray(inputs["scores"], np.float64).reshape(-1))
    loss = -np.mean(log_sigmoid(w - low - inputs.get("margin", 0.0)))
    coefficient = hyper["center_rewards_coefficient"]
    if coefficient is None:
        return loss
    return loss + coefficient * np.mean((w + low) ** 2)
