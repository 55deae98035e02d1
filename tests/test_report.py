"""Reports on studies whose truth is known, and refusals of torn results."""

import csv
import io
import json

import numpy as np
import pytest
from scipy import stats

from unipost.analysis.statistics import bootstrap_mean, paired_difference
from unipost.report import findings, load_results, summarise, write_report
from unipost.tables import csv_table, details, show, table

BOOT = 500
ITEMS, OLD = 300, {"sort": 80, "recall": 40}


def scores(share: float, items: int) -> list[int]:
    """The first `share` of the items is right: who knows more knows the same too."""
    right = round(share * items)
    return [1] * right + [0] * (items - right)


def run(seed: int, target: float, sort: float, recall: float, kl: float) -> dict:
    shares = {"sort": sort, "recall": recall}
    old = {task: {"greedy": scores(shares[task], n)} for task, n in OLD.items()}
    sampled = scores(target, ITEMS)
    new = {"greedy": sampled, "sampled": sampled, "pass_at": {"8": [1] * ITEMS}}
    bins = {"probability": [0.01, 0.1, 0.9], "value": [None, 2.0, 1.0]}
    return {
        "seed": seed,
        "tasks": {"equations": new, **old},
        "kl_reverse": kl * (1 + seed / 10),
        "kl_forward": 2 * kl,
        "entropy": 0.3,
        "length": 3.0,
        "style": 0.25,
        "margin": None,
        "train_seconds": 5.0,
        "steps": 40,
        "coefficient": bins | {"count": [0, 4, 30]},
    }


TRUTH = {  # target, sort, recall, KL; the base has 0.40, 0.80, 0.80
    "sft_own": (0.60, 0.75, 0.75, 0.20),
    "sft_foreign": (0.55, 0.50, 0.40, 0.90),
    "grpo": (0.50, 0.80, 0.80, 0.05),
    "idle": (0.40, 0.80, 0.80, 0.01),
    "worse": (0.20, 0.80, 0.80, 0.02),
    "shuffled": (0.40, 0.70, 0.70, 0.30),
}


def study(seeds: tuple[int, ...] = (0, 1, 2), **changed) -> dict:
    """A study whose arms have the shares of TRUTH under every seed."""
    titles = {"equations": "unseen equations", "sort": "ordering", "recall": "recall"}
    sizes = {"equations": ITEMS, **OLD}
    arms = {
        name: {
            "title": f"arm {name}",
            "expected": "fail" if name == "shuffled" else "learn",
            "runs": [run(seed, *truth) for seed in seeds],
        }
        for name, truth in TRUTH.items()
    }
    return {
        "study": "quick",
        "claim": "They learn.",
        "seeds": list(seeds),
        "git": "abc123",
        "wall_seconds": 251.3,
        "rule": {"task": "equations", "metric": "sampled", "above": 0.0},
        "tasks": {
            task: {
                "items": sizes[task],
                "role": "target" if task == "equations" else "retention",
                "title": title,
            }
            for task, title in titles.items()
        },
        "base": run(0, 0.40, 0.80, 0.80, 0.0),
        "arms": arms,
        "comparisons": [["sft_own", "sft_foreign", "Own against foreign style"]],
    } | changed


@pytest.fixture(scope="module")
def summary():
    return summarise(study(), BOOT)


def test_means_are_the_known_ones(summary):
    for arm in summary.arms:
        target, sort, recall, kl = TRUTH[arm.name]
        assert arm.target.mean == pytest.approx(100 * target)
        assert arm.gain.mean == pytest.approx(100 * (target - 0.40))
        assert arm.changes["sort"].mean == pytest.approx(100 * (sort - 0.80))
        assert arm.changes["recall"].mean == pytest.approx(100 * (recall - 0.80))
        # 80 and 40 items: each task counts alike, not each item
        assert arm.retention.mean == pytest.approx(50 * (sort + recall - 1.60))
        rows = [row["retention"] for row in arm.rows]
        assert rows == pytest.approx([arm.retention.mean] * 3)
        kls = [row["kl_reverse"] for row in arm.rows]
        assert kls == pytest.approx([kl, 1.1 * kl, 1.2 * kl])
    assert summary.base.mean == pytest.approx(40.0)
    assert [arm.name for arm in summary.arms][:3] == ["sft_own", "sft_foreign", "grpo"]


def test_gain_is_the_paired_difference_with_the_base_repeated(summary):
    arm = summary.arms[0]
    ours = 100 * np.array([scores(0.60, ITEMS)] * 3)
    base = 100 * np.array([scores(0.40, ITEMS)] * 3)
    assert arm.gain == pytest.approx(paired_difference(ours, base, BOOT))
    assert arm.target == pytest.approx(bootstrap_mean(ours, BOOT))


def test_verdicts_follow_the_intervals_and_the_control_must_fail(summary):
    verdicts = {arm.name: arm.verdict for arm in summary.arms}
    assert verdicts == {
        "sft_own": "supported",
        "sft_foreign": "supported",
        "grpo": "supported",
        "idle": "not supported",
        "shuffled": "not supported",
        "worse": "not supported",
    }
    expected = {arm.name: arm.as_expected for arm in summary.arms}
    assert expected == {**dict.fromkeys(TRUTH, True), "idle": False, "worse": False}


def test_a_small_gain_among_noise_is_inconclusive():
    results = study()
    rng = np.random.default_rng(0)
    for each in results["arms"]["idle"]["runs"]:
        noisy = rng.random(ITEMS) < 0.41
        each["tasks"]["equations"]["sampled"] = noisy.astype(int).tolist()
    arm = {arm.name: arm for arm in summarise(results, BOOT).arms}["idle"]
    assert arm.gain.low < 0 < arm.gain.high
    assert arm.verdict == "inconclusive" and not arm.as_expected
    assert "Improvement inconclusive for 1 of 5" in findings(summarise(results, BOOT))


def test_the_threshold_of_the_rule_is_a_share():
    rule = {"task": "equations", "metric": "greedy", "above": 0.1}
    verdicts = {a.name: a.verdict for a in summarise(study(rule=rule), BOOT).arms}
    assert verdicts["sft_own"] == "supported"  # 20 points
    assert verdicts["grpo"] == "inconclusive"  # 10 points
    assert verdicts["idle"] == "not supported"


def test_retention_interval_is_that_of_tasks_drawn_one_by_one():
    rng = np.random.default_rng(1)
    results = study(seeds=(0,))
    drawn = {task: rng.integers(0, 2, n) for task, n in OLD.items()}
    for task, values in drawn.items():
        results["arms"]["grpo"]["runs"][0]["tasks"][task]["greedy"] = values.tolist()
    arm = {a.name: a for a in summarise(results, 4000).arms}["grpo"]
    change = {t: 100 * (v - np.array(scores(0.80, OLD[t]))) for t, v in drawn.items()}
    error = np.sqrt(sum(v.var() / v.size for v in change.values())) / 2
    assert arm.retention is not None
    half = (arm.retention.high - arm.retention.low) / 2
    assert half == pytest.approx(1.96 * error, rel=0.05)


def test_comparisons_pair_arms_and_name_the_direction(summary):
    best, asked = summary.differences
    assert (best.first.name, best.second.name) == ("sft_own", "sft_foreign")
    assert asked.label == "Own against foreign style"
    assert asked.target.mean == pytest.approx(5.0)
    assert asked.retention.mean == pytest.approx(30.0)
    text = findings(summary)
    assert "accuracy higher, +5.0" in text and "retention higher, +30.0" in text
    assert "lower over the seeds" in text


def test_kl_and_forgetting_correlate_as_scipy_says(summary):
    pairs = [(r["kl_reverse"], -r["retention"]) for a in summary.arms for r in a.rows]
    expected, _ = stats.spearmanr(np.array(pairs))
    found = summary.relations["kl_reverse"]
    assert found.mean == pytest.approx(expected, abs=1e-12)
    assert found.low <= found.mean <= found.high <= 1


def test_findings_say_who_improved_and_that_the_control_failed(summary):
    text = findings(summary)
    assert "Improvement supported for 3 of 5 arms that should learn" in text
    assert "Improvement not supported for 2 of 5" in text
    assert "arm shuffled, +0.0 [0.0, 0.0], fails the rule, as it must" in text
    assert "for 3 of 6 arms: " in text and "arm sft_foreign, -35.0" in text
    assert "one base and seeds [0, 1, 2]" in text


def test_findings_turn_when_the_numbers_do():
    results = study()
    learned = [run(seed, 0.6, 0.8, 0.8, 0.1) for seed in (0, 1, 2)]
    results["arms"]["shuffled"]["runs"] = learned
    results["comparisons"] = [["sft_foreign", "sft_own", "Turned"]]
    text = findings(summarise(results, BOOT))
    assert "passes the rule, which it must not" in text
    assert "Turned (arm sft_foreign minus arm sft_own): accuracy lower, -5.0" in text
    assert "for 2 of 6 arms: arm sft_own; arm sft_foreign." in text


def test_table_reads_as_markdown_and_as_text(summary):
    lines = table(summary).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].replace("-", "").replace(":", "").split() == ["|"] * 7
    assert lines[2].startswith("| base") and "40.0 [" in lines[2]
    names = [line.split("|")[1].strip() for line in lines[3:]]
    assert names == [arm.title for arm in summary.arms]
    assert all(arm.title in details(summary) for arm in summary.arms)
    assert "0.220 (0.200-0.240)" in details(summary)
    assert "25.0" in details(summary) and "margin" not in details(summary)


def test_show_writes_one_decimal_and_no_negative_zero(summary):
    interval = bootstrap_mean([[41.2, 41.2]], 10)
    assert show(interval) == "41.2 [41.2, 41.2]"
    assert show(interval._replace(mean=-0.01, low=-0.04), "+") == "+0.0 [0.0, 41.2]"
    assert show(bootstrap_mean([41.2])) == "41.2 [-]"
    assert show(None) == "-"


def test_csv_has_one_row_for_each_arm_and_seed(summary):
    rows = list(csv.DictReader(io.StringIO(csv_table(summary))))
    assert len(rows) == 1 + 6 * 3
    assert rows[0]["arm"] == "base" and float(rows[0]["equations/sampled"]) == 40
    last = {(row["arm"], row["seed"]): row for row in rows}["sft_foreign", "2"]
    assert float(last["recall/greedy"]) == pytest.approx(40)
    assert float(last["kl_reverse"]) == pytest.approx(0.9 * 1.2)
    assert float(last["equations/pass@8"]) == 100


def test_null_numbers_are_shown_as_missing():
    results = study()
    for arm in results["arms"].values():
        for each in arm["runs"]:
            each |= dict.fromkeys(("kl_reverse", "kl_forward", "style", "coefficient"))
    results["arms"]["grpo"]["runs"][1]["entropy"] = float("nan")
    results |= {"git": None, "wall_seconds": None}
    summary = summarise(results, BOOT)
    assert summary.relations == {"kl_reverse": None, "kl_forward": None}
    assert "KL" not in findings(summary) and "style" not in details(summary)
    row = next(line for line in details(summary).splitlines() if "arm grpo" in line)
    assert row.split("|")[4].strip() == "-"


def test_one_seed_one_arm_and_no_retention_are_enough():
    results = study(seeds=(7,), comparisons=None)
    results["arms"] = {"grpo": results["arms"]["grpo"]}
    results["tasks"] = {"equations": results["tasks"]["equations"]}
    summary = summarise(results, BOOT)
    (arm,) = summary.arms
    assert arm.retention is None and arm.verdict == "supported"
    assert summary.differences == () and "Retention" not in findings(summary)
    assert "seeds [7]" in findings(summary)


def test_write_report_leaves_whole_files_and_returns_the_text(tmp_path):
    said = write_report(study(), tmp_path / "new")
    names = {file.name for file in (tmp_path / "new").iterdir()}
    figures = {"accuracy.png", "forgetting.png", "coefficient.png"}
    assert names == {"report.md", "table.csv"} | figures
    report = (tmp_path / "new" / "report.md").read_text()
    assert said in report and "They learn." in said
    for part in ["(forgetting.png)", "git abc123", "251 s", "300 equations", "0, 1, 2"]:
        assert part in report


def drop(results, *path):
    *nodes, last = path
    for node in nodes:
        results = results[node]
    del results[last]


def put(results, value, *path):
    *nodes, last = path
    for node in nodes:
        results = results[node]
    results[last] = value


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: drop(r, "rule"), "rule: missing; repeat the run that writes it"),
        (
            lambda r: drop(r, "arms", "grpo", "runs", 1, "tasks", "sort"),
            "arms.grpo.runs[1].tasks.sort: missing; repeat the run that writes it",
        ),
        (
            lambda r: drop(r, "arms", "grpo", "runs", 2),
            "arms.grpo.runs: seeds [0, 1], the study's are [0, 1, 2]",
        ),
        (
            lambda r: drop(r, "base", "tasks", "sort", "greedy", 0),
            "base.tasks.sort.greedy: 79 of 80 items",
        ),
        (
            lambda r: put(r, 2, "base", "tasks", "sort", "greedy", 0),
            "base.tasks.sort.greedy: a score is not in 0 to 1",
        ),
        (
            lambda r: put(r, "many", "tasks", "sort", "items"),
            'tasks.sort.items: "many" is not a number; repeat the run that writes it',
        ),
        (
            lambda r: put(r, {}, "arms"),
            "arms: empty; there is nothing to report",
        ),
        (
            lambda r: put(r, "best", "arms", "grpo", "expected"),
            "arms.grpo.expected: 'best' is not one of learn, fail",
        ),
        (
            lambda r: put(r, "division", "rule", "task"),
            "rule.task: 'division' is not one of equations, sort, recall",
        ),
        (
            lambda r: put(r, "pass@64", "rule", "metric"),
            "base.tasks.equations: rule.metric: 'pass@64' is not one of "
            "greedy, sampled, pass@8",
        ),
        (
            lambda r: put(r, [["grpo", "dpo", "x"]], "comparisons"),
            "comparisons[0]: 'dpo' is not one of "
            "sft_own, sft_foreign, grpo, idle, worse, shuffled",
        ),
        (
            lambda r: put(r, [["grpo"]], "comparisons"),
            'comparisons[0]: write ["arm", "other arm", "label"]',
        ),
    ],
)
def test_results_that_are_not_whole_are_refused_by_file_and_key(
    tmp_path, change, message
):
    results = study()
    change(results)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    with pytest.raises(ValueError) as caught:
        load_results(tmp_path)
    assert str(caught.value) == f"{file}: {message}"


def test_the_claims_of_a_script_name_what_decides_them(tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"claims": {"c": {}}, "command": "python x.py"}))
    with pytest.raises(ValueError, match="results.json: .*decided by python x.py$"):
        load_results(file)


def test_missing_torn_and_foreign_files_are_refused_in_one_line(tmp_path):
    file = tmp_path / "results.json"
    with pytest.raises(FileNotFoundError, match="finished `unipost run`"):
        load_results(file)
    whole = json.dumps(study())
    for text, said in [
        (whole[: len(whole) // 2], "not whole JSON"),
        ("", "not whole JSON"),
        ("[1, 2]", r"top level: \[1, 2\] is not a mapping"),
        ('{"loss": 1}', "study: missing"),
    ]:
        file.write_text(text)
        with pytest.raises(ValueError, match=said) as caught:
            load_results(tmp_path)
        assert str(caught.value).startswith(f"{file}: ")
        assert "\n" not in str(caught.value)
    file.write_text(whole)
    assert load_results(tmp_path) == load_results(file) == study()
