"""Grading: a reward opened once and called on many batches of samples.

Whatever a reward does - it raises, hangs, returns NaN or text - costs its sample only:
the value is NaN, the failure is counted and its reason kept.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unipost import processes
from unipost.rewards.calls import NOT_A_NUMBER, Verdict, call, failed, reason
from unipost.rewards.grades import Grades, Reward, checked, grades_of
from unipost.rewards.pool import Pool
from unipost.rewards.sample import Sample
from unipost.rewards.sandbox import Call, Task
from unipost.rewards.tasks import function_task, safe, scorer_task, unbound

Graded = Callable[[Sequence[Sample]], Grades]


class Grader:
    """An opened reward: `grader(samples)` gives Grades; `close()` ends what it holds.

    One caller at a time, from any thread. Also a context manager. A model that gives
    rewards is on the first device of this process, whatever mesh there is.
    """

    def __init__(self, reward: Reward, time_limit: float | None):
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"time_limit: {time_limit}; write seconds > 0, or null")
        self._closing: list[Callable[[], Any]] = []
        self._opened: list[tuple[Any, Graded]] = []
        self._time_limit = time_limit
        self._done: dict[tuple[int, int], tuple[Sequence[Sample], Grades]] = {}
        self._pool: Pool | None = None
        with processes.alone():
            self._root = self._open(reward)

    def __call__(self, samples: Sequence[Sample]) -> Grades:
        """Grade the samples. Never raises for what a reward does."""
        try:
            with processes.alone():
                return self._root(samples)
        finally:
            self._done = {}

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End worker processes and close what rewards opened."""
        while self._closing:
            self._closing.pop()()

    def _open(self, reward: Reward) -> Graded:
        """The opened form; equal rewards are opened, and called on a batch, once."""
        for known, opened in self._opened:
            if _same(known, reward):
                return opened
        place, grade = len(self._opened), self._graded(reward)

        def once(samples: Sequence[Sample]) -> Grades:
            key = place, id(samples)
            if key not in self._done:  # the samples are kept: their id is in use
                self._done[key] = samples, grade(samples)
            return self._done[key][1]

        self._opened.append((reward, once))
        return once

    def _graded(self, reward: Any) -> Graded:
        if hasattr(reward, "combine"):
            parts = {name: self._open(r) for name, r in reward.rewards.items()}
            return lambda samples: _combined(reward, parts, samples)
        if hasattr(reward, "score") or hasattr(reward, "open"):
            return self._scorer(reward)
        if not callable(reward):
            raise ValueError(f"reward: {reward!r} is no function and has no score")
        function, options = unbound(reward)
        if self._time_limit is None or safe(function):
            return lambda samples: of_verdicts(
                [call(function, s.response, s.answer, options) for s in samples]
            )
        task, limit, box = function_task(function, options), self._time_limit, self._box
        return lambda samples: _functions(box(), task, limit, samples)

    def _scorer(self, reward: Any) -> Graded:
        if hasattr(reward, "open"):
            opened = reward.open()
            if opened is not reward and hasattr(opened, "close"):
                self._closing.append(opened.close)
            return lambda samples: _each_group(opened.score, samples)
        if self._time_limit is None or safe(type(reward)):
            return lambda samples: _each_group(reward.score, samples)
        task, limit, box = scorer_task(reward), self._time_limit, self._box
        return lambda samples: _scorers(box(), task, limit, samples)

    def _box(self) -> Pool:
        """The worker processes that all parts of this reward share."""
        if self._pool is None:
            self._pool = Pool()
            self._closing.append(self._pool.close)
        return self._pool


def open_reward(reward: Reward, time_limit: float | None = None) -> Grader:
    """The reward ready to grade; `time_limit` in seconds per sample, None: no limit.

    Raises ValueError for a limit that cannot be kept.
    """
    return Grader(reward, time_limit)


def _same(one: Any, other: Any) -> bool:
    """Whether two rewards are equal, as far as they can be compared."""
    try:
        return one is other or (type(one) is type(other) and bool(one == other))
    except Exception:  # settings that are arrays, say
        return False


def of_verdicts(verdicts: Sequence[Verdict]) -> Grades:
    """Grades of one verdict per sample."""
    return grades_of(
        [v.value for v in verdicts],
        reasons=[
            f"sample {i}: {v.problem}" for i, v in enumerate(verdicts) if v.problem
        ],
        notes=Counter(v.note for v in verdicts if v.note),
    )


def _functions(
    pool: Pool, task: Task, limit: float, samples: Sequence[Sample]
) -> Grades:
    """A plain function called in the sandbox, `limit` seconds for each sample."""
    results = pool.run(task, [Call(limit, (s.response, s.answer)) for s in samples])
    return of_verdicts(
        [Verdict(*r) if isinstance(r, tuple) else failed(r) for r in results]
    )


def _scorers(pool: Pool, task: Task, limit: float, samples: Sequence[Sample]) -> Grades:
    """A scorer called in the sandbox group by group, `limit` seconds per sample."""
    if not samples:
        return grades_of([])
    places = _groups(samples)
    shown = [tuple(_fields(samples[i]) for i in own) for own in places]
    calls = [Call(limit * len(own), own) for own in shown]
    each = [
        Grades(*r) if isinstance(r, tuple) else _unscored(r, len(own))
        for r, own in zip(pool.run(task, calls), places, strict=True)
    ]
    return joined(each, places)


def _fields(sample: Sample) -> tuple:
    """The fields of a sample as plain data."""
    values = (getattr(sample, f.name) for f in dataclasses.fields(sample))
    return tuple(dict(v) if isinstance(v, Mapping) else v for v in values)


def _groups(samples: Sequence[Sample]) -> list[list[int]]:
    """The places of the samples of each group."""
    places: dict[int, list[int]] = {}
    for i, sample in enumerate(samples):
        places.setdefault(sample.group, []).append(i)
    return list(places.values())


def _unscored(problem: str, count: int) -> Grades:
    lines = [f"sample {i}: {problem}" for i in range(count)]
    return grades_of(np.full(count, np.nan), reasons=lines)


def _each_group(
    score: Callable[[Sequence[Sample]], Any], samples: Sequence[Sample]
) -> Grades:
    """`score` of all samples; where it fails, once more group by group."""
    try:
        return checked(score(samples), samples)
    except (Exception, SystemExit) as error:
        problem = reason(error)
    places = _groups(samples)
    if len(places) < 2:
        return _unscored(problem, len(samples))
    each = [_each_group(score, [samples[i] for i in own]) for own in places]
    return joined(each, places)


def joined(each: Sequence[Grades], places: Sequence[Sequence[int]]) -> Grades:
    """Grades of parts of a batch put together; places[k] are those of part k."""
    order = np.concatenate([np.asarray(own, int) for own in places])
    inverse = np.argsort(order, kind="stable")
    names = next((g.names for g in each if g.names), ())
    components = [
        g.components
        if g.names == names
        else np.full((len(g.values), len(names)), np.nan)
        for g in each
    ]
    steps = None
    if any(g.steps is not None for g in each):
        flat = [s for g in each for s in (g.steps or [[] for _ in g.values])]
        steps = [flat[i] for i in inverse]
    notes = sum((Counter(g.notes) for g in each), Counter())
    reasons = [
        _moved(line, own)
        for g, own in zip(each, places, strict=True)
        for line in g.reasons
    ]
    return grades_of(
        np.concatenate([g.values for g in each])[inverse],
        components=np.concatenate(components)[inverse],
        names=names,
        reasons=reasons,
        notes=notes,
        steps=steps,
    )


def _moved(line: str, places: Sequence[int]) -> str:
    """`sample 3: ...` of a part of the batch, with the place in the whole batch."""
    head, colon, rest = line.partition(":")
    word, _, place = head.partition(" ")
    if word != "sample" or not place.isdecimal() or int(place) >= len(places):
        return line
    return f"sample {places[int(place)]}{colon}{rest}"


def _combined(
    reward: Any, parts: Mapping[str, Graded], samples: Sequence[Sample]
) -> Grades:
    """`reward.combine`, with what went wrong and was noted in its parts."""
    try:
        asked = reward.asked(samples) if hasattr(reward, "asked") else samples
        known = {name: grade(asked) for name, grade in parts.items()}
        made = checked(reward.combine(samples, known), samples)
    except (Exception, SystemExit) as error:
        return _unscored(reason(error), len(samples))
    lines = [(name, line) for name, g in known.items() for line in g.reasons]
    if asked is not samples:  # the place is not that of a sample
        lines = [(name, line.partition(": ")[2]) for name, line in lines]
    reasons = [f"{name}: {line}" for name, line in lines]
    # NaN because a part is NaN needs no line of its own
    own = [x for x in made.reasons if not (reasons and x.endswith(NOT_A_NUMBER))]
    notes = {f"{n}: {k}": v for n, g in known.items() for k, v in g.notes.items()}
    return made._replace(reasons=reasons + own, notes=notes | made.notes)


def shared(grader: Grader, samples: Sequence[Sample], groups: int) -> Grades:
    """The grades of all samples, each of several processes grading a share of groups.

    `groups` are numbered from 0. A group stays in one piece, as a reward may look at
    the whole of it; what is noted and what went wrong is put together too.
    """
    if processes.count() == 1:
        return grader(samples)
    cuts = [processes.split(groups, i) for i in range(processes.count())]
    places = [
        [i for i, sample in enumerate(samples) if cut.start <= sample.group < cut.stop]
        for cut in cuts
    ]
    own = [samples[i] for i in places[processes.index()]]
    return joined(processes.everyones(lambda: grader(own)), places)


class Scores(NamedTuple):
    """Rewards [N], NaN where unscored; how many are, and why the first one is."""

    values: np.ndarray
    unscored: int
    reason: str


def score_texts(
    reward: Reward,
    responses: Sequence[str],
    answers: Sequence[str],
    time_limit: float | None = None,
) -> Scores:
    """Score N responses against N answers; a failing reward marks its sample only.

    Every response is a group of its own, of unknown prompt and length in tokens.
    """
    pairs = zip(responses, answers, strict=True)
    samples = [Sample(r, a, group=i) for i, (r, a) in enumerate(pairs)]
    return score_samples(reward, samples, len(samples), time_limit)


def score_samples(
    reward: Reward,
    samples: Sequence[Sample],
    groups: int,
    time_limit: float | None = None,
) -> Scores:
    """Score samples of groups 0 to `groups` - 1; a failure marks its sample only."""
    with open_reward(reward, time_limit) as grader:
        graded = shared(grader, samples, groups)
    first = graded.reasons[0] if graded.reasons else ""
    return Scores(graded.values, graded.unscored, first)
