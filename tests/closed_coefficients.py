"""Gradient coefficients written out from the papers, in numpy, for tests.

GC with grad L = -sum_it w_it GC_it grad log pi(y_t | s_t), w the weight of the unit.
Sources: 2402.03300 section 5.2 and appendix A, and the papers named by the presets.
"""

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


class View:
    """The streams of a batch as numpy: zeros outside the mask, log-ratios, lengths."""

    def __init__(self, streams, batch):
        self.kept = np.asarray(batch.mask) > 0
        self.policy = np.where(self.kept, streams.policy, 0.0)
        self.pi = np.exp(self.policy)
        self.n = self.kept.sum(-1)
        self.rows = self.n > 0
        self.rewards = np.asarray(batch.rewards)
        self.batch = batch

    def log_ratio(self, name):
        return np.where(self.kept, self.policy - getattr(self.batch, name), 0.0)

    def u(self, name):
        return np.exp(self.log_ratio(name))

    def total(self, name):
        return self.log_ratio(name).sum(-1)

    def mean(self, name):
        return self.total(name) / np.maximum(self.n, 1)

    def advantage(self, kind, eps=1e-6):
        """[P, G, 1] over the non-empty rows of every group."""
        found = np.zeros(self.rewards.shape)
        for p, (rewards, rows) in enumerate(zip(self.rewards, self.rows, strict=True)):
            r = rewards[rows]
            if len(r) == 0 or r.max() == r.min():
                continue
            centred = r - r.mean()
            if kind == "z":
                centred = centred / (r.std(ddof=1) + eps)
            if kind == "others":
                centred = centred * len(r) / (len(r) - 1)
            found[p, rows] = centred
        return found[..., None]

    def signs(self):
        """+1 for the chosen row of a pair, -1 for the rejected one."""
        sign = np.sign(self.rewards[:, :1] - self.rewards[:, 1:])
        return np.concatenate([sign, -sign], 1)

    def pairs(self):
        """Pairs [P, 1, 1] with two responses."""
        return self.rows.all(-1)[:, None, None]

    def margin(self, z):
        return (self.signs() * z).sum(-1, keepdims=True)


def clip_mask(advantage, u, low, high):
    gone = ((advantage > 0) & (u > 1 + high)) | ((advantage < 0) & (u < 1 - low))
    return np.where(gone, 0.0, advantage * u)


def demonstrations(name, v):
    match name:
        case "sft":
            return np.ones(v.kept.shape)
        case "dft":
            return v.pi
        case "alpha_sft":
            return v.pi**0.5
        case "psft":
            return np.where(v.u("old") <= 1.2, v.u("old"), 0.0)
        case "iw_sft":
            return np.minimum(np.exp(v.mean("reference")) ** 2, 16.0)[..., None]
        case "f_sft":
            return 0.5 * np.maximum(1 - 0.25 * v.log_ratio("reference"), 0.0)


def preferences(name, v):
    sign = v.signs()[..., None]
    d = v.total("reference")
    match name:
        case "dpo":
            return (sign * 0.1 * sigmoid(-v.margin(0.1 * d))[..., None]) * v.pairs()
        case "f_dpo":
            u = np.exp(d)
            m = v.margin(0.1 * np.log(2 * u / (1 + u)))
            return sign * (0.1 * sigmoid(-m) / (1 + u))[..., None] * v.pairs()
        case "ipo":
            return sign * 2 * (5 - v.margin(d))[..., None] * v.pairs()
        case "simpo":
            mean = v.policy.sum(-1) / np.maximum(v.n, 1)
            weight = 2 * sigmoid(1 - v.margin(2 * mean)) / np.maximum(v.n, 1)
            return sign * weight[..., None] * v.pairs()
        case "sppo":
            target = np.where(v.signs() > 0, 5.0, -5.0)
            return 2 * (target - d)[..., None] * v.pairs()
        case "orpo":
            length = np.maximum(v.n, 1)
            p = np.where(v.rows, np.exp(v.policy.sum(-1) / length), 0.5)
            m = v.margin(np.log(p / (1 - p)))
            pull = v.signs() * sigmoid(-m) / ((1 - p) * length) * v.pairs()[..., 0]
            tokens = v.kept.sum()
            chosen = (sign > 0) & v.kept
            nll = chosen * tokens / chosen.sum()
            return nll + 0.1 * tokens / v.pairs().sum() * pull[..., None]


def rewards(name, v):
    z, raw = v.advantage("z"), v.rewards[..., None]
    match name:
        case "reinforce":
            return np.broadcast_to(raw, v.kept.shape)
        case "grpo":
            kl = 0.04 * (1 / v.u("reference") - 1)
            return clip_mask(z, v.u("old"), 0.2, 0.2) + kl
        case "dr_grpo":
            kl = 0.1 * (1 / v.u("reference") - 1)
            return clip_mask(v.advantage("mean"), v.u("old"), 0.2, 0.2) + kl
        case "dapo":
            return clip_mask(z, v.u("old"), 0.2, 0.28)
        case "gspo":
            s = np.exp(v.mean("old"))[..., None]
            return clip_mask(z, s, 0.05, 0.05) / np.maximum(v.n, 1)[..., None]
        case "cispo":
            return z * np.minimum(v.u("old"), 1.05)
        case "sapo":
            u, tau = v.u("old"), np.where(z > 0, 1.0, 1.05)
            gate = sigmoid(tau * (u - 1))
            return z * 4 * gate * (1 - gate) * u
        case "vespo":
            w = np.exp(v.total("old"))[..., None]
            up, down = w**2 * np.exp(3 * (1 - w)), w**3 * np.exp(2 * (1 - w))
            return z * np.where(z >= 0, up, down)
        case "kto":
            mismatched = np.asarray(v.batch.mismatched)[v.rows]
            point = max(0.0, np.nanmean(mismatched))
            x = 0.5 * (v.total("reference") - point)
            label = np.where(v.rewards > 0, 1.0, -0.7)
            return (0.5 * label * sigmoid(x) * sigmoid(-x))[..., None]


def off_policy(name, v):
    mean, raw = v.advantage("mean"), v.rewards[..., None]
    match name:
        case "awr":
            return np.minimum(np.exp(mean), 1.5)
        case "opmd":
            return 0.5 * (mean - 0.5 * v.total("old")[..., None])
        case "topr":
            w = np.minimum(np.exp(v.total("old")), 1.0)[..., None]
            return raw * np.where(raw > 0, 1.0, w)
        case "asymre":
            return mean + 0.1
        case "tis":
            sampled = np.where(v.kept, v.batch.old - v.batch.behavior, 0.0)
            plain = clip_mask(v.advantage("z"), v.u("old"), 0.2, 0.2)
            return np.minimum(np.exp(sampled), 1.1) * plain
        case "luffy":
            off = np.asarray(v.batch.off_policy)[..., None]
            return mean * np.where(off, 0.1 * v.pi / (v.pi + 0.1) ** 2, v.u("old"))


def vocabulary(name, streams, v):
    """[P, G, T, V]: adds up to 0 over the vocabulary."""
    pi = np.exp(np.where(v.kept[..., None], streams.vocab, 0.0))
    if name == "gem":
        token = np.asarray(streams.vocab) == np.asarray(streams.policy)[..., None]
        q = pi ** (1 / 0.7)
        return token - q / q.sum(-1, keepdims=True)
    s = np.where(v.kept[..., None], streams.vocab - v.batch.reference_vocab, 0.0)
    return pi * ((pi * s).sum(-1, keepdims=True) - s)


FAMILIES = {
    demonstrations: ("sft", "dft", "alpha_sft", "psft", "iw_sft", "f_sft"),
    preferences: ("dpo", "f_dpo", "ipo", "simpo", "sppo", "orpo"),
    rewards: (
        *("reinforce", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", "vespo"),
        "kto",
    ),
    off_policy: ("awr", "opmd", "topr", "asymre", "tis", "luffy"),
}
CLOSED = [name for names in FAMILIES.values() for name in names]
OVER_VOCABULARY = ["gem", "gkd-reverse"]


def closed_coefficient(name, streams, batch):
    """The paper's coefficient of an example of `preset_examples`, 0 off the mask."""
    v = View(streams, batch)
    if name in OVER_VOCABULARY:
        return np.where(v.kept[..., None], vocabulary(name, streams, v), 0.0)
    for family, names in FAMILIES.items():
        if name in names:
            return np.where(v.kept, family(name, v), 0.0)
    raise ValueError(name)
