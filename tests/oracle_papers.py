"""Losses of supervised and reinforcement papers, in numpy alone, float64.

A loss takes `Data` and its paper's numbers and returns a scalar. `logp` is what is
differentiated; `fixed` is what stands under a stop-gradient. `gradient` passes a
complex step through `logp` alone, so its error is that of rounding. Rows without
tokens leave every sum and every count. Preference losses: `oracle_preferences.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Data:
    """Streams [P, G, T], rewards [P, G]; `behavior` is the sampler's log-prob."""

    logp: Array
    mask: Array
    rewards: Any = None
    old: Any = None
    ref: Any = None
    behavior: Any = None
    fixed: Any = None

    @property
    def length(self):
        return self.mask.sum(-1)

    @property
    def rows(self):
        return (self.length > 0).sum()

    def delta(self, anchor, of="logp"):
        """log pi - log anchor per token, 0 outside the mask."""
        value = getattr(self, of)
        if of == "fixed" and value is None:
            value = np.real(self.logp)
        return np.where(self.mask > 0, value - getattr(self, anchor), 0.0)

    @property
    def held(self):
        """log pi under the stop-gradient, 0 outside the mask."""
        value = np.real(self.logp) if self.fixed is None else self.fixed
        return np.where(self.mask > 0, value, 0.0)

    @property
    def log_pi(self):
        return np.where(self.mask > 0, self.logp, 0.0)


def gradient(loss: Callable[..., Any], data: Data, **hyper) -> Array:
    """d loss / d logp [P, G, T], by complex steps."""
    out = np.zeros(data.logp.shape)
    frozen = replace(data, fixed=data.held)
    for index in np.ndindex(*out.shape):
        moved = data.logp.astype(complex)
        moved[index] += 1e-30j
        out[index] = np.imag(loss(replace(frozen, logp=moved), **hyper)) / 1e-30
    return out


def clip(x, low, high):
    return np.minimum(np.maximum(x, low), high)


def token_mean(x, data):
    return (x * data.mask).sum() / data.mask.sum()


def row_mean(x, data):
    """Mean over the tokens of each row, [P, G]; 0 for a row without tokens."""
    return (x * data.mask).sum(-1) / np.maximum(data.length, 1)


def mean_of_rows(x, data):
    """Mean over rows with tokens of a number per row [P, G]."""
    return np.where(data.length > 0, x, 0.0).sum() / data.rows


def sequence_mean(x, data):
    return mean_of_rows(row_mean(x, data), data)


def group_mean(x, data):
    """Mean over the rows with tokens of each prompt, [P, 1]."""
    full = data.length > 0
    total = np.where(full, x, 0.0).sum(-1, keepdims=True)
    return total / np.maximum(full.sum(-1, keepdims=True), 1)


def advantages(data, kind="zscore", ddof=1, eps=0.0):
    """raw r, mean r - rbar, loo G/(G-1) (r - rbar), zscore (r - rbar)/(std + eps)."""
    if kind == "raw":
        return data.rewards
    centred = data.rewards - group_mean(data.rewards, data)
    count = (data.length > 0).sum(-1, keepdims=True)
    if kind == "mean":
        return centred
    if kind == "loo":
        return centred * count / np.maximum(count - 1, 1)
    inside = np.where(data.length > 0, centred, 0.0)
    variance = (inside**2).sum(-1, keepdims=True) / np.maximum(count - ddof, 1)
    return centred / (np.sqrt(variance) + eps)


def _tokens(adv, data):
    """[P, G] or [P, G, T] advantages as [P, G, T]; z-scores when None."""
    adv = advantages(data) if adv is None else np.asarray(adv)
    return adv[..., None] if adv.ndim == 2 else adv


def surrogate(ratio, adv, low, high):
    """-min(u A, clip(u, 1 - low, 1 + high) A)."""
    return -np.minimum(ratio * adv, clip(ratio, 1 - low, 1 + high) * adv)


def alpha_sft(data, a):
    """(1 - p^a)/a, token mean. a = 0: -log p; a = 1: DFT's gradient. 2510.00526."""
    x = -data.log_pi if a == 0 else (1 - np.exp(a * data.log_pi)) / a
    return token_mean(x, data)


def dft(data):
    """-sg(p) log p, token mean. 2508.05629."""
    return token_mean(-np.exp(data.held) * data.log_pi, data)


def psft(data, low=0.2, high=0.2):
    """PPO's clip on demonstrations, A = 1, ratio to `old`, token mean. 2508.17784."""
    return token_mean(surrogate(np.exp(data.delta("old")), 1.0, low, high), data)


def iw_sft(data, temperature=2.0, cap=16.0):
    """-sg(w) log p, w = clip(exp(temperature mean log pi/ref), 0, cap). 2507.12856."""
    weight = np.exp(temperature * row_mean(data.delta("ref", "fixed"), data))
    return token_mean(-np.minimum(weight, cap)[..., None] * data.log_pi, data)


def gem(logits, labels, mask, beta=0.7, gate="linear", fixed=None):
    """sum_k q_k w_k (log p_k - log p_y), q = sg softmax(z/beta), token mean.

    gate linear: w = 1, whose gradient is q - onehot; log_sigmoid: w = sg
    sigmoid((z_k - z_y)/100). logits [P, G, T, V], labels [P, G, T]. 2408.16673.
    """
    fixed = np.real(logits) if fixed is None else fixed
    scaled = fixed / beta
    q = np.exp(scaled - scaled.max(-1, keepdims=True))
    q = q / q.sum(-1, keepdims=True)
    pick = labels[..., None]
    if gate == "log_sigmoid":
        gap = fixed - np.take_along_axis(fixed, pick, -1)
        q = q / (1 + np.exp(-gap / 100))
    # log p_k - log p_y is the difference of the logits: no normaliser is needed
    x = (q * (logits - np.take_along_axis(logits, pick, -1))).sum(-1)
    return (x * mask).sum() / mask.sum()


def awr(data, tau=1.0, cap=np.inf, kind="mean"):
    """-min(exp(A/tau), cap) log pi, token mean; A = r - rbar. 1910.00177."""
    weight = np.minimum(np.exp(advantages(data, kind) / tau), cap)
    return token_mean(-weight[..., None] * data.log_pi, data)


def ppo(data, adv=None, low=0.2, high=0.2):
    """-min(u A, clip(u) A) to `old`, token mean. 1707.06347."""
    ratio = np.exp(data.delta("old"))
    return token_mean(surrogate(ratio, _tokens(adv, data), low, high), data)


def reinforce_pp(data, kl=0.01, low=0.2, high=0.2, eps=1e-8):
    """PPO's clip with A_t = r - kl sum_{s>=t} log old/ref, whitened over tokens.

    (A - mean)/sqrt(var + eps), ddof 1, over the batch; token mean. 2501.03262.
    """
    log_ratio = np.where(data.mask > 0, data.old - data.ref, 0.0)
    to_go = log_ratio[..., ::-1].cumsum(-1)[..., ::-1]
    adv = data.rewards[..., None] - kl * to_go
    mean = token_mean(adv, data)
    count = data.mask.sum()
    variance = token_mean((adv - mean) ** 2, data) * count / (count - 1)
    return ppo(data, (adv - mean) / np.sqrt(variance + eps), low, high)


def gspo(data, adv=None, low=3e-4, high=4e-4):
    """-min(s A, clip(s) A), s = exp(mean_t log pi/old), mean of rows. 2507.18071."""
    adv = advantages(data) if adv is None else adv
    ratio = np.exp(row_mean(data.delta("old"), data))
    return mean_of_rows(surrogate(ratio, adv, low, high), data)


def cispo(data, adv=None, high=0.28, low=np.inf):
    """-sg(clip(u, 1 - low, 1 + high)) A log pi, token mean. 2506.13585 Eq 4-5."""
    weight = clip(np.exp(data.delta("old", "fixed")), 1 - low, 1 + high)
    return token_mean(-weight * _tokens(adv, data) * data.log_pi, data)


def sapo(data, adv=None, tau_pos=1.0, tau_neg=1.05):
    """-A (4/tau) sigmoid(tau (u - 1)), tau by the sign of A, row means. 2511.20347."""
    adv = _tokens(adv, data)
    tau = np.where(adv > 0, tau_pos, tau_neg)
    gate = 4 / tau / (1 + np.exp(-tau * (np.exp(data.delta("old")) - 1)))
    return sequence_mean(-adv * gate, data)


def gmpo(data, adv=None, low=0.4, high=0.4):
    """-A exp(mean_t d), d = log pi/old clipped one-sidedly by sign(A). 2507.20673.

    A > 0: min(d, high); A < 0: max(d, -low), in log space; mean of rows.
    """
    adv = advantages(data) if adv is None else adv
    delta, up = data.delta("old"), (adv >= 0)[..., None]
    kept = np.where(up, np.minimum(delta, high), np.maximum(delta, -low))
    return mean_of_rows(-adv * np.exp(row_mean(kept, data)), data)


def vespo(data, adv=None, k=(2.0, 3.0), scale=(3.0, 2.0)):
    """-sg(W^k exp(scale (1 - W))) A log pi, W = prod_t pi/old, token mean. 2602.10693.

    (k, scale) by the sign of A (A >= 0 first); token and row log-ratios clamp at 20.
    """
    adv = advantages(data) if adv is None else adv
    tokens = clip(data.delta("old", "fixed"), -20, 20)
    log_w = clip(tokens.sum(-1), -20, 20)
    power, rate = (np.where(adv >= 0, *pair) for pair in (k, scale))
    phi = np.exp(rate + power * log_w - rate * np.exp(log_w))
    return token_mean(-(phi * adv)[..., None] * data.log_pi, data)


def opmd(data, tau=0.5, anchor="old", baseline="mean"):
    """(r - b - tau log pi/anchor)^2 / 2, mean of rows. Kimi k1.5, 2501.12599 Eq 3.

    b = mean r, or "log_mean_exp": tau log mean exp(r/tau). Kimi's has no 1/2.
    """
    base = group_mean(data.rewards, data)
    if baseline == "log_mean_exp":
        base = tau * np.log(group_mean(np.exp(data.rewards / tau), data))
    delta = data.delta(anchor).sum(-1)
    return mean_of_rows((data.rewards - base - tau * delta) ** 2 / 2, data)


def agro(data, beta, ddof=0):
    """Half the group variance of R_b = r - beta log pi/ref, mean of prompts.

    2503.19612. The gradient is -beta (R_b - mean) grad log pi / (G - ddof) per prompt.
    """
    regular = data.rewards - beta * data.delta("ref").sum(-1)
    full = data.length > 0
    gap = np.where(full, regular - group_mean(regular, data), 0.0)
    return ((gap**2).sum(-1) / (full.sum(-1) - ddof)).mean() / 2


def copg(data, beta):
    """-(r_i - r_j) d + beta/2 d^2, d = h_i - h_j, h = log pi/ref; mean of pairs i < j.

    2406.19185. The gradient per pair is -(R_i - R_j)(grad log pi_i - grad log pi_j)
    with R = r - beta h: twice RLOO's on regularised rewards. Rows must have tokens.
    """
    h, r = data.delta("ref").sum(-1), data.rewards
    gap, gain = (x[..., :, None] - x[..., None, :] for x in (h, r))
    first, second = np.triu_indices(r.shape[-1], 1)
    pairs = (-gain * gap + beta / 2 * gap**2)[..., first, second]
    return pairs.mean()


def topr(data, low=0.0, high=1.0):
    """-r log pi where r > 0, -r sg(clip(pi/old, low, high)) log pi where r <= 0.

    Sequence ratio and sum, no baseline, mean of rows; rewards +-1. 2503.14286.
    """
    ratio = clip(np.exp(data.delta("old", "fixed").sum(-1)), low, high)
    weight = np.where(data.rewards > 0, 1.0, ratio)
    return mean_of_rows(-weight * data.rewards * data.log_pi.sum(-1), data)


def asymre(data, shift=-0.1):
    """-(r - (rbar + shift)) sum_t log pi, no ratio, mean of rows. 2506.20520."""
    adv = data.rewards - group_mean(data.rewards, data) - shift
    return mean_of_rows(-adv * data.log_pi.sum(-1), data)


POTENTIALS = {
    "reverse_kl": lambda d: d**2 / 2,
    "forward_kl": lambda d: d + np.exp(-d) - 1,
    "squared_hellinger": lambda d: d + 2 * np.exp(-d / 2) - 2,
}


def f_tb(data, beta, divergence="reverse_kl"):
    """K_f(d), d = log pi/ref - r/beta + log Z, mean of rows. 2605.15417.

    log Z by VarGrad: sg of the group mean of r/beta - log pi/ref (2503.18929, whose
    loss is d^2). reverse_kl: K = d^2/2, half the group variance of d.
    """
    target = data.rewards / beta
    log_z = group_mean(target - data.delta("ref", "fixed").sum(-1), data)
    residual = data.delta("ref").sum(-1) - target + log_z
    return mean_of_rows(POTENTIALS[divergence](residual), data)


def sampler_weights(data, level="token", cap=2.0, rule="truncate", floor=0.0):
    """old/behavior per token, or its product over the row, as [P, G, T].

    truncate: min(w, cap). mask: w where floor <= w <= cap, else 0. none: w.
    """
    log_w = np.where(data.mask > 0, data.old - data.behavior, 0.0)
    if level == "sequence":
        log_w = log_w.sum(-1, keepdims=True) + 0 * log_w
    weight = np.exp(log_w)
    if rule == "mask":
        return weight * ((weight >= floor) & (weight <= cap))
    return np.minimum(weight, cap) if rule == "truncate" else weight


def corrected_ppo(data, adv=None, low=0.2, high=0.2, **weights):
    """w times PPO's clip to `old`, token mean; w of `sampler_weights`.

    TIS: truncate at 2. MIS and IcePop: mask. Decoupled PPO (2110.00641 Eq 5, with
    `old` the proximal policy; 2505.24298 Eq 5): rule="none", level="token".
    """
    ratio = np.exp(data.delta("old"))
    x = surrogate(ratio, _tokens(adv, data), low, high)
    return token_mean(sampler_weights(data, **weights) * x, data)
