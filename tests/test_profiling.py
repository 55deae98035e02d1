"""Phases of a step and traces: what is counted where, and that no number changes."""

import gzip
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from tiny_runs import MODEL, experiment, lines, write_sums

from unipost import loop
from unipost.cli import main
from unipost.profiling import Phases, Trace, on_device, phase, shares, shares_text
from unipost.profiling import phases as measured
from unipost.profiling.timeline import Span, divided
from unipost.rollouts import stream
from unipost.train import train

HOST = {"data", "generate", "grade", "sync", "save", "evaluate"}
DEVICE = {"score", "update"}
FIXED = {"step", "seconds", "compile_seconds", "tokens"}


def spans(rng, names, end):
    """Disjoint spans between whole seconds, in order."""
    cuts = np.sort(rng.choice(end, size=8, replace=False))
    pairs = zip(cuts[::2], cuts[1::2], strict=True)
    return [Span(str(rng.choice(names)), float(a), float(b)) for a, b in pairs]


@pytest.mark.parametrize("seed", range(20))
def test_a_stretch_divides_as_its_moments_do(seed):
    """Against counting second by second: the device's first, then the host's."""
    rng = np.random.default_rng(seed)
    device, host = spans(rng, ["score", "update"], 40), spans(rng, ["data", "save"], 40)
    start, end = sorted(rng.choice(40, size=2, replace=False))
    wanted: dict[str, float] = {}
    for second in range(start, end):
        for found in (device, host):
            names = [x.name for x in found if x.start <= second < x.end]
            if names:
                wanted[names[0]] = wanted.get(names[0], 0.0) + 1
                break
    got = {k: v for k, v in divided(start, end, device, host).items() if v}
    assert got == wanted


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(measured.time, "perf_counter", lambda: self.now)


class Result:
    """Something that the device makes; ready when the test says so."""

    def __init__(self):
        self.ready, self.asked = threading.Event(), threading.Event()

    def block_until_ready(self):
        self.asked.set()
        assert self.ready.wait(5)


def test_a_phase_inside_another_counts_for_itself(monkeypatch):
    clock = Clock(monkeypatch)
    with Phases() as phases:
        with phase("data"):
            clock.now = 2.0
            with phase("generate"):
                clock.now = 5.0
            clock.now = 6.0
        clock.now = 7.0
        with phase("save"):
            clock.now = 9.0
        assert phases.between(0.0, 10.0) == {"data": 3.0, "generate": 3.0, "save": 2.0}
        # a stretch is asked for once; what was before it is gone
        assert phases.between(10.0, 20.0) == {}


def test_a_phase_of_the_device_ends_with_its_results(monkeypatch):
    """Handed over at 0 and 1, ready at 4 and 6: the second began when the first ended.

    What the host did meanwhile counts only where the device had nothing to do.
    """
    clock, one, two = Clock(monkeypatch), Result(), Result()
    with Phases() as phases:
        with on_device("score") as gives:
            gives({"old": one})
        clock.now = 1.0
        with on_device("update") as gives:
            gives([two])
        with phase("data"):
            for result, now in ((one, 4.0), (two, 6.0)):
                assert result.asked.wait(5)
                clock.now = now
                result.ready.set()
                while len(phases._pending) == (2 if result is one else 1):
                    time.sleep(0.001)
            clock.now = 7.5
        assert phases.between(0.0, 8.0) == {"score": 4.0, "update": 2.0, "data": 1.5}


def test_another_thread_counts_beside_the_loop(monkeypatch):
    from contextvars import copy_context

    clock = Clock(monkeypatch)

    def draw():
        with phase("generate"):
            clock.now = 3.0

    with Phases() as phases:
        with phase("data"):
            thread = threading.Thread(target=copy_context().run, args=(draw,))
            thread.start()
            thread.join()
        found = phases.between(1.0, 4.0)
    assert found == {"data": 2.0, "ahead/generate": 2.0}


def test_an_error_on_the_device_stops_no_measuring():
    class Broken:
        def block_until_ready(self):
            raise RuntimeError("out of memory")

    with Phases() as phases:
        with on_device("update") as gives:
            gives(Broken())
        phases.wait()
        assert {*phases.between(0.0, time.perf_counter())} == {"update"}


def test_outside_of_a_run_nothing_is_measured():
    with phase("data"), on_device("score") as gives:
        gives(None)


def run_of(kind, folder, **changes):
    return experiment(kind, write_sums(folder), **changes)


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_every_step_tells_its_phases_within_its_time(kind, tmp_path):
    run = run_of(kind, tmp_path)
    train(run, tmp_path / "run", model=MODEL)
    timing = lines(tmp_path / "run", "timing")
    assert [x["step"] for x in timing] == [1, 2, 3, 4, 5, 6]
    for line in timing:
        spent = {k: v for k, v in line.items() if k not in FIXED}
        assert {*spent} <= HOST | DEVICE and min(spent.values()) >= 0
        assert sum(spent.values()) <= line["seconds"] + 1e-4
        assert "data" in spent
        assert ({"generate", "grade"} <= {*spent}) == (kind == "grpo")
        assert ("save" in spent) == (line["step"] % 2 == 0)
        assert ("evaluate" in spent) == (line["step"] % 3 == 0)
    told = sum(v for line in timing for k, v in line.items() if k not in FIXED)
    assert told > 0.5 * sum(line["seconds"] for line in timing)
    # the device may begin a step's update after the loop has gone on to the next
    assert sum("update" in line for line in timing) >= 4


def test_what_takes_long_is_counted_where_it_is(tmp_path, monkeypatch):
    """30 ms of a reward, of a sampler and of a save, in their own entries."""
    pause = 0.03

    def slow(module, name):
        real = getattr(module, name)

        def call(*args, **kwargs):
            time.sleep(pause)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    slow(stream, "graded")
    slow(stream, "as_samples")
    slow(loop, "saved")
    run = run_of("grpo", tmp_path, evaluation=None)
    train(run, tmp_path / "run", model=MODEL)
    for line in lines(tmp_path / "run", "timing")[1:]:
        assert line["grade"] >= pause
        assert line["data"] >= pause  # what follows the sampler is preparing rows
        if line["step"] % 2 == 0:
            assert line["save"] >= pause


def test_what_is_sampled_ahead_is_measured_in_its_thread(tmp_path):
    run = run_of("grpo", tmp_path, staleness=1, evaluation=None)
    train(run, tmp_path / "run", model=MODEL)
    timing = lines(tmp_path / "run", "timing")
    assert sum(x.get("ahead/generate", 0.0) for x in timing) > 0
    assert not any("generate" in x for x in timing)
    for line in timing:
        inside = [v for k, v in line.items() if k not in FIXED and "/" not in k]
        assert sum(inside) <= line["seconds"] + 1e-4


def test_measuring_and_tracing_change_no_number(tmp_path, monkeypatch):
    run = run_of("grpo", tmp_path, evaluation=None, checkpoints=None)
    train(run, tmp_path / "traced", model=MODEL, trace=Trace(2))

    @contextmanager
    def nothing(name):
        yield lambda arrays: None

    monkeypatch.setattr(loop, "phase", nothing)
    monkeypatch.setattr(loop, "on_device", nothing)
    train(run, tmp_path / "plain", model=MODEL)
    files = [tmp_path / name / "metrics.jsonl" for name in ("traced", "plain")]
    assert files[0].read_bytes() == files[1].read_bytes()


def events(folder):
    """The named events of the one trace in a run's folder, and its files' endings."""
    (place,) = (folder / "trace" / "plugins" / "profile").iterdir()
    (path,) = place.glob("*.trace.json.gz")
    with gzip.open(path) as file:
        found = json.load(file)["traceEvents"]
    return [x for x in found if "name" in x], {
        "".join(p.suffixes) for p in place.iterdir()
    }


def test_a_trace_holds_its_steps_and_their_phases(tmp_path):
    """Steps 3 and 4: the first two of the start compile and are left out."""
    run = run_of("grpo", tmp_path, checkpoints=None)
    train(run, tmp_path / "run", model=MODEL, trace=Trace(2))
    found, files = events(tmp_path / "run")
    assert files == {".xplane.pb", ".trace.json.gz"}
    steps = [x for x in found if x["name"] == "step"]
    assert [x["args"]["step_num"] for x in steps] == ["3", "4"]
    first, last = steps[0]["ts"], steps[-1]["ts"] + steps[-1]["dur"]
    names = {"data", "generate", "grade", "score", "update", "evaluate"}
    for name in names:
        inside = [x for x in found if x["name"] == name and first <= x["ts"] < last]
        assert len(inside) == (1 if name == "evaluate" else 2), name
    # the programs of the device are there too, whole
    assert any("update" in x["name"] for x in found if x["name"] not in names)


def test_a_trace_of_a_run_that_goes_on(tmp_path):
    """By its own steps, after those that a new start compiles again."""
    run = run_of("sft", tmp_path, evaluation=None)
    train(replace(run, steps=2), tmp_path / "run", model=MODEL)
    kept = tmp_path / "run" / "config.yaml"
    kept.write_text(kept.read_text().replace("\nsteps: 2\n", "\nsteps: 6\n"))
    train(run, tmp_path / "run", model=MODEL, trace=Trace(2))
    steps = [x for x in events(tmp_path / "run")[0] if x["name"] == "step"]
    assert [x["args"]["step_num"] for x in steps] == ["5", "6"]
    assert len(lines(tmp_path / "run")) == 6
    assert Trace(1, 4).span(2, 6) == range(4, 5)


@pytest.mark.parametrize(
    "trace, done, message",
    [
        (Trace(5), 0, "--trace 5: the first 2 compile, steps 3 to 7 .* steps 1 to 6"),
        (Trace(2, 6), 0, "--trace 2: steps 6 to 7 are asked for"),
        (Trace(1, 2), 4, "--trace-from 2: the run goes on after step 4"),
        (Trace(1), 6, "--trace 1: .*has done all of its 6 steps"),
    ],
)
def test_a_trace_past_the_run_is_refused(trace, done, message):
    with pytest.raises(ValueError, match=message):
        trace.span(done, 6)


@pytest.mark.parametrize("args, name", [((0,), "--trace"), ((1, 0), "--trace-from")])
def test_a_trace_of_nothing_is_refused(args, name):
    with pytest.raises(ValueError, match=f"{name} 0: write 1 or more"):
        Trace(*args)


def line(seconds, compiling=0.0, **spent):
    return {
        "step": 1,
        "seconds": seconds,
        "compile_seconds": compiling,
        "tokens": 9,
    } | (spent)


def test_shares_are_of_the_steps_that_compile_nothing(tmp_path):
    rows = [
        line(9.0, 5.0, update=9.0),
        line(1.0, generate=0.5, update=0.25, **{"ahead/generate": 0.9}),
        line(3.0, generate=1.5, update=1.25, **{"ahead/generate": 2.7}),
    ]
    found = shares(rows)
    assert [*found] == ["generate", "update", "other", "ahead/generate"]
    assert found == pytest.approx(
        {"generate": 0.5, "update": 0.375, "other": 0.125, "ahead/generate": 0.9}
    )
    assert shares(rows[:1]) == {"update": 1.0, "other": 0.0}
    assert shares([line(1.0)]) == {}  # of a run before phases were measured
    path = tmp_path / "timing.jsonl"
    assert shares_text(path) == ""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = "time: generate 50%, update 38%, other 12%, beside it generate 90%"
    assert shares_text(path) == said


def test_the_command_traces_and_tells_the_shares(tmp_path, capsys):
    path = write_sums(tmp_path)
    (tmp_path / "run.yaml").write_text(f"""
model: {{characters: "0123456789+=", hidden_size: 16, intermediate_size: 32,
  num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8,
  max_position_embeddings: 16}}
data: {{name: demonstrations, path: {path}, prompts: 4, prompt_length: 4,
  response_length: 3}}
objective: sft
optimizer: {{name: adamw, learning_rate: 1e-2}}
steps: 4
""")
    start = ["run", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "out")]
    assert main([*start, "--trace-from", "2"]) == 2
    assert "--trace-from: says nothing without --trace N" in capsys.readouterr().err
    assert main([*start, "--trace", "9"]) == 2
    assert "steps 3 to 11 are asked for" in capsys.readouterr().err
    assert main([*start, "--trace", "2", "--trace-from", "3"]) == 0
    assert "\ntime: " in capsys.readouterr().out
    steps = [x for x in events(tmp_path / "out")[0] if x["name"] == "step"]
    assert len(steps) == 2
    assert main(["run", "experiments/quickstart.yaml", "--trace", "2"]) == 2
    assert "--trace: a study has many runs" in capsys.readouterr().err
