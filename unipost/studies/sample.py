"""The outcomes of a study, resampled: what a claim's test reads.

An array [1 + B, runs] holds a number of every run, in row 0 of the outcomes found and
in the others of outcomes resampled by item; runs are weighed when they are averaged.
All arms share the draws, so a difference of two arrays is paired.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from unipost.analysis.statistics import (
    Weights,
    at_accuracy,
    line_r2,
    quadratic_r2,
    sign_flip,
    slope,
    spearman,
)
from unipost.analysis.statistics.relations import group_draws
from unipost.studies.frame import BASE, At, Matched, Quantity
from unipost.studies.outcomes import frame_of, number_of, scores_of

Axis = Literal["steps", "log2"]
"""Against what a line is drawn: steps, or their logarithm to base 2."""
RELATIONS = {"r2": quadratic_r2, "spearman": spearman}
RELATION_DRAWS = 2_000
"""Replicates of a relation: each takes a fit of its own."""


class Sample:
    """Results with their replicates, the same for every claim and in every process."""

    def __init__(self, results: Mapping[str, Any], n_boot: int = 10_000, seed: int = 0):
        self.results, self.frame = results, frame_of(results)
        self.seeds = len(results["seeds"])
        self.weights = Weights(1, self.seeds, n_boot, seed)
        self._kept: dict[Any, np.ndarray] = {}

    @property
    def matched(self) -> Matched:
        """Where arms are compared at equal accuracy. Raises ValueError if nowhere."""
        self.frame.check_at("matched")
        assert self.frame.matched is not None
        return self.frame.matched

    @property
    def rows(self) -> int:
        """1 + B."""
        return len(self.weights.runs)

    def over_runs(self, values: np.ndarray) -> np.ndarray:
        """Means [1 + B] over the runs of values [1 + B, runs] that are numbers.

        Of a single run that is not resampled by item there is no interval: NaN.
        """
        means = self.weights.over_runs(values)
        if self.seeds == 1 and np.ptp(values, axis=0).max(initial=0.0) == 0.0:
            means[1:] = np.nan
        return means

    def mean(self, arm: str, what: str, at: At) -> np.ndarray:
        """Mean of `what` over the runs of an arm [1 + B]."""
        return self.over_runs(self.value(arm, what, at))

    def difference(self, a: str, b: str, what: str, at: At) -> np.ndarray:
        """Mean of a - b [1 + B] over the seeds that have a number in both."""
        return self.over_runs(self.value(a, what, at) - self.value(b, what, at))

    def value(self, arm: str, what: str, at: At) -> np.ndarray:
        """`what` of every run [1 + B, runs]; of several arms the mean, seed by seed."""
        members = self.frame.members(arm)
        each = np.stack([self._value(name, what, at) for name in members])
        known = (~np.isnan(each)).sum(0)
        total = np.where(np.isnan(each), 0.0, each).sum(0)
        return np.where(known > 0, total / np.maximum(known, 1), np.nan)

    def _value(self, arm: str, what: str, at: At) -> np.ndarray:
        if (arm, what, at) not in self._kept:
            self._kept[arm, what, at] = self._found(arm, what, at)
        return self._kept[arm, what, at]

    def _found(self, arm: str, what: str, at: At) -> np.ndarray:
        quantity = self.frame.quantity(what)
        if at == "matched" and arm != BASE:
            steps = self.steps(arm)
            reached = self.accuracy(arm)
            found = self._curve(arm, quantity, steps)
            return at_accuracy(reached, found, self.matched.reach)
        step = at if isinstance(at, int) and arm != BASE else None
        return self._curve(arm, quantity, (step,))[..., 0]

    def accuracy(self, arm: str) -> np.ndarray:
        """The accuracy that arms are matched by [1 + B, runs, points]."""
        rule = self.matched
        if (arm, rule) not in self._kept:
            term = Quantity(((rule.task, rule.metric, 1.0),))
            self._kept[arm, rule] = self._curve(arm, term, self.steps(arm))
        return self._kept[arm, rule]

    def steps(self, arm: str) -> tuple[int | None, ...]:
        """The points of an arm's curve: 0, those of the study, None for the last."""
        last = self.results["arms"][arm].get("steps")
        return (0, *(s for s in self.frame.curve if last is None or s < last), None)

    def censored(self, arm: str) -> list[str]:
        """ARM/SEED of the runs that never reach the accuracy of `matched`."""
        found = []
        for name in self.frame.members(arm):
            if name != BASE:
                never = self.accuracy(name)[0].max(-1) < self.matched.reach
                pairs = zip(self.results["seeds"], never, strict=True)
                found += [f"{name}/{seed}" for seed, out in pairs if out]
        return found

    def _curve(
        self, arm: str, quantity: Quantity, steps: Sequence[int | None]
    ) -> np.ndarray:
        """A quantity of every run at several points [1 + B, runs, points]."""
        if quantity.number:
            found = self._numbers(arm, quantity.number, steps)
            return np.broadcast_to(found, (self.rows, *found.shape))
        total = np.zeros((self.rows, self.seeds, len(steps)))
        for task, metric, weight in quantity.terms:
            value = self._means(arm, task, metric, tuple(steps))
            if quantity.changed == "change":
                value = value - self._means(BASE, task, metric, (None,))
            total += weight * value
        return total

    def _means(
        self, arm: str, task: str, metric: str, steps: tuple[int | None, ...]
    ) -> np.ndarray:
        """Percent of one task [1 + B, runs, points], resampled by item."""
        if arm == BASE and (task, metric) in self._kept:
            return self._kept[task, metric]
        table = 100 * scores_of(self.results, arm, task, metric, steps)
        flat = self.weights.over_items(task, table.reshape(-1, table.shape[-1]))
        found = flat.reshape(self.rows, *table.shape[:2])
        if arm == BASE:  # every change asks for it
            self._kept[task, metric] = found
        return found

    def _numbers(self, arm: str, name: str, steps: Sequence[int | None]) -> np.ndarray:
        """A number of every run [runs, points]; NaN where it was not measured."""
        return np.array(
            [
                [number_of(self.results, arm, i, name, step) for step in steps]
                for i in range(self.seeds)
            ]
        )

    def paired_p(self, a: str, b: str, what: str, at: At) -> float | None:
        """p of the sign-flip test of a - b, over items if there are any, else seeds.

        An item's difference is the mean over the seeds, weighed as `what` does. None
        at matched accuracy, where no item is compared with itself.
        """
        if at == "matched":
            return None
        quantity, parts = self.frame.quantity(what), []
        for task, metric, weight in quantity.terms:
            tables = [self._tables(arm, task, metric, at) for arm in (a, b)]
            each = (tables[0] - tables[1]).mean(0)
            parts.append(weight * each / len(each))
        if quantity.number:
            values = self.value(a, what, at)[0] - self.value(b, what, at)[0]
            parts = [values[~np.isnan(values)]]
        found = np.concatenate(parts)
        return sign_flip(found) if found.size else None

    def _tables(self, arm: str, task: str, metric: str, at: At) -> np.ndarray:
        """Shares [runs, items], of several arms their mean."""
        tables = []
        for name in self.frame.members(arm):
            step = at if isinstance(at, int) and name != BASE else None
            tables.append(scores_of(self.results, name, task, metric, (step,))[:, 0])
        return np.mean(tables, 0)

    def exclusive(self, a: str, b: str, what: str, at: At) -> np.ndarray:
        """Percent of items [1 + B] that the run of a solves and that of b does not."""
        ((task, metric, _),) = self.frame.quantity(what).terms
        step = at if isinstance(at, int) else None
        first, second = (
            scores_of(self.results, arm, task, metric, (None if arm == BASE else step,))
            for arm in (a, b)
        )
        table = 100.0 * ((first >= 1) & ~(second >= 1))[:, 0]
        return self.over_runs(self.weights.over_items(task, table))

    def slope(
        self,
        arm: str,
        what: str,
        since: int,
        until: int | None = None,
        axis: Axis = "steps",
    ) -> np.ndarray:
        """Slope of `what` of every run [1 + B, runs], per 100 steps or per doubling.

        Over the points of the curve from step `since` to step `until`.
        """
        scale = 100.0 if axis == "steps" else 1.0
        each = [
            scale * slope(x, y) for x, y in self._lines(arm, what, since, until, axis)
        ]
        return np.mean(each, 0)

    def line_r2(
        self, arm: str, what: str, since: int, until: int | None, axis: Axis
    ) -> np.ndarray:
        """R^2 of the line through the points of `slope`, of every run [1 + B, runs]."""
        found = self._lines(arm, what, since, until, axis)
        return np.mean([line_r2(x, y) for x, y in found], 0)

    def _lines(
        self, arm: str, what: str, since: int, until: int | None, axis: Axis
    ) -> list[tuple[list[float], np.ndarray]]:
        """(places, values [1 + B, runs, points]) of the curve of every member."""
        found = []
        for name in self.frame.members(arm):
            last = self.results["arms"][name]["steps"]
            points = [(last if s is None else s, s) for s in self.steps(name)]
            top = last if until is None else until
            kept = [(step, s) for step, s in points if since <= step <= top]
            values = self._curve(name, self.frame.quantity(what), [s for _, s in kept])
            places = [step if axis == "steps" else math.log2(step) for step, _ in kept]
            found.append((places, values))
        return found

    def relation(
        self,
        predictors: Sequence[str],
        over: Sequence[str],
        y: str,
        points: str,
        statistic: str,
    ) -> list[np.ndarray]:
        """The statistic of each predictor with y [1 + B'], runs drawn with replacement.

        A run with all of its points is drawn whole, and all predictors see one draw.
        """
        of, rows, groups = RELATIONS[statistic], [], []
        for arm in dict.fromkeys(m for a in over for m in self.frame.members(a)):
            steps = self.steps(arm) if points == "curve" else (None,)
            names = [*predictors, y]
            found = [self._curve(arm, self.frame.quantity(n), steps)[0] for n in names]
            for i in range(self.seeds):
                if points == "converged" and self._never(arm, i):
                    continue
                table = np.stack([values[i] for values in found], 1)
                table = table[~np.isnan(table).any(1)]
                rows.append(table)
                groups += [f"{arm}/{i}"] * len(table)
        if not groups:
            return [np.full(1 + RELATION_DRAWS, np.nan) for _ in predictors]
        table = np.concatenate(rows)
        places = [np.arange(len(table)), *group_draws(groups, RELATION_DRAWS, 0)]
        columns = range(len(predictors))
        return [
            np.array([of(table[p, k], table[p, -1]) for p in places]) for k in columns
        ]

    def _never(self, arm: str, run: int) -> bool:
        return bool(self.accuracy(arm)[0, run].max() < self.matched.reach)
