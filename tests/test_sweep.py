"""Sweeps: what a file describes, which runs a start does, and what it sums up."""

import csv
import io
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import lines, write_sums

from unipost.cli import main
from unipost.config import load, to_tree
from unipost.evaluate import bootstrap_mean, paired_difference
from unipost.experiment import Experiment
from unipost.locks import held
from unipost.preemption import EXIT, Stopped
from unipost.runs import RunError
from unipost.sweep import children, command
from unipost.sweep.grid import combinations, short_keys
from unipost.sweep.plan import Shard, make_plan, plan_text
from unipost.sweep.record import Folders, last_line, open_sweep
from unipost.sweep.run import Asked, Progress, run_sweep
from unipost.sweep.settings import load_sweep
from unipost.sweep.summary import csv_table, summarise, summary_text
from unipost.sweep.watch import Table
from unipost.train import train
from unipost.tree import ConfigError

ROOT = Path(__file__).parents[1]
PROCESS = Path(__file__).parent / "sweep_process.py"
BASE = """
model: {characters: "0123456789+=", hidden_size: 16, intermediate_size: 32,
  num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8,
  max_position_embeddings: 16}
data: {name: demonstrations, path: PATH, prompts: 4, prompt_length: 4,
  response_length: 3}
objective: sft
optimizer: {name: adamw, learning_rate: 1e-2, b2: 0.98}
steps: 3
checkpoints: {every: 2}
evaluation: {tasks: {sums: {path: PATH, prompt_length: 4, response_length: 3}}}
"""
SWEEP = """
claim: A larger rate learns more.
base: base.yaml
grid:
  optimizer.learning_rate: [1e-3, 1e-2]
  objective: [sft, {name: f_sft, divergence: pearson_chi2}]
seeds: [0, 1]
"""
RATE = "optimizer.learning_rate"


@pytest.fixture
def file(tmp_path):
    """A sweep file with its base beside it."""
    path = write_sums(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE.replace("PATH", path))
    found = tmp_path / "rates.yaml"
    found.write_text(SWEEP)
    return found


@pytest.fixture
def quick(monkeypatch):
    """Processes that only write files; returns a function that says how they behave."""
    behaviour = ["3", "0.01", "nothing"]

    def quick_command(unit, folders, cache):
        places = [str(folders.of(run)) for run in unit.runs]
        return [sys.executable, str(PROCESS), *behaviour, *places]

    monkeypatch.setattr(children, "command", quick_command)

    def behave(pause="0.01", failing="nothing"):
        behaviour[1:] = pause, failing

    return behave


SEPARATE = Asked(jobs=3, grouping="separate")


def test_a_grid_is_a_product_in_its_own_order():
    found = combinations({"a.x": [1, 2], "b": {"c": [0.5, 1e-5]}, "d": "one"})
    assert [x.values for x in found] == [
        {"a.x": x, "b.c": c, "d": "one"} for x in (1, 2) for c in (0.5, 1e-5)
    ]
    assert [x.name for x in found][:2] == ["x=1,c=0.5,d=one", "x=1,c=1e-05,d=one"]


def test_grids_in_a_list_stand_side_by_side():
    found = combinations([{}, {"a": [1, 2]}, {"b": 3}])
    assert [x.name for x in found] == ["base", "a=1", "a=2", "b=3"]


def test_names_are_folders_and_differ():
    values = ["m:F/x y", {"name": "alpha", "a": 0.5}, {"low": 1, "high": [2, 3]}]
    values += [None, True, "true", "x" * 300, "x" * 301]
    found = combinations({"part": values})
    names = [x.name for x in found]
    assert len({*names}) == len(values)
    assert all(re.fullmatch(r"[A-Za-z0-9._=,+-]{1,120}", name) for name in names)
    assert names[:3] == ["part=m_F_x_y", "part=alpha-a=0.5", "part=low=1+high=2+3"]


def test_short_keys_tell_keys_apart():
    keys = ["objective.link.low", "objective.signal.low", "steps", "data.0.steps"]
    shown = short_keys(keys)
    assert shown["objective.link.low"] == "link.low"
    assert shown["objective.signal.low"] == "signal.low"
    assert shown["data.0.steps"] == "0.steps" and shown["steps"] == "steps"


def test_every_run_is_what_the_command_line_would_make(file):
    """By another way: `unipost run base.yaml KEY=VALUE ...`, through the loader."""
    sweep = load_sweep(file)
    assert len(sweep.runs) == 8
    for run in sweep.runs:
        given = [f"{k}={json.dumps(v)}" for k, v in run.combination.values.items()]
        base = file.parent / "base.yaml"
        alone = load(Experiment, base, [*given, f"seed={run.seed}"])
        assert to_tree(run.experiment) == to_tree(alone)


def test_overrides_change_the_file(file):
    given = ["base.steps=7", "seeds=[4]", f"grid.{RATE}=[0.5]", "metrics=[loss]"]
    sweep = load_sweep(file, given)
    assert [run.name for run in sweep.runs] == [
        "learning_rate=0.5,objective=sft/4",
        "learning_rate=0.5,objective=f_sft-divergence=pearson_chi2/4",
    ]
    assert {run.experiment.steps for run in sweep.runs} == {7}
    assert sweep.settings.metrics == ("loss",)


def test_the_base_may_be_written_in_the_sweep(file):
    whole = load_sweep(file)
    file.write_text(SWEEP.replace("base: base.yaml", "base: {extends: base.yaml}"))
    assert [r.config for r in load_sweep(file).runs] == [r.config for r in whole.runs]
    inline = BASE.replace("\n", "\n  ")
    inline = inline.replace("PATH", str(file.parent / "sums.jsonl"))
    file.write_text(SWEEP.replace("base: base.yaml", f"base:{inline}"))
    assert [r.config for r in load_sweep(file).runs] == [r.config for r in whole.runs]


def test_without_seeds_the_base_has_its_own(file):
    file.write_text(SWEEP.replace("seeds: [0, 1]", ""))
    assert {run.seed for run in load_sweep(file, ["base.seed=6"]).runs} == {6}


@pytest.mark.parametrize(
    "override, message",
    [
        ("steps=3", "command line: steps: no key of a sweep .*write base.steps"),
        ("base.stps=3", "combination .*sft: stps: unknown 'stps'; did you mean"),
        (f"grid.{RATE}=[-1]", "learning_rate=-1,objective=sft: optimizer"),
        (f"grid.{RATE}=[]", f"grid.{RATE}: no values"),
        (f"grid.{RATE}=[1.0e-2, 1e-2]", "0.01 is there twice"),
        ("grid.seed=[1]", "grid.seed: write seeds"),
        ("grid=[{}, {steps: 3}]", "base and steps=3 are the same experiment"),
        ("grid=[]", "grid: empty"),
        ("grid=4", "grid: 4 is no mapping"),
        ("seeds=[1, 1]", "seeds: .* write different numbers"),
        ("base=nowhere.yaml", "nowhere.yaml: cannot be read"),
        ("base=4", "base: expected a mapping, got 4"),
        ("skip=[{when: {steps: 9}, reason: x}]", "skip.0: .*fits no combination"),
        ("skip=[{when: {steps: 9}, reason: ''}]", "skip.0: write when"),
    ],
)
def test_wrong_files_are_refused_in_one_line(file, override, message):
    with pytest.raises(ConfigError, match=message) as found:
        load_sweep(file, [override])
    assert "\n" not in str(found.value)


def test_an_invalid_combination_has_to_be_named(file):
    """A grid with a point that is no experiment runs only where `skip` says why."""
    file.write_text(SWEEP.replace("seeds:", "  minibatches: [1, 3]\nseeds:"))
    with pytest.raises(ConfigError, match="minibatches=3.*do not divide"):
        load_sweep(file)
    skip = "skip=[{when: {minibatches: 3}, reason: four prompts}]"
    sweep = load_sweep(file, [skip])
    assert len(sweep.runs) == 8 and len(sweep.skipped) == 4
    assert {reason for _, reason in sweep.skipped} == {"four prompts"}
    with pytest.raises(ConfigError, match="skip: leaves no combination"):
        load_sweep(
            file,
            [skip.replace("minibatches: 3", f"{RATE}: 1.0e-3"), f"grid.{RATE}=[1e-3]"],
        )


def test_sampled_rows_keep_their_reference_by_seed(file):
    given = [
        "base.objective=dpo",
        "grid=[{objective.beta: [0.1, 0.2]}]",
        "base.reference_cache=kept",
        "base.data={name: sampled_preferences, group: 2, sampling: {max_tokens: 3}, "
        f"path: {file.parent}/sums.jsonl, prompts: 4, prompt_length: 4}}",
    ]
    places = [run.experiment.reference_cache for run in load_sweep(file, given).runs]
    assert places == ["kept/0", "kept/1"] * 2


@pytest.mark.parametrize("size", [1, 2, 5, 12, 48])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_shards_are_a_partition(size, count):
    items = [*range(size)]
    parts = [Shard(i, count).of(items) for i in range(1, count + 1)]
    assert [x for part in parts for x in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "a/b", "-1/2", "1/0"])
def test_wrong_shards_are_refused(text):
    with pytest.raises(ValueError, match=f"--shard {text}: "):
        Shard.parse(text)
    assert Shard.parse("2/4") == Shard(2, 4)


def test_a_failed_run_stops_no_other_and_is_tried_again(file, tmp_path, quick, capsys):
    sweep, out = load_sweep(file), tmp_path / "out"
    bad = "learning_rate=0.01,objective=sft/1"
    quick(failing=bad)
    with pytest.raises(RunError, match=rf"1 \({bad}\) failed; the same command"):
        run_sweep(sweep, out, SEPARATE)
    said = capsys.readouterr()
    assert f"{bad}: failed, 1 steps" in said.err and "1: the loss is NaN" in said.err
    assert said.err.count(": finished, 3 steps") == 7
    assert f"Failed: {bad}: 1: the loss is NaN" in (out / "summary.md").read_text()
    folders = Folders(out)
    with pytest.raises(RunError, match="failed"):  # and again
        run_sweep(sweep, out, SEPARATE)
    plan = make_plan(sweep, Shard(), folders, "separate")
    text = plan_text(sweep, Shard(), plan, folders)
    assert "finished  7" in text and f"retried   1 ({bad})" in text
    quick()
    run_sweep(sweep, out, SEPARATE)
    assert "Failed" not in (out / "summary.md").read_text()
    starts = [folders.log(run).read_text().count("start after") for run in sweep.runs]
    assert sorted(starts) == [1] * 7 + [3]
    assert not any(folders.failure(run) for run in sweep.runs)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_runs_save_and_the_sweep_goes_on(
    number, file, tmp_path, quick, capsys
):
    sweep, out = load_sweep(file), tmp_path / "out"
    quick(pause="0.4")
    before = signal.getsignal(number)
    threading.Timer(0.7, os.kill, (os.getpid(), number)).start()
    with pytest.raises(Stopped, match="8 runs left") as stopped:
        run_sweep(sweep, out, SEPARATE)
    assert stopped.value.code == EXIT and signal.getsignal(number) is before
    assert capsys.readouterr().err.count(": stopped, ") == 3
    assert not (out / "summary.md").exists()
    quick()
    run_sweep(sweep, out, SEPARATE)
    assert "go on     3" in capsys.readouterr().out
    logs = [Folders(out).log(run).read_text() for run in sweep.runs]
    # three went on from where they stopped, no step was done twice
    assert sum(bool(re.search("start after [12]", log)) for log in logs) == 3
    for run in sweep.runs:
        steps = [line["step"] for line in lines(Folders(out).of(run))]
        assert steps == [1, 2, 3]


def test_shards_share_a_folder_and_the_last_sums_up(file, tmp_path, quick, capsys):
    sweep, whole, parts = load_sweep(file), tmp_path / "whole", tmp_path / "parts"
    run_sweep(sweep, whole, SEPARATE)
    for index in (2, 3, 1):
        assert not (parts / "summary.md").exists()
        run_sweep(sweep, parts, Asked(Shard(index, 3), 2, "separate"))
        said = capsys.readouterr().out
        assert ("other processes" in said) == (index != 1)
    for name in ("sweep.json", "summary.csv", "summary.md"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    # nothing is left: a start only writes the summary again
    (parts / "summary.md").unlink()
    run_sweep(sweep, parts, Asked(Shard(2, 3), 2, "separate"))
    assert (parts / "summary.md").read_bytes() == (whole / "summary.md").read_bytes()


def test_a_sweep_may_grow_and_not_change(file, tmp_path, quick):
    out = tmp_path / "out"
    run_sweep(load_sweep(file, ["seeds=[0]"]), out, SEPARATE)
    run_sweep(load_sweep(file), out, SEPARATE)
    logs = [Folders(out).log(run).read_text() for run in load_sweep(file).runs]
    assert all(log.count("start") == 1 for log in logs)
    with pytest.raises(RunError, match="other settings .*steps: 3 there, 4 here"):
        run_sweep(load_sweep(file, ["base.steps=4"]), out, SEPARATE)
    with pytest.raises(RunError, match="holds no sweep; choose another --out"):
        run_sweep(load_sweep(file), tmp_path, SEPARATE)


def test_missing_files_are_found_before_anything_runs(file, tmp_path, quick):
    sweep = load_sweep(file, ["base.data.path=nowhere.jsonl"])
    with pytest.raises(RunError, match="combination .*sft: nowhere.jsonl: no such"):
        run_sweep(sweep, tmp_path / "out", SEPARATE)
    assert not (tmp_path / "out").exists()


def test_a_process_that_dies_is_told_by_its_signal(file, tmp_path, monkeypatch):
    def killed(unit, folders, cache):
        kill = "import os, signal; print('half', flush=True); os.kill(os.getpid(), 9)"
        return [sys.executable, "-c", kill]

    monkeypatch.setattr(children, "command", killed)
    sweep, out = load_sweep(file, ["seeds=[0]"]), tmp_path / "out"
    with pytest.raises(RunError, match="4 .*and 1 more.* failed"):
        run_sweep(sweep, out, SEPARATE)
    failure = Folders(out).failure(sweep.runs[0])
    assert failure == "killed by SIGKILL; last line: half"


def test_the_summary_is_means_intervals_and_paired_differences(file, tmp_path):
    """Against the bootstrap called by hand on numbers that the test wrote itself."""
    sweep = load_sweep(file, ["seeds=[0, 1, 2]", "metrics=[loss]"])
    folders, rng = Folders(tmp_path / "out"), np.random.default_rng(0)
    score, loss = {}, {}
    for run in sweep.runs:
        folder = folders.of(run)
        (folder / "final").mkdir(parents=True)
        score[run.name], losses = float(rng.random()), rng.random(3).tolist()
        loss[run.name] = float(np.mean(losses))
        steps = [{"step": i + 1, "loss": x} for i, x in enumerate(losses)]
        (folder / "metrics.jsonl").write_text(_jsonl(steps))
        ends = [{"step": 1, "sums/greedy": 9.0}, {"step": 3}]
        ends[1]["sums/greedy"] = score[run.name]
        (folder / "evaluation.jsonl").write_text(_jsonl(ends))
    found = summarise(sweep, folders)
    names = [x.name for x in sweep.combinations]

    def of(values, name):
        return [values[f"{name}/{seed}"] for seed in (0, 1, 2)]

    for name in names:
        row = found["combinations"][name]
        assert row["means"]["sums/greedy"] == [*bootstrap_mean(of(score, name))]
        assert row["means"]["train/loss"] == [*bootstrap_mean(of(loss, name))]
        if name != names[0]:
            minus = paired_difference(of(score, name), of(score, names[0]))
            assert row["differences"]["sums/greedy"] == [*minus]
    rows = [*csv.DictReader(io.StringIO(csv_table(found)))]
    assert [row["combination"] for row in rows] == names
    assert rows[0][RATE] == "0.001" and rows[1]["objective"].startswith("f_sft(")
    mean = found["combinations"][names[3]]["means"]["train/loss"]
    assert float(rows[3]["train/loss low"]) == mean[1]
    assert rows[0]["sums/greedy minus first"] == ""
    # a run that is missing is told, and the others still count
    (folders.of(sweep.runs[-1]) / "final").rmdir()
    found = summarise(sweep, folders)
    assert found["failed"] == {sweep.runs[-1].name: "not finished"}
    row = found["combinations"][names[-1]]
    few = [score[f"{names[-1]}/{s}"] - score[f"{names[0]}/{s}"] for s in (0, 1)]
    assert row["differences"]["sums/greedy"] == [*bootstrap_mean(few)]
    assert f"| {names[-1]} |     2 |" in re.sub(" +", " ", summary_text(found)).replace(
        "| 2 |", "|     2 |"
    )
    asked = load_sweep(file, ["seeds=[0, 1, 2]", "metrics=[lss]"])
    with pytest.raises(
        ValueError, match="metrics: .* has no 'lss'; write some of loss"
    ):
        summarise(asked, folders)


def _jsonl(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_last_line_leaves_out_what_is_torn(tmp_path):
    path = tmp_path / "x.jsonl"
    assert last_line(path) == {}
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert last_line(path) == {"step": 2}
    path.write_text("x" * 200_000 + '\n{"step": 3}\n')
    assert last_line(path) == {"step": 3}


def test_the_table_shows_what_there_is_room_for(file, tmp_path, quick):
    from rich.console import Console

    sweep, folders = load_sweep(file), Folders(tmp_path / "out")
    run_sweep(sweep, tmp_path / "out", SEPARATE)
    progress = Progress(dict.fromkeys(sweep.runs, "waiting"))
    bad, busy, done = sweep.runs[7], sweep.runs[5], sweep.runs[0]
    progress.state |= {bad: "failed", busy: "running", done: "finished"}
    progress.problem[bad] = "the loss is NaN"
    progress.since[busy] = 0.0
    table = Table(progress, folders)
    for height, count in ((40, 8), (10, 4)):
        table._console = Console(file=io.StringIO(), width=100, height=height)
        table._console.print(table._table())
        text = table._console.file.getvalue()
        assert text.count("objective=") == count
        assert bad.name in text and busy.name in text and "the loss is NaN" in text
        assert ("not shown" in text) == (count < 8)
        assert "seconds" in text


def test_the_command_refuses_what_it_cannot_do(file, tmp_path, capsys, monkeypatch):
    assert main(["sweep", str(file), "--shard", "0/2"]) == 2
    assert "shards are counted from 1" in capsys.readouterr().err
    assert main(["sweep", str(file), "--jobs", "0", "--out", str(tmp_path / "o")]) == 2
    assert "--jobs 0: write 1 or more" in capsys.readouterr().err
    assert main(["run", str(file)]) == 2
    assert "unipost sweep" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert main(["sweep", str(file)]) == 2
    assert "one of several processes" in capsys.readouterr().err


def test_the_number_of_processes_by_the_device(monkeypatch):
    monkeypatch.setattr(command, "backend", lambda: "cpu")
    assert command.default_jobs() >= 1
    monkeypatch.setattr(command, "backend", lambda: "gpu")
    assert command.default_jobs() == 1
    monkeypatch.undo()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert command.backend() == "cpu"


def test_real_runs_are_those_of_unipost_run(file, tmp_path, capsys):
    """Two processes beside a lock: the bytes of `train`, and a run in use is left."""
    given = ["grid=[{optimizer.learning_rate: [1e-3, 1e-2]}]", "seeds=[0]"]
    sweep, out = load_sweep(file, given), tmp_path / "out"
    start = ["sweep", str(file), *given, "--separate", "--jobs", "2", "--out", str(out)]
    folders = Folders(out)
    first, second = sweep.runs
    open_sweep(sweep, out)
    with held(folders.of(second)):
        assert main(start) == 2
    assert f"1 ({second.name}) in use by another process" in capsys.readouterr().err
    assert folders.finished(first) and not folders.finished(second)
    assert not (out / "summary.md").exists()
    assert main(start) == 0
    said = capsys.readouterr().out
    assert "finished  1" in said and "A larger rate learns more." in said
    for run in sweep.runs:
        train(run.experiment, tmp_path / run.name)
        for name in ("config.yaml", "metrics.jsonl", "evaluation.jsonl"):
            here, there = folders.of(run) / name, tmp_path / run.name / name
            assert here.read_bytes() == there.read_bytes(), name
