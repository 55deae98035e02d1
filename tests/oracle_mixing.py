"""Losses of papers that mix own samples and demonstrations, in numpy, by loops.

`Mixed` adds to `Data` which tokens are a demonstration's (`off` [P, G, T]) and the
policy's entropy per token. A loss is a sum over lists of tokens (p, g, t). `slopes`
are its derivatives in log-probs and entropies, by complex steps; what stands under a
stop-gradient takes `held` and `still`.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from oracle_papers import Data


@dataclass(frozen=True)
class Mixed(Data):
    """Rewards are NaN where a row is not scored; `length` is a run's constant."""

    off: Any = None
    entropy: Any = None
    budget: float = 9.0

    @property
    def still(self):
        return np.real(self.entropy)

    def tokens(self, rows):
        """The tokens of these rows, as index triples."""
        return [(p, g, t) for p, g in rows for t in np.flatnonzero(self.mask[p, g])]

    def is_own(self, p, g):
        kept = self.mask[p, g] > 0
        return kept.any() and not self.off[p, g][kept].any()

    def own(self, p):
        return [(p, g) for g in range(self.mask.shape[1]) if self.is_own(p, g)]

    def other(self, p):
        """Rows with a demonstration's token."""
        filled = [g for g in range(self.mask.shape[1]) if self.mask[p, g].any()]
        return [(p, g) for g in filled if not self.is_own(p, g)]

    @property
    def prompts(self):
        return range(self.mask.shape[0])

    @property
    def all_own(self):
        return [row for p in self.prompts for row in self.own(p)]

    @property
    def shown(self):
        """The tokens of demonstrations."""
        rows = [row for p in self.prompts for row in self.other(p)]
        return [i for i in self.tokens(rows) if self.off[i]]


def slopes(loss, data):
    """(d loss / d logp, d loss / d entropy), both [P, G, T]."""
    frozen, found = replace(data, fixed=data.held), []
    for name in ("logp", "entropy"):
        out = np.zeros(data.mask.shape)
        for index in np.argwhere(data.mask > 0):
            moved = getattr(data, name).astype(complex)
            moved[tuple(index)] += 1e-30j
            step = loss(replace(frozen, **{name: moved}))
            out[tuple(index)] = np.imag(step) / 1e-30
        found.append(out)
    return found


def advantage(data, rows, kind, ddof=1, eps=1e-6):
    """{row: A} of one group; 0 for a row that is not scored."""
    scored = {row: data.rewards[row] for row in rows if np.isfinite(data.rewards[row])}
    values = np.array(list(scored.values()))
    found = dict.fromkeys(rows, 0.0)
    if len(values) < 2 or values.max() == values.min():
        return found
    std = values.std(ddof=ddof) + eps if kind == "z" else 1.0
    return found | {row: (r - values.mean()) / std for row, r in scored.items()}


def groups(data, of, kind):
    """{row: A} of all groups, the statistics over the rows `of(p)`."""
    found = {}
    for p in data.prompts:
        found |= advantage(data, of(p), kind)
    return found


def union(data):
    return lambda p: data.own(p) + data.other(p)


def clipped(a, u, low=None, high=None, dual=None):
    """-A u, with PPO's band and the dual clip where they are given."""
    value = a * u
    if low is not None:
        inside = min(max(u.real, 1 - low), 1 + high)
        edge = a * inside
        value = value if value.real <= edge else edge
    if dual is not None and a < 0:
        value = value if value.real >= a * dual else a * dual
    return -value


def mean(values):
    return sum(values) / len(values) if values else 0.0


def nll(data, tokens, weight=lambda i: 1.0):
    """Token mean of -w log pi."""
    return mean([-weight(i) * data.logp[i] for i in tokens])


def surrogates(data, tokens, adv, clip=None, dual=None):
    """-min(u A, clip(u) A) of every token, u = pi/old."""
    pairs = [(adv[i[:2]], np.exp(data.logp[i] - data.old[i])) for i in tokens]
    return [clipped(a, u, clip, clip, dual) for a, u in pairs]


def luffy(data, gamma=0.1, clip=None, off_clip=None, given=False, kind="mean"):
    """2504.14945 Eq 4-6 with the released sum / budget."""
    adv = groups(data, union(data), kind)
    rows = [row for p in data.prompts for row in union(data)(p)]
    own = [i for i in data.tokens(rows) if not data.off[i]]  # a continuation's too
    total = sum(surrogates(data, own, adv, clip))
    for i in data.shown:
        sampler = data.behavior[i] if given and np.isfinite(data.behavior[i]) else 0.0
        q, a = np.exp(data.logp[i] - sampler), adv[i[:2]]
        if gamma is not None:
            total += -a * q / (q + gamma)
        else:
            total += clipped(a, q, off_clip, off_clip)
    return total / data.budget


def rl_sft(data, sft=1.0, clip=0.2, entropy=None, kind="mean"):
    """LUFFY Table 1: the on-policy loss on own rows, an SFT loss on the others."""
    adv = groups(data, data.own, kind)
    tokens = data.tokens(data.all_own)
    total = sum(surrogates(data, tokens, adv, clip)) / data.budget
    total += sft * nll(data, data.shown)
    if entropy is not None:
        rows = [row for p in data.prompts for row in union(data)(p)]
        total -= entropy * mean([data.entropy[i] for i in data.tokens(rows)])
    return total


def row_entropy(data, row):
    kept = data.mask[row] > 0
    return data.still[row][kept].mean()


def srft(data, sft=0.5, rl=0.1, gamma=None, kind="z"):
    """2506.19767: three losses, their entropy weights detached."""
    own, adv = 0.0, groups(data, union(data), kind)
    for row in data.all_own:
        reward = data.rewards[row]
        if not np.isfinite(reward):
            continue
        good = reward > 0.5
        weight = rl * np.exp(row_entropy(data, row)) if good else -1.0
        own += sum(-weight * data.logp[i] for i in data.tokens([row]))
    shown = 0.0
    for i in data.shown:
        p = np.exp(data.logp[i])
        shown += -adv[i[:2]] * (p if gamma is None else p / (p + gamma))

    def weight(i):
        return sft * np.exp(-row_entropy(data, i[:2]))

    return (own + shown) / data.budget + nll(data, data.shown, weight)


def chord(data, mu, weighting="one", clip=0.2):
    """2508.11408: (1 - mu) GRPO as a token mean, mu SFT with phi or p per token."""
    adv = groups(data, data.own, "z")
    grpo = mean(surrogates(data, data.tokens(data.all_own), adv, clip))
    phi = {
        "one": lambda p: 1.0,
        "probability": lambda p: p,
        "bernoulli": lambda p: p * (1 - p),
    }[weighting]
    imitated = nll(data, data.shown, lambda i: phi(np.exp(data.held[i])))
    return (1 - mu) * grpo + mu * imitated


def hpt(data, most=0, above=0.5, rl=1.0, sft=1.0, entropy=0.001, kind="mean"):
    """2509.04419: SFT where at most `most` own rows are correct, else RL."""
    passed, tokens, failed = [], [], []
    for p in data.prompts:
        correct = sum(data.rewards[row] > above for row in data.own(p))
        if correct <= most:
            failed += [i for i in data.tokens(data.other(p)) if data.off[i]]
        else:
            passed += data.own(p)
    tokens = data.tokens(passed)
    adv = groups(data, data.own, kind)
    total = rl * sum(surrogates(data, tokens, adv)) / data.budget
    total += sft * nll(data, failed)
    return total - entropy * mean([data.entropy[i] for i in tokens + failed])


def relift(data, sft=1.0, entropy=1e-4, clip=0.2):
    """2506.07527: GRPO on own rows, SFT with an entropy bonus on demonstrations."""
    adv = groups(data, data.own, "z")
    grpo = mean(surrogates(data, data.tokens(data.all_own), adv, clip))
    bonus = mean([data.entropy[i] for i in data.shown])
    return grpo + sft * (nll(data, data.shown) - entropy * bonus)


def hybrid_advantages(data, continuation="own"):
    """{token: A}: own rows among themselves, continued prefixes against them."""
    found = {}
    for p in data.prompts:
        own = advantage(data, data.own(p), "mean")
        found |= {i: own[i[:2]] for i in data.tokens(data.own(p))}
        known = [x for x in (data.rewards[row] for row in data.own(p)) if x == x]
        rows = [row for row in data.other(p) if np.isfinite(data.rewards[row])]
        rest = [data.rewards[row] for row in rows]
        for row in data.other(p):
            r = data.rewards[row]
            gap = r - np.mean(known) if known and np.isfinite(r) else 0.0
            after = gap
            if continuation == "hybrid":
                after = 0.0 if r != r else r - (np.mean(rest) if len(rest) > 1 else 0)
            for i in data.tokens([row]):
                found[i] = gap / max(len(rows), 1) if data.off[i] else after
    return found


def prefix_rft(data, share=0.2, clip=0.2, dual=3.0, entropy=0.001, continuation="own"):
    """2507.01679: PPO's clip everywhere, prefix tokens by their entropies' top."""
    adv = hybrid_advantages(data, continuation)
    ranked = [data.still[i] for i in data.shown]
    least = np.quantile(ranked, 1 - share) if ranked else 0.0
    tokens = [tuple(i) for i in np.argwhere(data.mask > 0)]
    total = []
    for i in tokens:
        u = np.exp(data.logp[i] - data.old[i])
        dropped = data.off[i] and data.still[i] < least
        total.append(0.0 if dropped else clipped(adv[i], u, clip, clip, dual))
    return mean(total) - entropy * mean([data.entropy[i] for i in tokens])
