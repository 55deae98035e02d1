"""Entries with texts that break careless pages: tags, scripts, other alphabets."""

import numpy as np

from unipost.completions import Entry
from unipost.completions.pieces import Piece

NASTY = "</script><script>alert(1)</script>"
PROMPTS = (
    "What is 12 * 7? Think step by step & answer in <answer> tags.",
    f'Repeat: {NASTY} <img src=x onerror="alert(2)"> &lt;b&gt;',
    "كم يساوي ٢ + ٣ ؟",
    "三加五等于多少？请用中文回答。",
)
TEXTS = (
    "12 * 7 = 84, since 10 * 7 = 70\nand 2 * 7 = 14.\n\n<answer>84</answer>",
    f"{NASTY} &amp; \"quoted\" 'text' \\ \u2028 <!-- no comment --> ]]>",
    "الجواب هو ٥ لأن ٢ زائد ٣ يساوي ٥.",
    "三加五等于八。所以答案是：8。" + "很长的一句话没有空格" * 12,
)
LONG = "no" + "o" * 400 + "!"


def split(text):
    """Pieces of one to five characters, with an incomplete and a special one."""
    cuts = np.cumsum(1 + np.arange(len(text)) % 5)
    cuts = [0, *cuts[cuts < len(text)], len(text)]
    found = [Piece(text[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    return [*found, Piece(""), Piece("<|im_end|>", special=True)]


def entry(p, g, reward, rng, text=None):
    """Completion g of prompt p with random numbers, some of them unknown."""
    parts = split((TEXTS[p] if g % 2 == 0 else LONG[: 60 * (g + 1)]) + f" ({p}.{g})")
    count = len(parts)
    policy = -rng.exponential(1.0, count)
    behavior = policy + 0.05 * rng.normal(size=count)
    behavior[0] = np.nan
    advantage = reward - 0.4 if np.isfinite(reward) else 0.0
    ratio = np.exp(0.1 * rng.normal(size=count))
    demonstration = g == 3
    if demonstration:
        badges = ("off-policy",)
    else:
        badges = ("truncated",) if g == 2 else ("finished",)
    if np.isnan(reward):
        badges += ("unscored",)
    return Entry(
        group=p,
        prompt=PROMPTS[p],
        tokens=rng.integers(0, 150_000, count).tolist(),
        pieces=parts,
        columns={
            "policy": policy,
            "coefficient": advantage * ratio,
            "advantage": np.full(count, advantage),
            "old": policy - np.log(ratio),
            "behavior": behavior,
            "reference": policy + rng.normal(size=count),
        },
        reward=float(reward),
        parts={"correct": float(reward), "format <b>": 0.1 * g},
        advantage=float(advantage),
        badges=badges,
        off_policy=[demonstration] * count,
        staleness=float(p),
    )


def entries():
    """Four groups of four: rewards of either sign, zeros, and one unscored."""
    rng = np.random.default_rng(0)
    rewards = rng.choice([-0.5, 0.0, 1.0], (4, 4))
    rewards[1, 2] = np.nan
    return [entry(p, g, rewards[p, g], rng) for p in range(4) for g in range(4)]
