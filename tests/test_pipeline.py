"""Pipelines: what a file may say, resuming, and what is refused to be used again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_pipeline import contents, tree
from tiny_runs import write_sums

from unipost.analysis.statistics import bootstrap_mean, paired_difference
from unipost.cli import main
from unipost.display import Display
from unipost.pipeline import kinds, load_pipeline, run_pipeline
from unipost.pipeline.preflight import check_stages
from unipost.runs import RunError
from unipost.tree import ConfigError


@pytest.fixture
def file(tmp_path):
    """A function that writes the pipeline, edited, and gives its path."""
    (tmp_path / "data").mkdir()
    data = write_sums(tmp_path / "data")

    def write(edit=lambda tree: None) -> str:
        whole = tree(data)
        edit(whole)
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(whole, sort_keys=False))
        return str(path)

    return write


REFUSED = {
    "unknown": (
        lambda t: t["stages"]["rl"].update(model="{colt}"),
        "stages.rl.model: no stage 'colt'; did you mean 'cold'? (the stages are",
    ),
    "later": (
        lambda t: (
            t["stages"]["side"].update(data={"path": "{late}"})
            or t["stages"].update(late={**t["stages"]["reject"]})
        ),
        "stages.side.data.path: 'late' comes later; write it before 'side'",
    ),
    "cycle": (
        lambda t: t["stages"]["cold"].update(model="{rl}"),
        "stages.cold.model: a cycle: cold reads rl reads cold",
    ),
    "itself": (
        lambda t: t["stages"]["side"].update(model="{side}"),
        "stages.side.model: a cycle: side reads side",
    ),
    "unused": (
        lambda t: t.pop("results"),
        'stages.side: no stage reads it; write "{side}" where it is meant, or results',
    ),
    "rows as a model": (
        lambda t: t["stages"]["sft"].update(model="{reject}"),
        "stages.sft.model: {reject} is a file of rows; write a model",
    ),
    "a model as rows": (
        lambda t: t["stages"]["sft"].update(data={"path": "{rl}"}),
        "stages.sft.data.path: {rl} is a model; write a file of rows",
    ),
    "rows as a reward model": (
        lambda t: (
            t["stages"]["reject"].update(
                path="{first}", reward={"name": "reward_model", "path": "{first}"}
            )
            or t.update(stages={"first": {**t["stages"]["reject"]}, **t["stages"]})
            or t["stages"]["first"].update(model="m", path="p", reward="exact")
        ),
        "stages.reject.reward.path: {first} is a file of rows; write a model",
    ),
    "no quotes": (
        lambda t: t["stages"]["rl"].update(model={"cold": None}),
        'stages.rl.model: write it in quotes: "{cold}"',
    ),
    "kind": (
        lambda t: t["stages"]["rl"].update(kind="trian"),
        "stages.rl.kind: 'trian'; write one of train, rejection, labelling, "
        "best_of, evaluation",
    ),
    "settings of a late stage": (
        lambda t: t["stages"]["sft"].update(stepz=3),
        "stages.sft.stepz: unknown 'stepz'; did you mean 'steps'?",
    ),
    "data of a late stage": (
        lambda t: t["stages"]["sft"].update(objective="dpo"),
        "stages.sft: data: gives demonstrations, the objective follows preferences",
    ),
    "results": (
        lambda t: t.update(results=["end"]),
        "results: no stage 'end'",
    ),
    "a file name": (
        lambda t: t["stages"].update({"a/b": t["stages"]["side"]}),
        "stages.a/b: a stage names a folder; write letters and _",
    ),
    "comparisons": (
        lambda t: t.update(comparisons=[["sft", "side", "x"]]),
        "comparisons: need rule: {task, metric}",
    ),
    "seeds": (
        lambda t: t.update(seeds=[0, 1]) or t["stages"]["sft"].update(seed=3),
        "stages.sft.model: {cold} runs for every seed, this stage once",
    ),
    "nothing follows the seeds": (
        lambda t: (
            t.update(seeds=[0, 1])
            or t["common"].update(seed=0)
            or t["stages"]["reject"].update(seed=0)
        ),
        "seeds: every stage has a seed of its own",
    ),
    "measured twice": (
        lambda t: t["stages"].update(again={"kind": "evaluation", "model": "{rl}"}),
        "stages.again.model: {rl} is measured as a stage already",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_file_is_refused_at_load_in_one_line(file, case):
    edit, message = REFUSED[case]
    with pytest.raises(ConfigError) as error:
        load_pipeline(file(edit))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert "small.yaml" in str(error.value)


def test_an_override_of_no_stage_is_refused(file):
    with pytest.raises(ConfigError, match="stages.rll: unknown 'rll'; did you mean"):
        load_pipeline(file(), ["stages.rll.steps=3"])


@pytest.mark.parametrize("name", ["r1", "distillation"])
def test_the_shipped_pipelines_load_and_are_explained(name, capsys, monkeypatch):
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    check_stages(load_pipeline(f"experiments/{name}.yaml"))
    assert main(["explain", f"experiments/{name}.yaml"]) == 0
    text = capsys.readouterr().out
    trained = {"r1": "sft", "distillation": "distilled_rl"}[name]
    assert f"{trained}\n" in text and "reject\n" not in text


def test_what_would_stop_a_late_stage_is_found_before_the_first_runs(file, tmp_path):
    """A file that is not there; a response of the last stage that does not fit."""
    out = tmp_path / "out"
    missing = load_pipeline(file(), ["stages.side.data.path=nowhere.jsonl"])
    with pytest.raises(RunError, match="^stages.side: nowhere.jsonl: no such file"):
        run_pipeline(missing, out)
    short = load_pipeline(file(), ["stages.side.data.response_length=1"])
    with pytest.raises(RunError, match="(?s)^stages.side.data: .*response_length"):
        run_pipeline(short, out)
    assert not out.exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of the whole pipeline by the command line, and its file."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "data").mkdir()
    path = folder / "small.yaml"
    made = tree(write_sums(folder / "data"))
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    assert main(["run", str(path), "--out", str(folder / "out")]) == 0
    return path, folder / "out"


def test_stages_are_run_directories_that_read_each_other(whole):
    path, out = whole
    config = yaml.safe_load((out / "sft" / "config.yaml").read_text())
    assert config["model"] == str(out / "cold" / "final")
    assert config["data"]["path"] == str(out / "reject" / "rows.jsonl")
    lines = (out / "reject" / "rows.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert len(kept) > 4
    assert all(len(row["completion"]) == 2 * row["reward"] >= 1 for row in kept)
    for stage in ("cold", "rl", "side", "sft"):
        assert len((out / stage / "metrics.jsonl").read_text().splitlines()) == 4
        assert (out / stage / "final" / "config.json").exists()


def test_the_summary_is_that_of_the_models(whole):
    """Against the outcomes in report.json; the first model's own distance is not 0."""
    _, out = whole
    summary = json.loads((out / "summary.json").read_text())["stages"]
    assert [*summary] == ["cold", "rl", "reject", "side", "sft"]
    count = len((out / "reject" / "rows.jsonl").read_text().splitlines())
    numbers = summary["reject"]["numbers"]
    assert (numbers["sampled"], numbers["kept"]) == (80, count)
    report = json.loads((out / "sft" / "report.json").read_text())
    outcomes = report["tasks"]["sums"]["outcomes"]
    assert set(outcomes) == {"greedy", "sampled", "pass@2"}
    for metric, values in outcomes.items():
        found = summary["sft"]["scores"][f"sums/{metric}"]
        assert found == pytest.approx(list(bootstrap_mean([values])))
    assert summary["side"]["means"]["kl_reverse"] > 0
    table = (out / "summary.md").read_text()
    assert f"kept {count} of 80" in table and "4 steps" in table


def test_a_second_start_runs_nothing(whole, capsys):
    path, out = whole
    before = {p: p.stat().st_mtime_ns for p in out.glob("*/*") if p.is_file()}
    assert main(["run", str(path), "--out", str(out)]) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before


@pytest.mark.parametrize("stage, step", [("rl", 1), ("sft", 4)])
def test_killed_in_any_stage_it_goes_on_to_the_same_bytes(whole, tmp_path, stage, step):
    path, out = whole
    mine = tmp_path / "again" / "out"
    update = Display.update

    def killed(self, now, metrics, tokens):
        if f"] {stage}" in self.title and now == step:
            raise KeyboardInterrupt
        update(self, now, metrics, tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Display, "update", killed)
        assert main(["run", str(path), "--out", str(mine)]) == 130
    assert not (mine / stage / "done.json").exists()
    assert not (mine / "summary.json").exists()
    assert main(["run", str(path), "--out", str(mine)]) == 0
    wanted, found = contents(out), contents(mine)
    # a stage's config names the folder of the one before, which is another here
    same = {k for k in wanted if not k.endswith("config.yaml")}
    assert {k: found[k] for k in same} == {k: wanted[k] for k in same}


def test_killed_in_rejection_it_leaves_no_part(file, tmp_path):
    def killed(setting, rejection):
        raise KeyboardInterrupt

    path, out = file(), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinds, "rejection_sample", killed)
        assert main(["run", path, "--out", str(out)]) == 130
    assert (out / "rl" / "done.json").exists()
    assert [p.name for p in (out / "reject").iterdir()] == ["config.yaml"]
    assert main(["run", path, "--out", str(out)]) == 0


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of the whole run to change, and its file."""
    path, out = whole
    # in place, since a run knows its own path
    saved = tmp_path / "saved"
    shutil.copytree(out, saved)
    yield path, out
    shutil.rmtree(out)
    shutil.copytree(saved, out)


def refusal(capsys, path, out, *overrides) -> str:
    """The one line with which a start is refused."""
    assert main(["run", str(path), "--out", str(out), *overrides]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_changed_settings_of_a_stage_name_what_to_remove(copy, capsys):
    path, out = copy
    change = "stages.rl.steps=2"
    text = refusal(capsys, path, out, change)
    named = f"remove {out / 'rl'} {out / 'reject'} {out / 'sft'} and run again"
    assert "rl: was made otherwise (steps: 4 there, 2 here)" in text and named in text
    before = (out / "cold" / "done.json").stat().st_mtime_ns
    shutil.rmtree(out / "rl")
    text = refusal(capsys, path, out, change)  # its readers were made from the old one
    assert "reject: was made otherwise ({rl} has changed since)" in text
    assert f"remove {out / 'reject'} {out / 'sft'} and" in text
    shutil.rmtree(out / "reject")
    shutil.rmtree(out / "sft")
    assert main(["run", str(path), "--out", str(out), change]) == 0
    assert len((out / "rl" / "metrics.jsonl").read_text().splitlines()) == 2
    assert (out / "cold" / "done.json").stat().st_mtime_ns == before


def test_a_common_setting_names_the_first_stage_it_changes(copy, capsys):
    path, out = copy
    text = refusal(capsys, path, out, "common.steps=2")
    assert f"{out / 'cold'}: was made otherwise (steps: 4 there, 2 here)" in text


def test_a_stage_that_was_killed_and_changed_is_refused_too(copy, capsys):
    path, out = copy
    (out / "sft" / "done.json").unlink()
    text = refusal(capsys, path, out, "stages.sft.steps=2")
    assert "sft: was made otherwise (steps: 4 there, 2 here); remove" in text


def test_changed_data_is_no_silent_reuse(copy, capsys):
    from unipost.pipeline import record

    path, out = copy
    data = path.parent / "data" / "sums.jsonl"
    text = data.read_text()
    data.write_text("".join(reversed(text.splitlines(keepends=True))))
    record._content.cache_clear()
    try:
        assert "sums.jsonl has changed since" in refusal(capsys, path, out)
    finally:
        data.write_text(text)
        record._content.cache_clear()


def test_an_earlier_model_with_other_bytes_is_no_silent_reuse(copy, capsys):
    path, out = copy
    weights = next((out / "rl" / "final").glob("*.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    text = refusal(capsys, path, out)
    assert "reject: was made otherwise ({rl} has changed since)" in text


def test_a_removed_stage_is_made_again_and_its_readers_stay(copy):
    """The same settings give the same bytes, so what read them still holds."""
    path, out = copy
    wanted = contents(out)
    before = (out / "sft" / "done.json").stat().st_mtime_ns
    shutil.rmtree(out / "rl")
    assert main(["run", str(path), "--out", str(out)]) == 0
    assert contents(out) == wanted
    assert (out / "sft" / "done.json").stat().st_mtime_ns == before


def test_another_evaluation_measures_again_and_trains_nothing(copy):
    path, out = copy
    before = (out / "sft" / "done.json").stat().st_mtime_ns
    change = "evaluation.tasks.sums.limit=3"
    assert main(["run", str(path), "--out", str(out), change]) == 0
    report = json.loads((out / "sft" / "report.json").read_text())
    assert len(report["tasks"]["sums"]["outcomes"]["greedy"]) == 3
    assert (out / "sft" / "done.json").stat().st_mtime_ns == before


def test_a_folder_with_something_else_is_refused(file, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "holds no pipeline" in refusal(capsys, file(), tmp_path / "out")


def test_seeds_run_each_stage_but_those_with_their_own(file, tmp_path):
    """Two seeds below one teacher; intervals and a comparison over seeds and items."""

    def edit(tree):
        tree["seeds"] = [0, 1]
        tree["rule"] = {"task": "sums", "metric": "greedy"}
        tree["comparisons"] = [["late", "side", "more steps"]]
        tree["results"] = ["side"]
        stages = tree["stages"]
        tree["stages"] = {
            "cold": stages["cold"] | {"seed": 7},
            "side": stages["side"],
            "late": stages["side"] | {"model": "{side}", "steps": 2},
        }

    out = tmp_path / "out"
    summary = run_pipeline(load_pipeline(file(edit)), out)
    assert (out / "cold" / "final").exists()
    weights = [
        (out / "late" / s / "final" / "model.safetensors").read_bytes() for s in "01"
    ]
    assert weights[0] != weights[1]
    config = yaml.safe_load((out / "late" / "1" / "config.yaml").read_text())
    assert config["model"] == str(out / "side" / "1" / "final")
    assert config["seed"] == 1

    def outcomes(stage):
        texts = [(out / stage / s / "report.json").read_text() for s in "01"]
        return [json.loads(t)["tasks"]["sums"]["outcomes"]["greedy"] for t in texts]

    score = summary["stages"]["late"]["scores"]["sums/greedy"]
    assert score == pytest.approx(list(bootstrap_mean(outcomes("late"))))
    found = summary["comparisons"][0]
    paired = paired_difference(outcomes("late"), outcomes("side"))
    assert found["difference"] == pytest.approx(list(paired))
    assert np.shape(outcomes("late")) == (2, 10)
