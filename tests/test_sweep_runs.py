"""Sweeps at work: failures, signals, shards, what is left to do, and the summary."""

import csv
import io
import json
import os
import re
import signal
import sys
import threading
import time

import numpy as np
import pytest
from tiny_runs import lines
from tiny_sweep import RATE, Quick, write_sweep

from unipost.analysis.statistics import bootstrap_mean, paired_difference
from unipost.cli import main
from unipost.locks import held
from unipost.preemption import EXIT, Stopped
from unipost.runs import RunError
from unipost.sweep import children
from unipost.sweep.machine import Machine, find_machine
from unipost.sweep.plan import Shard, make_plan, plan_text
from unipost.sweep.record import Folders, last_line, open_sweep
from unipost.sweep.run import Asked, Progress, run_sweep
from unipost.sweep.settings import load_sweep
from unipost.sweep.summary import csv_table, summarise, summary_text
from unipost.sweep.table import Table
from unipost.train import train

SEPARATE = Asked(slots=({},) * 3, grouping="separate")


@pytest.fixture
def file(tmp_path):
    return write_sweep(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    return Quick(monkeypatch)


def test_a_failed_run_stops_no_other_and_is_tried_again(file, tmp_path, quick, capsys):
    sweep, out = load_sweep(file), tmp_path / "out"
    bad = "learning_rate=0.01,objective=sft/1"
    quick.failing = bad
    with pytest.raises(RunError, match=rf"1 \({bad}\) failed; the same command"):
        run_sweep(sweep, out, SEPARATE)
    said = capsys.readouterr()
    assert f"{bad}: failed, 1 steps" in said.err and ": the loss is NaN" in said.err
    assert said.err.count(": finished, 3 steps") == 7
    assert f"Failed: {bad}: the loss is NaN" in (out / "summary.md").read_text()
    folders = Folders(out)
    with pytest.raises(RunError, match="failed"):  # and again
        run_sweep(sweep, out, SEPARATE)
    plan = make_plan(sweep, Shard(), folders, "separate")
    text = plan_text(sweep, Shard(), plan, folders)
    assert "finished  7" in text and f"retried   1 ({bad})" in text
    quick.failing = "nothing"
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
    quick.pause = "0.6"
    before = signal.getsignal(number)

    def told():
        """Once three runs have a step behind them and none its last."""
        while len([*out.glob("*/*/metrics.jsonl")]) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=told).start()
    with pytest.raises(Stopped, match="8 runs left") as stopped:
        run_sweep(sweep, out, SEPARATE)
    assert stopped.value.code == EXIT and signal.getsignal(number) is before
    assert capsys.readouterr().err.count(": stopped, ") == 3
    assert not (out / "summary.md").exists()
    quick.pause = "0.01"
    run_sweep(sweep, out, SEPARATE)
    assert "go on     3" in capsys.readouterr().out
    logs = [Folders(out).log(run).read_text() for run in sweep.runs]
    # three went on from where they stopped, no step was done twice
    assert sum(bool(re.search("start after [123]", log)) for log in logs) == 3
    for run in sweep.runs:
        steps = [line["step"] for line in lines(Folders(out).of(run))]
        assert steps == [1, 2, 3]


def test_shards_share_a_folder_and_the_last_sums_up(file, tmp_path, quick, capsys):
    sweep, whole, parts = load_sweep(file), tmp_path / "whole", tmp_path / "parts"
    run_sweep(sweep, whole, SEPARATE)
    for index in (2, 3, 1):
        assert not (parts / "summary.md").exists()
        run_sweep(sweep, parts, Asked(Shard(index, 3), ({}, {}), "separate"))
        said = capsys.readouterr().out
        assert ("other processes" in said) == (index != 1)
    for name in ("sweep.json", "summary.csv", "summary.md"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    # nothing is left: a start only writes the summary again
    (parts / "summary.md").unlink()
    run_sweep(sweep, parts, Asked(Shard(2, 3), ({}, {}), "separate"))
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
    with pytest.raises(ValueError, match="metrics: .* no 'lss'; write some of loss"):
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
    sweep, folders = load_sweep(file), Folders(tmp_path / "out")
    run_sweep(sweep, tmp_path / "out", SEPARATE)
    progress = Progress(dict.fromkeys(sweep.runs, "waiting"))
    bad, busy, done = sweep.runs[7], sweep.runs[5], sweep.runs[0]
    progress.state |= {bad: "failed", busy: "running", done: "finished"}
    progress.problem[bad] = "the loss is NaN"
    progress.since[busy], progress.seconds[done] = time.monotonic() - 3.2, 7.0
    table = Table(progress, folders)
    lines = [line for line, _ in table.lines(200, 40)]
    assert len(lines) == 11 and lines[0].split() == [
        *("run", "state", "step", "loss", "accuracy", "seconds")
    ]
    assert lines[1].split() == [done.name, "finished", "3/3", "0.3333", "0.5", "7"]
    assert lines[6].split() == [busy.name, "running", "3/3", "0.3333", "0.6", "3"]
    assert lines[8].split()[:2] == [bad.name, "failed"]
    assert lines[9] == "  the loss is NaN"
    assert lines[10] == "1 failed, 1 running, 5 waiting, 1 finished"
    # a low and narrow terminal: what is at work stays, names lose their middle
    lines = [line for line, _ in table.lines(60, 8)]
    assert len(lines) == 6 and max(map(len, lines)) <= 60
    assert lines[-1].endswith("; 5 not shown")
    assert lines[-2] == "  the loss is NaN" and "…" in lines[1]
    assert [line.split()[1] for line in lines[1:4]] == ["waiting", "running", "failed"]


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


def test_processes_get_their_part_of_the_machine(monkeypatch):
    assert Machine("cpu").jobs >= 1 and Machine("cpu").slots(3, {}) == [{}, {}, {}]
    gpus = Machine("gpu", 4)
    assert gpus.jobs == 1 and gpus.slots(1, {}) == [{}]
    seen = [x["CUDA_VISIBLE_DEVICES"] for x in gpus.slots(3, {})]
    assert seen == ["0", "1", "2,3"]
    given = {"CUDA_VISIBLE_DEVICES": "5,7"}
    assert [x["CUDA_VISIBLE_DEVICES"] for x in gpus.slots(2, given)] == ["5", "7"]
    shared = gpus.slots(6, {})
    assert [x["CUDA_VISIBLE_DEVICES"] for x in shared] == ["0", "1", "2", "3", "0", "1"]
    assert {x["XLA_PYTHON_CLIENT_MEM_FRACTION"] for x in shared} == {"0.450"}
    with pytest.raises(ValueError, match="--jobs 2: a TPU belongs to one process"):
        Machine("tpu", 4).slots(2, {})
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert find_machine() == Machine("cpu")


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


def test_several_runs_are_one_process(file, tmp_path, quick):
    sweep, out = load_sweep(file), tmp_path / "out"
    run_sweep(sweep, out, Asked(slots=({}, {})))
    folders = Folders(out)
    assert all(folders.finished(run) for run in sweep.runs)
    logs = [run for run in sweep.runs if folders.log(run).exists()]
    assert [run.name for run in logs] == [sweep.runs[0].name, sweep.runs[2].name]
    assert folders.log(logs[0]).read_text().count("start after 0") == 4
