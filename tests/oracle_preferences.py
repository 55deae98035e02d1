"""Losses of preference papers, in numpy alone, float64.

Pairs are `Data` of shape [P, 2, T]: row 0 chosen, row 1 rejected. h = sum_t log pi/ref
per row, z = beta (h_w - h_l). Every loss is the mean over pairs.
"""

import numpy as np
from oracle_papers import Data, clip, mean_of_rows, row_mean


def log_sigmoid(x):
    """Stable log sigmoid, also for numbers carried as complex ones."""
    negative = np.real(x) < 0
    return np.where(negative, x, 0) - np.log1p(np.exp(np.where(negative, x, -x)))


def sigmoid(x):
    return np.exp(log_sigmoid(x))


def rewards(data: Data, beta):
    """beta h of the chosen and of the rejected, [P] each."""
    h = beta * data.delta("ref").sum(-1)
    return h[:, 0], h[:, 1]


def margin(data: Data, beta):
    chosen, rejected = rewards(data, beta)
    return chosen - rejected


def dpo(data, beta=0.1):
    """-log sigmoid(z). 2305.18290 Eq 7."""
    return -log_sigmoid(margin(data, beta)).mean()


def cdpo(data, beta=0.1, smoothing=0.1):
    """-(1 - e) log sigmoid(z) - e log sigmoid(-z): flipped labels with rate e."""
    z = margin(data, beta)
    e = smoothing
    return (-(1 - e) * log_sigmoid(z) - e * log_sigmoid(-z)).mean()


def robust_dpo(data, beta=0.1, smoothing=0.1):
    """[-(1 - e) log sigmoid(z) + e log sigmoid(-z)] / (1 - 2e). 2403.00409."""
    z = margin(data, beta)
    e = smoothing
    return ((-(1 - e) * log_sigmoid(z) + e * log_sigmoid(-z)) / (1 - 2 * e)).mean()


def hinge(data, beta=0.1):
    """max(0, 1 - z): SLiC on log-ratios. 2305.10425, RSO 2309.06657."""
    return np.maximum(0, 1 - margin(data, beta)).mean()


def ipo(data, tau=0.1, length="sequence"):
    """(h_w - h_l - 1/(2 tau))^2; sequence_mean divides each h by its length."""
    delta = data.delta("ref")
    h = delta.sum(-1) if length == "sequence" else row_mean(delta, data)
    return ((h[:, 0] - h[:, 1] - 1 / (2 * tau)) ** 2).mean()


def exo_pair(data, beta=0.1, smoothing=1e-3):
    """KL((q, 1-q) || (1-e, e)), q = sigmoid(z). 2402.00856 Eq 17."""
    z = margin(data, beta)
    win = sigmoid(z) * (log_sigmoid(z) - np.log(1 - smoothing))
    lose = sigmoid(-z) * (log_sigmoid(-z) - np.log(smoothing))
    return (win + lose).mean()


def chi_po(data, beta=0.1, r_max=None):
    """-log sigmoid(clip(beta (phi(u_w) - phi(u_l)), +-2 r_max)), phi(u) = u + log u.

    u = exp(h). None: no clip. The gradient outside the clip is 0. 2407.13399 Eq 9.
    """
    h = data.delta("ref").sum(-1)
    phi = beta * (np.exp(h) + h)
    z = phi[:, 0] - phi[:, 1]
    return -log_sigmoid(z if r_max is None else clip(z, -2 * r_max, 2 * r_max)).mean()


def simpo(data, beta=2.0, gamma=1.0):
    """-log sigmoid(beta (mean log pi_w - mean log pi_l) - gamma). 2405.14734 Eq 6."""
    mean = row_mean(data.log_pi, data)
    return -log_sigmoid(beta * (mean[:, 0] - mean[:, 1]) - gamma).mean()


def orpo(data, weight=0.1):
    """Mean NLL of the chosen - weight log sigmoid(log odds ratio). 2403.07691.

    odds = p/(1 - p), log p the mean log-prob of a row; both terms per pair.
    """
    mean = row_mean(data.log_pi, data)
    odds = mean - np.log(-np.expm1(mean))
    ratio = -log_sigmoid(odds[:, 0] - odds[:, 1])
    return (-mean[:, 0] + weight * ratio).mean()


def nca(data, beta=0.01, alpha=0.01):
    """-sum_i [w_i log sigmoid(R_i) + log sigmoid(-R_i)/K], w = softmax(r/alpha).

    K rows per prompt with explicit rewards, R = beta h. 2402.05369 Eq 11.
    """
    own = beta * data.delta("ref").sum(-1)
    weight = np.exp((data.rewards - data.rewards.max(-1, keepdims=True)) / alpha)
    weight = weight / weight.sum(-1, keepdims=True)
    both = weight * log_sigmoid(own) + log_sigmoid(-own) / own.shape[-1]
    return -both.sum(-1).mean()


def info_nca(data, beta=0.01, alpha=0.01):
    """-sum_i w_i log softmax(R)_i, w = softmax(r/alpha); DPO for a hard pair."""
    own = beta * data.delta("ref").sum(-1)
    weight = np.exp((data.rewards - data.rewards.max(-1, keepdims=True)) / alpha)
    weight = weight / weight.sum(-1, keepdims=True)
    top = np.real(own).max(-1, keepdims=True)
    normaliser = top + np.log(np.exp(own - top).sum(-1, keepdims=True))
    return -(weight * (own - normaliser)).sum(-1).mean()


def nca_pair(data, beta=0.01):
    """-log sigmoid(R_w) - (log sigmoid(-R_w) + log sigmoid(-R_l))/2."""
    chosen, rejected = rewards(data, beta)
    pull = -log_sigmoid(chosen)
    return (pull - (log_sigmoid(-chosen) + log_sigmoid(-rejected)) / 2).mean()


def sppo(data, eta=1000.0, win=1.0, lose=0.0):
    """Mean of rows of (h - eta (P - 1/2))^2, P the row's win rate. 2405.00675 Eq 4.7.

    Hard labels by default. Per pair this is half of TRL's sum (its eta is 1/beta).
    """
    h = data.delta("ref").sum(-1)
    target = eta * (np.stack([win + 0 * h[:, 0], lose + 0 * h[:, 1]], -1) - 0.5)
    return ((h - target) ** 2).mean()


def apo_zero(data, beta=0.1):
    """1 - sigmoid(R_w) + sigmoid(R_l). 2408.06266."""
    chosen, rejected = rewards(data, beta)
    return (1 - sigmoid(chosen) + sigmoid(rejected)).mean()


def apo_down(data, beta=0.1):
    """sigmoid(R_w) + 1 - sigmoid(R_w - R_l). 2408.06266."""
    chosen, rejected = rewards(data, beta)
    return (sigmoid(chosen) + 1 - sigmoid(chosen - rejected)).mean()


def kto_point(mismatched: Data):
    """z0 = max(0, mean of h over mismatched rows): a constant of the loss."""
    return max(
        0.0, float(mean_of_rows(np.real(mismatched.delta("ref").sum(-1)), mismatched))
    )


def kto(data, desirable, point, beta=0.1, weight_desirable=1.0, weight_undesirable=1.0):
    """lambda_D (1 - sigmoid(beta (h - z0))) or lambda_U (1 - sigmoid(beta (z0 - h))).

    desirable [P, G] bool, z0 of `kto_point`; mean of rows. 2402.01306 Eq 8.
    """
    gap = beta * (data.delta("ref").sum(-1) - point)
    good, bad = weight_desirable * sigmoid(-gap), weight_undesirable * sigmoid(gap)
    return mean_of_rows(np.where(desirable, good, bad), data)


def wpo_weights(data, log_sum_squares):
    """Per row, exp(mean_t [log pi - log sum_v pi_v^2]), a constant. 2406.11827.

    log_sum_squares [P, 2, T]; a pair weighs the product of its rows.
    """
    return np.exp(row_mean(data.held - log_sum_squares, data))


def ld_dpo(data, beta=0.1, alpha=0.5):
    """DPO with tokens past the shorter length of the pair weighed alpha. 2409.06411."""
    shared = data.length.min(-1)[:, None, None]
    beyond = data.mask.cumsum(-1) > shared
    h = (data.delta("ref") * np.where(beyond, alpha, 1.0)).sum(-1)
    return -log_sigmoid(beta * (h[:, 0] - h[:, 1])).mean()
