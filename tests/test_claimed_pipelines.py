"""The pipelines with claims of experiments/papers: what a finished run is judged on."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from synthetic_results import made_up

from unipost.figure_style import RC
from unipost.paper_figures import parts
from unipost.pipeline import load_pipeline
from unipost.pipeline.claims import register_claims, write_results
from unipost.pipeline.record import runs_of
from unipost.studies.verdicts import found_of
from unipost.test_time.curves import rule_names

ROOT = Path(__file__).parents[1]
PAPERS = ROOT / "experiments" / "papers"
drawing, _ = parts(ROOT / "paper_figs")
ITEMS = 8


def finished(name: str, folder: Path, write) -> tuple[Path, dict]:
    """A run of a pipeline file whose stages have left what `write(run)` writes."""
    pipeline, place = load_pipeline(PAPERS / f"{name}.yaml"), folder / name
    place.mkdir()
    register_claims(pipeline, place)
    runs = list(runs_of(pipeline, place))
    for run in runs:
        run.folder.mkdir(parents=True)
        done = {"settings": run.tree, "inputs": {}, "made": {}, "numbers": {}}
        (run.folder / "done.json").write_text(json.dumps(done | {"seconds": 2.0}))
        write(run)
    write_results(runs, place)
    results = drawing.Stored(place).results(name)
    assert results["wall_seconds"] == 2.0 * len(runs)
    return place, results


def drawn(name: str, place: Path) -> list[dict]:
    """The numbers of the figure of this name; it is drawn, too."""
    module = drawing.script(name)
    found = module.rows(drawing.Stored(place))
    with rc_context(RC):
        module.draw(found)
    return found


def test_the_rules_of_test_time_are_judged_and_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    rng = np.random.default_rng(0)
    sizes = [2**i for i in range(7)]

    def write(run):
        if run.name != "choose":
            return
        asked = run.stage.settings
        # a line in log2 N for the process reward model, one point per doubling less
        # for the others
        slopes = {rule: 0.05 for rule in rule_names([*asked.scores], asked.voting)}
        slopes |= {"best of n, prm": 0.1, "majority": 0.0}
        noise = 0.1 * rng.random(ITEMS)
        rules = {
            rule: {
                str(n): (0.2 + noise + slope * i).tolist() for i, n in enumerate(sizes)
            }
            for rule, slope in slopes.items()
        }
        own = {"one": (0.2 + noise).tolist(), "rules": rules, "tokens": 8.0}
        scorers = dict.fromkeys(asked.scores, 50)
        own |= {"prompt_tokens": 11.0, "parameters": 100, "scorers": scorers}
        (run.folder / "items.json").write_text(json.dumps(own))

    place, results = finished("test_time", tmp_path, write)
    found = found_of(results, 500)
    assert found["process_beats_outcome"]["verdict"] == "supported"
    assert found["grows"]["effects"][0][1] == pytest.approx(10.0, abs=1e-3)
    assert found["grows_linearly"]["effects"][0][1] == pytest.approx(1.0, abs=1e-6)
    last = results["arms"]["best of n, prm"]["runs"][0]
    assert last["generated"] == 64 * 8
    assert last["flops"] == 2 * (100 * (11 + 64 * 8) + 50 * 64 * (11 + 8))
    rows = [r for r in drawn("test_time", place) if r["panel"] == "ours"]
    at = {r["arm"]: r["mean"] for r in rows if r["N"] == 64}
    assert at["steps, product"] - at["outcome"] == pytest.approx(30, abs=0.1)


def test_the_stages_of_distillation_are_judged_and_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    rng = np.random.default_rng(1)
    levels = {"base": 0.0, "direct": 0.125, "distilled": 0.75, "distilled_rl": 0.875}

    def write(run):
        if not run.stage.measured:
            return
        level = levels.get(run.name, 1.0)
        tasks = {}
        for name, task in run.pipeline.evaluation.tasks.items():
            greedy = (rng.random(ITEMS) < 0.9).astype(float)
            outcomes = {"greedy": greedy.tolist()}
            if task.samples:
                outcomes |= {"sampled": [level] * ITEMS, "pass@8": [1.0] * ITEMS}
            tasks[name] = {"outcomes": outcomes, "length": 7.0}
        report = {"tasks": tasks, "distance": {"kl_reverse": 0.5}}
        (run.folder / "report.json").write_text(json.dumps(report))
        if getattr(run.stage.settings, "evaluation", None) is not None:
            lines = [{"step": s, "v3/sampled": level * s / 160} for s in (40, 160)]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (run.folder / "evaluation.jsonl").write_text(text)

    place, results = finished("distil", tmp_path, write)
    assert set(results["arms"]) == {"taught", "teacher", *levels} - {"base"}
    found = found_of(results, 500)
    assert found["distilled_wins"]["effects"][0][1] == 62.5
    assert found["distilled_wins"]["verdict"] == "supported"
    assert found["rl_adds"]["effects"][0][1] == 12.5
    assert results["arms"]["direct"]["runs"][0]["kl_reverse"] == 0.5
    rows = [r for r in drawn("distil", place) if r["what"] == "during/v3/sampled"]
    line = [(r["at"], r["mean"]) for r in rows if r["arm"] == "distilled"]
    assert line == [(0, 0.0), (40, 18.75), (160, 75.0)]


def test_supervision_is_drawn_with_its_second_iteration_behind_the_first(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    made_up(PAPERS / "supervision.yaml", tmp_path / "run")
    rows = [r for r in drawn("supervision", tmp_path / "run") if r["panel"] == "curve"]
    at = {
        arm: [r["at"] for r in rows if r["arm"] == arm] for arm in ("long", "iterated")
    }
    assert at["long"] == [5, 10, 20, 40, 80, 160, 320]
    assert at["iterated"] == [165, 170, 180, 200, 240, 320]
