"""A study with a curve, a grid and claims: run, killed, run again, judged again."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unipost import study as studies
from unipost.cli import main
from unipost.report import load_results
from unipost.studies.outcomes import compact, expanded
from unipost.study import load_study, run_study
from unipost.tree import ConfigError

EXPERIMENTS = Path(__file__).parents[1] / "experiments"

STUDY = f"""
name: claimed
claim: Two steps change something.
base: {EXPERIMENTS}/base
seeds: [0, 1]
rule: {{task: equations, metric: sampled}}
groups: {{new: [equations], old: [order]}}
curve: [1, 2]
matched: {{task: equations, metric: sampled, reach: 5}}
metrics: [loss]
diagnostics: [weight_l2, kl_forward, {{name: task_kl, task: order}}]
evaluation:
  distance: equations
  distance_items: 8
  rows: 16
  tasks:
    equations:
      path: {EXPERIMENTS}/data/equations_test.jsonl
      prompt_length: 16
      response_length: 12
      samples: 2
      pass_at: [2]
      limit: 8
    order:
      path: {EXPERIMENTS}/data/order_test.jsonl
      prompt_length: 16
      response_length: 12
      reward: exact
      role: retention
      limit: 8
grid:
  optimizer.learning_rate: [1e-4, 3e-3]
common:
  steps: 3
  optimizer: {{name: adamw, learning_rate: 1e-4}}
  data:
    name: demonstrations
    path: {EXPERIMENTS}/data/equations_train.jsonl
    prompts: 8
    prompt_length: 16
    response_length: 12
arms:
  sft: {{title: SFT, objective: sft}}
  then: {{title: SFT again, objective: sft, after: sft@1e-4, grid: {{}}}}
claims:
  moves:
    says: A larger rate moves the weights farther.
    paper: "0000.00000"
    item: Figure 1
    published: "ten times"
    test: {{name: difference, of: [sft@3e-3, sft@1e-4], what: weight_l2, above: 0}}
  same:
    says: Two steps change accuracy by less than 50 points.
    test: {{name: equivalence, of: [sft, base], what: order, margin: 50, at: matched}}
  early:
    says: The weights move with the steps.
    status: exploratory
    test: {{name: slope, of: [sft@3e-3], what: weight_l2, above: 0}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The study file and its run directory, made by the command line."""
    folder = tmp_path_factory.mktemp("study")
    file = folder / "claimed.yaml"
    file.write_text(STUDY)
    assert main(["run", str(file), "--out", str(folder / "out")]) == 0
    return file, folder / "out"


def test_arms_are_multiplied_by_the_grid(ran):
    study = load_study(ran[0])
    assert [*study.arms] == ["sft@1e-4", "sft@3e-3", "then"]
    assert [arm.title for arm in study.arms.values()] == [
        "SFT, 1e-4",
        "SFT, 3e-3",
        "SFT again",
    ]
    rates = [arm.optimizer.learning_rate for arm in study.arms.values()]
    assert [r.peak if hasattr(r, "peak") else r for r in rates] == [1e-4, 3e-3, 1e-4]


def test_every_point_of_the_curve_has_items_and_diagnostics(ran):
    results = load_results(ran[1])
    assert results["base"]["weight_l2"] == 0.0
    for arm in results["arms"].values():
        for run in arm["runs"]:
            assert [point["step"] for point in run["curve"]] == [1, 2]
            for point in (*run["curve"], run):
                assert len(point["tasks"]["equations"]["sampled"]) == 8
                assert point["weight_l2"] > 0 and point["kl_forward"] > 0
                assert point["task_kl_order"] > 0
            moved = [point["weight_l2"] for point in (*run["curve"], run)]
            assert moved == sorted(moved)
            losses = [p["window/loss"] for p in (*run["curve"], run)]
            means = [p["train/loss"] for p in (*run["curve"], run)]
            assert means[0] == losses[0]
            assert means[2] == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_an_arm_goes_on_from_the_model_of_another(ran):
    _, out = ran
    config = (out / "then" / "1" / "config.yaml").read_text()
    assert config.startswith(f"model: {out}/sft@1e-4/1/final\n")
    results = load_results(out)
    first, then = (results["arms"][n]["runs"][1] for n in ("sft@1e-4", "then"))
    assert then["weight_l2"] > first["weight_l2"]


def test_claims_are_in_the_report_and_decided_again_alike(ran, capsys):
    _, out = ran
    claims = load_results(out)["claims"]
    assert claims["moves"]["found"]["verdict"] == "supported"
    assert claims["moves"]["registered"] == "before the run"
    assert claims["same"]["found"]["level"] in (0.9, 0.95)
    assert claims["early"]["found"]["holm"] is None
    report = (out / "report.md").read_text()
    for text in ("| moves", "ten times", "0000.00000, Figure 1", "Exploratory."):
        assert text in report
    assert main(["verdicts", str(out), "--check"]) == 0
    assert "sft@3e-3 - sft@1e-4, weight_l2" in capsys.readouterr().out
    stored = json.loads((out / "results.json").read_text())
    stored["claims"]["moves"]["found"]["verdict"] = "inconclusive"
    other = out.parent / "other.json"
    other.write_text(json.dumps(stored))
    assert main(["verdicts", str(other), "--check"]) == 2
    assert "moves: inconclusive is stored, it is supported" in capsys.readouterr().err
    assert main(["verdicts", str(other)]) == 0


def test_results_are_compact_and_lose_nothing(ran):
    _, out = ran
    stored = json.loads((out / "results.json").read_text())
    task = stored["arms"]["then"]["runs"][0]["tasks"]["equations"]
    assert task["greedy"].startswith("bits:") and len(task["greedy"]) == 5 + 2
    assert task["sampled"].startswith("counts:") and len(task["sampled"]) == 7 + 8
    assert {"command", "cores", "git", "wall_seconds"} <= stored.keys()
    full = expanded(stored)
    run = json.loads((out / "then" / "0" / "result.json").read_text())
    assert (
        full["arms"]["then"]["runs"][0]["tasks"]["equations"]["pass_at"]
        == (run["tasks"]["equations"]["pass_at"])
    )
    assert compact(full) == stored


def test_a_claim_written_after_the_run_is_known_to_be(ran, monkeypatch):
    file, out = ran
    later = file.with_name("later.yaml")
    text = STUDY.replace("above: 0}", "above: 0.001}")
    assert text != STUDY
    later.write_text(text)
    monkeypatch.setattr(studies, "train", None)
    before = (out / "results.json").read_bytes()
    claims = run_study(load_study(later), out)["claims"]
    assert claims["moves"]["registered"] == "after the run"
    assert claims["moves"]["found"]["holm"] is None
    assert claims["same"]["registered"] == "before the run"
    run_study(load_study(file), out)
    after = json.loads((out / "results.json").read_bytes())
    assert after["claims"] == json.loads(before)["claims"]


CHILD = """
import sys
from pathlib import Path
from unipost.study import load_study, run_study
run_study(load_study(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_study_killed_in_the_middle_of_a_run_ends_with_the_same_numbers(
    ran, tmp_path
):
    file, whole = ran
    out = tmp_path / "out"
    log = (tmp_path / "log").open("w")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(file), str(out)], stdout=log, stderr=log
    )
    point = out / "sft@3e-3" / "0" / "curve" / "1.json"
    while not point.exists() and child.poll() is None:
        time.sleep(0.02)
    child.kill()
    child.wait()
    log.close()
    assert point.exists() and not (out / "sft@3e-3" / "1").exists()
    again = run_study(load_study(file), out)
    before = load_results(whole)
    for results in (again, before):
        for arm in results["arms"].values():
            for run in arm["runs"]:
                for key in ("train_seconds", "seconds"):
                    run.pop(key)
    assert again["arms"] == before["arms"]
    assert again["claims"] == before["claims"]


@pytest.mark.parametrize(
    "override, message",
    [
        ("curve=[1, 9]", "curve: 9 is after the last step of arm sft@1e-4; write"),
        ("curve=[2, 2]", r"curve: \[2, 2\]; write rising steps from 1 on"),
        ("matched=null", "claims.same.test: at: matched, but the study has no thresh"),
        ("matched.reach=0.3", "matched: reach: 0.3; write percent"),
        ("matched.task=order", "matched.metric: what: order has no 'sampled'"),
        ("matched.task=sums", "matched.task: 'sums' is no task"),
        ("groups.math=[sums]", "groups.math: 'sums' is no task"),
        ("groups.order=[order]", "groups.order: the name is taken"),
        ("diagnostics=[weight_l3]", "unknown 'weight_l3'; did you mean 'weight_l"),
        ("diagnostics=[{name: task_kl, task: sums}]", "task 'sums' is none"),
        ("diagnostics=[task_kl]", "task_kl: task '' is none; write one of equations"),
        ("evaluation.distance=null", "diagnostics: kl_forward is measured on the task"),
        ("grid.optimizer.learning_rate=[]", "learning_rate: no values"),
        ("arms.then.after=sft", "arms.then.after: 'sft' is no arm above it; write one"),
        ("claims.moves.test.of=[sft@1e-3, base]", "'sft@1e-3' is no arm; did you mean"),
        ("claims.moves.test.of=[sft]", "claims.moves.test.of: expected a list of 2"),
        ("claims.moves.test.what=weight", "'weight' is no task, group or number; did"),
        ("claims.moves.test.what=order/sampled", "order has no 'sampled'"),
        ("claims.moves.test.what=equations/pass@3", "pass@1 to pass@2"),
        ("claims.moves.test.at=5", "at: 5 is no step of the curve"),
        ("claims.moves.test.above=null", "no threshold or two; write one of them"),
        ("claims.moves.test.below=1", "no threshold or two; write one of them"),
        ("claims.same.test.margin=0", "margin: 0; write a number above 0"),
        ("claims.moves.test.name=greater", "unknown 'greater'"),
        ("claims.moves.kind=x", "unknown 'kind'"),
        ("together=0", "together: 0; write 1 or more"),
    ],
)
def test_refused_claims(ran, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_study(ran[0], [override])
    assert "\n" not in str(caught.value)


def test_runs_trained_together_have_the_same_numbers(ran, tmp_path, monkeypatch):
    file, whole = ran
    alone, titles = studies.train, []

    def watched(*args, title, **kwargs):
        titles.append(title)
        return alone(*args, title=title, **kwargs)

    monkeypatch.setattr(studies, "train", watched)
    study = load_study(file, ["together=4"])
    made = run_study(study, tmp_path / "out")
    # what comes after another run starts from a model of its own
    assert titles == ["[5/6] then seed 0", "[6/6] then seed 1"]
    before = load_results(whole)
    for name, arm in made["arms"].items():
        for run, other in zip(arm["runs"], before["arms"][name]["runs"], strict=True):
            points = zip((run, *run["curve"]), (other, *other["curve"]), strict=True)
            for one, two in points:
                for key in ("weight_l2", "train/loss", "window/loss"):
                    assert one[key] == pytest.approx(two[key], rel=1e-5)
                for task, outcome in two["tasks"].items():
                    assert one["tasks"][task]["greedy"] == outcome["greedy"]
