"""A sweep of 16 short runs (4 betas x 4 seeds, DPO of a 187k-parameter model) in time.

    python benchmarks/vectorised.py [--steps 40] [--prompts 16] [--rounds 2]
        [--prefix "chrt -r 1"]

apart      16 processes one after the other, and two at a time
in turn    one process, one run after the other
together   one process, all runs as one program

Every case starts new processes on an empty compilation cache, so start-up and compiling
count. `step` is the median time of a step of all 16 runs, without the first five. The
cases are run in turn, `--rounds` times, and the smallest of each counts.
"""

import argparse
import dataclasses
import json
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from unipost import presets
from unipost.config import dump_tree, load, to_tree
from unipost.optimizers import AdamW
from unipost.sources import Preferences
from unipost.train import Experiment, train

ROOT = Path(__file__).parents[1]
BETAS = 0.05, 0.1, 0.2, 0.5
SEEDS = range(4)
LEFT_OUT = 5
IN_TURN = "--in-turn"


class Timed(NamedTuple):
    """Wall and CPU seconds of a case, and seconds of a step of all its runs."""

    wall: float
    cpu: float
    step: float


def pairs(folder: Path) -> str:
    """Equations with the right answer, and that of the next one; the file's path."""
    text = (ROOT / "experiments/data/equations_train.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    path = folder / "pairs.jsonl"
    with path.open("w") as file:
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
            if row["completion"] != other["completion"]:
                found = {"prompt": row["prompt"], "chosen": row["completion"]}
                file.write(json.dumps(found | {"rejected": other["completion"]}) + "\n")
    return str(path)


def sweep(path: str, steps: int, prompts: int) -> list[Experiment]:
    """The experiments, all betas of all seeds."""
    data = Preferences(path, prompts, prompt_length=16, response_length=12)
    one = Experiment(
        model=str(ROOT / "experiments/base"),
        data=data,
        objective=presets.dpo(beta=BETAS[0]),
        optimizer=AdamW(5e-5),
        steps=steps,
    )
    return [
        dataclasses.replace(one, objective=presets.dpo(beta=beta), seed=seed)
        for beta in BETAS
        for seed in SEEDS
    ]


def written(runs: list[Experiment], folder: Path) -> list[Path]:
    """A folder with the config of every run."""
    folders = [folder / str(i) for i in range(len(runs))]
    for run, own in zip(runs, folders, strict=True):
        own.mkdir(parents=True)
        (own / "config.yaml").write_text(dump_tree(to_tree(run)))
    return folders


def step_of(folders: list[Path]) -> float:
    """Seconds of a step of all runs: the sum of their medians."""
    total = 0.0
    for folder in folders:
        lines = (folder / "timing.jsonl").read_text().splitlines()
        times = [json.loads(line)["seconds"] for line in lines[LEFT_OUT:]]
        total += statistics.median(times)
    return total


def timed(
    runs: list[Experiment],
    prefix: list[str],
    commands: Callable[[list[str], list[str]], list[list[str]]],
    at_once: int = 1,
) -> Timed:
    """A case: the commands made of its cache's option and its folders."""
    with tempfile.TemporaryDirectory() as place:
        folders = written(runs, Path(place) / "runs")
        cache = ["--cache", str(Path(place) / "cache")]
        todo = commands(cache, [str(folder) for folder in folders])
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()

        def run(command: list[str]) -> None:
            whole = [*prefix, sys.executable, *command]
            subprocess.run(whole, check=True, capture_output=True, cwd=ROOT)

        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(run, todo))
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Timed(wall, cpu, step_of(folders))


def alone(cache: list[str], folders: list[str]) -> list[list[str]]:
    """A process for each run."""
    verb = ["-m", "unipost", "run"]
    return [[*verb, f"{x}/config.yaml", "--out", x, *cache] for x in folders]


def in_turn(cache: list[str], folders: list[str]) -> list[list[str]]:
    """One process that trains them one after the other."""
    return [[__file__, IN_TURN, *cache, *folders]]


def together(cache: list[str], folders: list[str]) -> list[list[str]]:
    """One process that trains them together."""
    return [["-m", "unipost.sweep.together", *cache, *folders]]


def train_in_turn(cache: str, folders: list[str]) -> None:
    """What the process of `in_turn` does."""
    from unipost.compilation import enable_cache

    enable_cache(cache)
    for folder in folders:
        train(load(Experiment, f"{folder}/config.yaml"), Path(folder))


CASES = {
    "apart, one at a time": (alone, 1),
    "apart, two at a time": (alone, 2),
    "in turn": (in_turn, 1),
    "together": (together, 1),
}


def main() -> None:
    """Print a table: wall and CPU seconds, a step, and each over that together."""
    if sys.argv[1:2] == [IN_TURN]:
        return train_in_turn(sys.argv[3], sys.argv[4:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prefix", default="")
    options = parser.parse_args()
    prefix = shlex.split(options.prefix)
    found: dict[str, list[Timed]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        runs = sweep(pairs(Path(folder)), options.steps, options.prompts)
        for _ in range(options.rounds):
            for name, (commands, at_once) in CASES.items():
                found[name].append(timed(runs, prefix, commands, at_once))
    best = {name: Timed(*map(min, zip(*x, strict=True))) for name, x in found.items()}
    base = best["together"]
    print("case                  wall s  ratio   CPU s  ratio  step ms  ratio")
    for name, own in best.items():
        ratios = [a / b for a, b in zip(own, base, strict=True)]
        print(
            f"{name:20}  {own.wall:6.1f}  {ratios[0]:5.2f}  {own.cpu:6.1f}  "
            f"{ratios[1]:5.2f}  {own.step * 1e3:7.1f}  {ratios[2]:5.2f}"
        )


if __name__ == "__main__":
    main()
