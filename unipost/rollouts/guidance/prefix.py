"""The beginning of a demonstration, continued by the policy (Prefix-RFT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from unipost.annealed import Annealed
from unipost.rollouts import draws
from unipost.rollouts.drawn import Texts
from unipost.rollouts.guidance.base import Guidance, Guide, Site
from unipost.sampling import Engine, as_samples

Shape = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class Prefix(Guidance):
    """`rows` rows that begin with a part of the worked solution y*, then are sampled.

    floor(l |y*|) tokens are given, l uniform in (low_t, high), drawn for every row;
    low_t falls from `high` at the first step to `low` after `steps` steps:
    cosine: low + (high - low) (1 + cos(pi t / steps)) / 2; linear; constant: `low`
    throughout. The tokens given are flagged off-policy, with unknown log-probs; those
    sampled are on-policy with the sampler's. Source: Prefix-RFT, 2507.01679; the
    numbers are ours. Reported: `prefix_share`, the mean share of a row that was given.
    """

    steps: int
    low: float = 0.05
    high: float = 0.95
    shape: Shape = "cosine"
    rows: int = 1

    def __post_init__(self):
        for name in ("steps", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"prefix.{name}: {getattr(self, name)}; write 1 or more"
                )
        if not 0.0 <= self.low <= self.high < 1.0:
            raise ValueError(
                f"prefix.low, prefix.high: {self.low}, {self.high}; write "
                "0 <= low <= high < 1"
            )

    @property
    def count(self):
        return self.rows

    @property
    def partial(self):
        return True

    def lowest(self, step: int) -> float:
        """low_t, the least share at 0-based step t."""
        if self.shape == "constant" or self.low == self.high:
            return self.low
        schedule = Annealed(self.high, self.low, self.steps, self.shape)
        return float(schedule.at(step))

    def open(self, site):
        setting = site.setting
        engine = site.sampler.open(
            setting.policy, setting.tokenizer, site.sampling, site.prompt_length
        )
        return _Prefixed(self, site, engine)


@dataclass(frozen=True)
class _Prefixed(Guide):
    settings: Prefix
    site: Site
    engine: Engine

    def texts(self, turn, memory):
        site, count = self.site, self.settings.rows
        lines = np.repeat(turn.index, count).tolist()
        where = site.setting.seed, draws.PREFIXES, site.part, turn.step, turn.round
        low = self.settings.lowest(turn.step)
        shares = low + (self.settings.high - low) * draws.uniform(len(lines), *where)
        given = self._given(lines, shares)
        budget = site.sampling.max_tokens
        requests = [
            site.questions.request(i, range(row, row + 1), budget, prefix)
            for row, (i, prefix) in enumerate(zip(lines, given, strict=True))
        ]
        drawn = self.engine(turn.params, requests, draws.key(*where))
        pad = site.questions.tokenizer.pad_token
        samples = as_samples(drawn, budget, pad)
        tokens, mask, logps, finished = (
            np.asarray(x).reshape(len(turn.index), count, *x.shape[2:]) for x in samples
        )
        lengths = np.array([len(x) for x in given]).reshape(len(turn.index), count)
        off = mask & (np.arange(budget) < lengths[..., None])
        self._check(tokens[off], given)
        return Texts(tokens, mask, np.where(off, np.nan, logps), off, finished)

    def _given(self, lines: list[int], shares: np.ndarray) -> list[tuple[int, ...]]:
        """floor(l |y*|) tokens of every line's worked solution."""
        whole = [self.site.questions.solution(i) for i in lines]
        pairs = zip(whole, shares, strict=True)
        return [solution[: int(share * len(solution))] for solution, share in pairs]

    def _check(self, tokens: np.ndarray, given: list[tuple[int, ...]]) -> None:
        """Refuse a sampler of one's own that does not know of given tokens."""
        if tokens.tolist() != [token for prefix in given for token in prefix]:
            name = type(self.site.sampler).__name__
            raise ValueError(
                f"sampler: {name} gives completions that do not begin with what its "
                "requests give; honour Request.given, or leave prefix out"
            )

    def numbers(self, step, index, texts, memory):
        given, whole = texts.off.sum(), max(texts.mask.sum(), 1)
        return {"prefix_share": float(given / whole)}
