"""The fault test: runs killed at random moments end with the same numbers.

    python benchmarks/faults.py [--kills 50] [--seed 0] [--runs sft,grpo]

An SFT run and a GRPO run (two steps ahead, the sampler's parameters held for two steps,
a replay buffer: batches in flight and memory are all there) of a nano model, each run
once undisturbed and once with half of the kills: SIGKILL or SIGTERM, while it starts,
between saves, or while one is being written. The same command is given again until the
run is over. Then metrics.jsonl, evaluation.jsonl and the weights must be equal, byte
for byte. A table says what was done and found; the exit code is 1 where a run differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
EVERY = 5
STEPS_A_KILL = 12
LIMIT = 300.0
"""Seconds after which a process that does nothing is an error."""
COMPARED = ("metrics.jsonl", "evaluation.jsonl", "final/model.safetensors")
MODEL = """\
model: {characters: "0123456789+=", hidden_size: 16, intermediate_size: 32,
  num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8,
  max_position_embeddings: 16}
"""
FILES = {
    "sft": MODEL
    + """\
data: {name: demonstrations, path: DATA, prompts: 4, prompt_length: 4,
  response_length: 3}
objective: sft
optimizer: {name: adamw, learning_rate: 1e-2, warmup: 2}
evaluation: {every: 10, distance: sums, rows: 8, tasks: {sums: {path: DATA,
  prompt_length: 4, response_length: 3, samples: 2, limit: 6}}}
checkpoints: {every: EVERY, best: {metric: kl_reverse, mode: min}}
""",
    "grpo": MODEL
    + """\
data: {name: rollouts, path: DATA, prompts: 4, prompt_length: 4, group: 4,
  sampling: {max_tokens: 3},
  reward: {name: cosine_length, accuracy: exact, max_length: 3},
  guidance: [{name: replay, capacity: 20, keep: all}]}
objective: {name: grpo, kl: 0.04}
optimizer: {name: adamw, learning_rate: 1e-3}
staleness: 2
sync_every: 2
evaluation: {every: 7, rows: 8, tasks: {sums: {path: DATA, prompt_length: 4,
  response_length: 3, samples: 2, limit: 6}}}
checkpoints: {every: EVERY}
""",
}


@dataclass(frozen=True)
class Kill:
    """One kill to come.

    moment  start: `delay` seconds after the start; step: `delay` after the line of step
            `at`; save: `delay` after a save begins to be written, from step `at` on
    """

    number: signal.Signals
    moment: str
    at: int
    delay: float


@dataclass
class Tally:
    """What happened to one run."""

    kills: list[Kill] = field(default_factory=list)
    in_save: int = 0
    starts: int = 0
    lost: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def write_file(folder: Path, kind: str, steps: int) -> Path:
    """The experiment file of a run, with its data beside it."""
    rows = []
    for i in range(10):
        a, b = i, (3 * i + 1) % 10
        text = str(a + b)
        rows.append({"prompt": f"{a}+{b}=", "answer": text, "completion": text})
    data = folder / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = FILES[kind].replace("DATA", str(data)).replace("EVERY", str(EVERY))
    file = folder / f"{kind}.yaml"
    file.write_text(text + f"steps: {steps}\n")
    return file


def start(file: Path, run: Path, cache: Path) -> subprocess.Popen[bytes]:
    """The run's command: the same every time. What it says goes to a log beside it."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    command = [sys.executable, "-m", "unipost", "run", str(file)]
    command += ["--out", str(run), "--cache", str(cache)]
    with run.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def planned(count: int, steps: int, rng: random.Random) -> Iterator[Kill]:
    """Kills spread over the run: half during saves, half of each signal."""
    numbers = [signal.SIGKILL, signal.SIGTERM] * (count // 2 + 1)
    rng.shuffle(numbers)
    for i, number in enumerate(numbers[:count]):
        moment = rng.choices(["start", "step", "save"], [0.15, 0.35, 0.5])[0]
        longest = {"start": 4.0, "step": 0.3, "save": 0.08}[moment]
        at = steps * (i + 1) // (count + 2)
        yield Kill(number, moment, at, rng.random() * longest)


def await_moment(process: subprocess.Popen[bytes], kill: Kill, run: Path) -> bool:
    """Wait until it is time for `kill`; False where the process has ended before."""
    end = time.monotonic() + LIMIT
    while kill.moment != "start" and process.poll() is None:
        if time.monotonic() > end:
            raise TimeoutError(f"{run}: no step {kill.at} in {LIMIT:.0f} s")
        if _lines(run) >= kill.at and (kill.moment == "step" or _saving(run)):
            break
        time.sleep(0.001)
    time.sleep(kill.delay)
    return process.poll() is None


def _lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _saving(run: Path) -> bool:
    return any(run.glob("checkpoints/*tmp*"))


def _saved(run: Path) -> int:
    """Steps done at the newest checkpoint."""
    names = (f.name for f in run.glob("checkpoints/*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def disturbed(file: Path, run: Path, cache: Path, kills: list[Kill]) -> Tally:
    """Give the command until the run is over, with a kill each time while any is left.

    Problems: a process that fails by itself, a SIGTERM after which steps are lost, a
    SIGKILL after which more are than those since the last save that was over. That may
    be the one before the last: a save begins when the one before it is over.
    """
    tally, left = Tally(), list(kills)
    for _ in range(3 * len(kills) + 3):
        before = _lines(run), _saved(run)
        process, tally.starts = start(file, run, cache), tally.starts + 1
        if left and await_moment(process, left[0], run):
            kill = left.pop(0)
            in_save = _saving(run)
            process.send_signal(kill.number)
            code = process.wait(LIMIT)
            if kill.number == signal.SIGKILL:
                in_save = _saving(run)
            tally.kills.append(kill)
            tally.in_save += in_save
            after = _lines(run), _saved(run)
            # a kill before the first step costs nothing more than the one before it
            lost = 0 if after == before else after[0] - after[1]
            tally.lost.append(lost)
            # before it listens, python itself ends of the signal
            if code not in (75, -kill.number, 0):
                tally.problems.append(f"{kill.number.name} ended it with code {code}")
            if code == 75 and lost:
                tally.problems.append(f"SIGTERM lost {lost} steps")
            if lost > 2 * EVERY:
                tally.problems.append(f"{kill.number.name} lost {lost} steps")
            continue
        code = process.wait(LIMIT)
        if code != 0:
            tally.problems.append(f"it ended by itself with code {code}")
            return tally
        if not left or _saved(run) == _lines(run):
            return tally
    tally.problems.append("it never ended")
    return tally


def undisturbed(file: Path, run: Path, cache: Path) -> None:
    """The run in one go. Raises RuntimeError with its log where it fails."""
    if start(file, run, cache).wait(LIMIT):
        raise RuntimeError(f"{run}: {run.with_suffix('.log').read_text()}")


def compare(one: Path, other: Path) -> list[str]:
    """The files of COMPARED that differ."""
    return [
        name
        for name in COMPARED
        if not (other / name).exists()
        or (one / name).read_bytes() != (other / name).read_bytes()
    ]


def fault_test(
    kind: str, kills: int, seed: int, folder: Path, cache: Path | None = None
) -> tuple[Tally, int]:
    """One kind of run, undisturbed and with `kills`: (what happened, its steps).

    `cache` keeps the compiled programs (None: in `folder`).
    """
    steps, cache = STEPS_A_KILL * (kills + 2), cache or folder / "compiled"
    file = write_file(folder, kind, steps)
    whole, torn = folder / f"{kind}-whole", folder / f"{kind}-torn"
    undisturbed(file, whole, cache)
    plan = list(planned(kills, steps, random.Random(f"{kind} {seed}")))
    tally = disturbed(file, torn, cache, plan)
    if len(tally.kills) < kills:
        tally.problems.append(f"only {len(tally.kills)} kills met it")
    tally.problems += [f"{name} differs" for name in compare(whole, torn)]
    return tally, steps


def row(kind: str, steps: int, tally: Tally) -> str:
    """A line of the table."""
    by = {n: [k.number.name for k in tally.kills].count(n) for n in SIGNALS}
    counts = "  ".join(f"{by[name]:>7}" for name in SIGNALS)
    verdict = "equal" if not tally.problems else "; ".join(tally.problems)
    most = max(tally.lost, default=0)
    mean = sum(tally.lost) / max(len(tally.lost), 1)
    return (
        f"{kind:<6} {steps:>5}  {counts}  {tally.in_save:>12}  {tally.starts:>6}"
        f"  {most:>9}  {mean:>9.1f}  {verdict}"
    )


SIGNALS = ("SIGKILL", "SIGTERM")
HEAD = (
    "run    steps  SIGKILL  SIGTERM  during saves  starts  most lost  mean lost  "
    "verdict"
)


def main() -> int:
    """Run the test and print its table; 1 where a run differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="sft,grpo", help="some of sft, grpo")
    parser.add_argument("--keep", type=Path, help="folder for the runs (default: none)")
    options = parser.parse_args()
    kinds, began = options.runs.split(","), time.perf_counter()
    for kind in kinds:
        if kind not in FILES:
            parser.error(f"--runs: {kind!r}; write some of {', '.join(FILES)}")
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(HEAD)
        for i, kind in enumerate(kinds):
            share = options.kills * (i + 1) // len(kinds)
            share -= options.kills * i // len(kinds)
            tally, steps = fault_test(kind, share, options.seed, folder)
            failed += bool(tally.problems)
            print(row(kind, steps, tally), flush=True)
    print(f"checkpoints every {EVERY} steps; {time.perf_counter() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
