"""What a study found: verdicts and text, computed from its results.json alone.

results.json holds shares; summaries are in percent, differences in points. Intervals
are 95%, bootstrapped over seeds and then items (`unipost.analysis.statistics`), and
conditional on the one base that every arm starts from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unipost.analysis.statistics import (
    Interval,
    Verdict,
    bootstrap_mean,
    relation,
    spearman,
    verdict,
)
from unipost.figures import make_figures
from unipost.runs import write_atomic
from unipost.studies.claim_table import claims_text
from unipost.studies.frame import kept_groups
from unipost.studies.stored import Results as Results
from unipost.studies.stored import check_results, measured
from unipost.studies.stored import load_results as load_results
from unipost.tables import (
    NUMBERS,
    csv_table,
    details,
    provenance,
    show,
    spread,
    table,
)


@dataclass(frozen=True)
class Arm:
    """One arm over its seeds, in the order of the study's seeds.

    target, gain   accuracy by the rule's metric; minus the base's, paired by item
    verdict        on the rule "the gain is above rule.above"
    changes        greedy accuracy minus the base's, for each retention task
    retention      the mean of `changes` over tasks, or over the study's groups and
                   then their tasks; None without retention tasks
    rows           a flat row for each seed: `task/metric` in percent, retention in
                   points, and what else the run reports (kl_reverse, entropy, ...)
    """

    name: str
    title: str
    expected: str
    target: Interval
    gain: Interval
    verdict: Verdict
    changes: Mapping[str, Interval]
    retention: Interval | None
    rows: tuple[Mapping[str, float | None], ...]

    @property
    def as_expected(self) -> bool:
        """Whether an arm that should learn is supported, and one that must fail not."""
        return (self.verdict == "supported") == (self.expected == "learn")


class Difference(NamedTuple):
    """Arm `first` minus arm `second`, paired by seed and item, in points."""

    label: str
    first: Arm
    second: Arm
    target: Interval
    retention: Interval | None


@dataclass(frozen=True)
class Summary:
    """All that table, text and figures say; `arms` run from the largest gain down.

    differences   the best arm against the next, then the study's own comparisons
    relations     each KL's rank correlation with forgetting; None below four arms
    """

    results: Results
    base: Interval
    base_row: Mapping[str, float | None]
    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]
    relations: Mapping[str, Interval | None]


def summarise(results: Results, n_boot: int = 10_000) -> Summary:
    """Every mean, interval and verdict of a study. Raises as `check_results`."""
    check_results(results)
    rule = results["rule"]
    base = _scores(results, None, rule["task"], rule["metric"])[:1]
    arms = [_arm(results, name, n_boot) for name in results["arms"]]
    arms.sort(key=lambda arm: -arm.gain.mean)
    pairs = [[arms[0].name, arms[1].name, "The two largest gains"]] if arms[1:] else []
    named = {arm.name: arm for arm in arms}
    differences = []
    for a, b, label in pairs + list(results.get("comparisons") or ()):
        gained, retained, _ = _minus(results, a, b)
        target, retention = bootstrap_mean(gained, n_boot), _boot(retained, n_boot)
        differences.append(Difference(label, named[a], named[b], target, retention))
    return Summary(
        results=results,
        base=bootstrap_mean(base, n_boot),
        base_row=_row(results["base"]),
        arms=tuple(arms),
        differences=tuple(differences),
        relations={kl: _relation(arms, kl) for kl in ("kl_reverse", "kl_forward")},
    )


def _arm(results: Results, name: str, n_boot: int) -> Arm:
    about, rule = results["arms"][name], results["rule"]
    gained, retained, changes = _minus(results, name, None)
    gain = bootstrap_mean(gained, n_boot)
    kept = [None] * len(gained) if retained is None else retained.mean(1).tolist()
    target = _scores(results, name, rule["task"], rule["metric"])
    return Arm(
        name=name,
        title=about["title"],
        expected=about["expected"],
        target=bootstrap_mean(target, n_boot),
        gain=gain,
        verdict=verdict(gain.low, gain.high, 100 * rule["above"]),
        changes={task: bootstrap_mean(v, n_boot) for task, v in changes.items()},
        retention=_boot(retained, n_boot),
        rows=tuple(
            _row(run) | {"retention": change}
            for run, change in zip(about["runs"], kept, strict=True)
        ),
    )


def _row(run: Mapping[str, Any]) -> dict[str, Any]:
    """The finite numbers of a run and the mean of each of its scores, flat."""
    numbers = {k: v for k, v in run.items() if isinstance(v, int | float)}
    row = {k: v for k, v in numbers.items() if np.isfinite(v)}
    for task, scores in run["tasks"].items():
        for metric, values in measured(scores).items():
            row[f"{task}/{metric}"] = 100 * float(np.mean(values))
    return row


def _scores(results: Results, name: str | None, task: str, metric: str) -> np.ndarray:
    """Percent [seeds, items] of an arm; the base (None) is repeated for each seed."""
    base = [results["base"]] * len(results["seeds"])
    runs = base if name is None else results["arms"][name]["runs"]
    values = [measured(run["tasks"][task])[metric] for run in runs]
    return 100 * np.array(values, float)


def _minus(results: Results, a: str, b: str | None):
    """a - b in points [seeds, items]: target; mean over the old tasks; each of them."""

    def minus(task, metric):
        return _scores(results, a, task, metric) - _scores(results, b, task, metric)

    rule, tasks = results["rule"], results["tasks"]
    roles = {task: about["role"] for task, about in tasks.items()}
    old = [task for task, role in roles.items() if role == "retention"]
    changes = {task: minus(task, "greedy") for task in old}
    kept = kept_groups(results.get("groups") or {}, roles)
    shares = [(t, 1 / len(kept) / len(group)) for group in kept for t in group]
    mean = _weighed([(changes[task], share) for task, share in shares])
    return minus(rule["task"], rule["metric"]), mean if shares else None, changes


def _weighed(tables: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """[seeds, all items] whose mean is the weighted sum of the means of the tables."""
    items = sum(table.shape[1] for table, _ in tables)
    # Items of all tasks will be drawn together. Around their own task's mean it does
    # not matter how many come from each: it is as if they were drawn task by task.
    total = sum(share * table.mean(1, keepdims=True) for table, share in tables)
    columns = [
        total + (table - table.mean(1, keepdims=True)) * share * items / table.shape[1]
        for table, share in tables
    ]
    return np.concatenate(columns, 1) if columns else np.empty((0, 0))


def _boot(table: np.ndarray | None, n_boot: int) -> Interval | None:
    return None if table is None else bootstrap_mean(table, n_boot)


def _relation(arms: Sequence[Arm], kl: str) -> Interval | None:
    rows = [[(row.get(kl), row["retention"]) for row in arm.rows] for arm in arms]
    known = [arm for arm in rows if not any(None in row for row in arm)]
    if len(known) < 4:
        return None
    x, y = np.array([row for arm in known for row in arm], float).T
    # runs of one arm are alike, so arms are drawn whole
    groups = [i for i, arm in enumerate(known) for _ in arm]
    found = relation(spearman, x, -y, groups)
    return None if np.isnan(found.mean) else found


def findings(summary: Summary) -> str:
    """What the numbers say, one Markdown item each; every wording follows a verdict."""
    rule, tasks = summary.results["rule"], summary.results["tasks"]
    lines = [
        "Rule, fixed before the run: an arm improves if the 95% interval of its gain "
        f"in {rule['metric']} accuracy on {tasks[rule['task']]['title']} lies above "
        f"{100 * rule['above']:g} points."
    ]
    learners = [arm for arm in summary.arms if arm.expected == "learn"]
    for kind in ("supported", "inconclusive", "not supported"):
        found = [arm for arm in learners if arm.verdict == kind]
        listed = "; ".join(f"{arm.title} {show(arm.gain, '+')}" for arm in found)
        share = f"{len(found)} of {len(learners)} arms that should learn"
        lines += [f"Improvement {kind} for {share}: {listed}."] if found else []
    lines += [_control(arm) for arm in summary.arms if arm.expected == "fail"]
    lines += _retention(summary)
    lines += [_compared(difference) for difference in summary.differences]
    lines += [_related(kl, found) for kl, found in summary.relations.items() if found]
    lines.append(
        f"All of this holds for one base and seeds {list(summary.results['seeds'])}, "
        "after training and not at equal accuracy. Intervals are not corrected for "
        "their number; comparisons between arms are exploratory."
    )
    return "\n".join(f"- {line}" for line in lines)


def _control(arm: Arm) -> str:
    end = f"fails the rule, as it must ({arm.verdict})"
    if not arm.as_expected:
        end = "passes the rule, which it must not: trust no verdict until this is known"
    return f"Control: {arm.title}, {show(arm.gain, '+')}, {end}."


def _retention(summary: Summary) -> list[str]:
    known = [(arm, arm.retention) for arm in summary.arms if arm.retention]
    if not known:
        return []
    worst, change = min(known, key=lambda pair: pair[1].mean)
    fallen = [arm.title for arm, change in known if _effect(change) == "lower"]
    return [
        f"Retention below the base's is shown for {len(fallen)} of {len(known)} arms"
        f"{': ' * bool(fallen)}{'; '.join(fallen)}. The lowest mean is that of "
        f"{worst.title}, {show(change, '+')}."
    ]


def _effect(interval: Interval) -> str:
    if verdict(interval.low, interval.high) == "supported":
        return "higher"
    below = verdict(-interval.high, -interval.low) == "supported"
    return "lower" if below else "inconclusive"


def _compared(difference: Difference) -> str:
    label, a, b, target, change = difference
    parts = [f"accuracy {_effect(target)}, {show(target, '+')}"]
    if change is not None:
        parts.append(f"retention {_effect(change)}, {show(change, '+')}")
    kls = [[row.get("kl_reverse") for row in arm.rows] for arm in (a, b)]
    gaps = [x - y for x, y in zip(*kls, strict=True) if None not in (x, y)]
    if len(gaps) == len(a.rows):
        signs = {np.sign(gap) for gap in gaps}
        word = {(1,): "higher", (-1,): "lower"}.get(tuple(signs), "not of one sign")
        means = " against ".join(spread(arm, "kl_reverse") for arm in (a, b))
        parts.append(f"{NUMBERS['kl_reverse'][0]} {means}, {word} over the seeds")
    return f"{label} ({a.title} minus {b.title}): {'; '.join(parts)}."


def _related(kl: str, found: Interval) -> str:
    mean, low, high = (f"{x:.2f}" for x in found)
    word = {"higher": "positive", "lower": "negative"}.get(
        _effect(found), "inconclusive"
    )
    where = f"forgetting with {NUMBERS[kl][0]} over runs, arms drawn whole"
    return f"Rank correlation of {where}: {word}, {mean} [{low}, {high}]."


def write_report(
    results: Results, folder: str | Path, formats: Sequence[str] = ("png",)
) -> str:
    """Write report.md, table.csv and the figures; return claim, table and findings.

    Every file appears whole or not at all. Raises ValueError as `check_results`.
    """
    summary, folder = summarise(results), Path(folder)
    drawn = [f for f in make_figures(summary, folder, formats) if f.suffix == ".png"]
    parts = [results["claim"], table(summary), findings(summary)]
    said = "\n\n".join([*parts, *claims_text(results)]) + "\n"
    shown = "".join(f"\n![{file.stem}]({file.name})\n" for file in drawn)
    rest = f"{shown}\n{details(summary)}\n\n{provenance(summary)}\n"
    write_atomic(folder / "report.md", f"# {results['study']}\n\n{said}{rest}")
    write_atomic(folder / "table.csv", csv_table(summary))
    return said
