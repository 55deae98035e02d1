"""Seconds per step with sampling in turn (staleness 0) and ahead (staleness 1).

    python benchmarks/overlap.py [--steps 40]

Each case is run twice, in turn, in one process, and the smaller median is shown. The
rewards: `numeric`, which costs nothing, and one that waits 1.5 ms for every sample, as
a check by another program does.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

from unipost.config import load
from unipost.experiment import Experiment
from unipost.rewards import numeric
from unipost.train import load_model, train

ROOT = Path(__file__).parents[1]


def waiting(response: str, answer: str) -> float:
    """The right answer, after a while."""
    time.sleep(0.0015)
    return numeric(response, answer)


REWARDS = {"numeric": numeric, "waiting": waiting}


def seconds(experiment: Experiment, reward: str, staleness: int, model) -> float:
    """The median step of one run, the first four left out."""
    data = dataclasses.replace(
        experiment.data, reward=REWARDS[reward], time_limit=None, group=32
    )
    run = dataclasses.replace(experiment, data=data, staleness=staleness)
    with tempfile.TemporaryDirectory() as folder:
        train(run, Path(folder) / "run", model=model, title=f"{reward} {staleness}")
        text = (Path(folder) / "run" / "timing.jsonl").read_text()
    times = [json.loads(line)["seconds"] for line in text.splitlines()]
    return statistics.median(times[4:])


def main() -> None:
    """Print a table: reward, seconds in turn, seconds ahead, their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    steps = parser.parse_args().steps
    file = ROOT / "experiments" / "grpo.yaml"
    changes = [f"steps={steps}", "evaluation=null", "checkpoints=null"]
    experiment = load(Experiment, file, changes)
    model = load_model(str(ROOT / "experiments" / "base"), seed=0)
    print("reward    in turn, ms  ahead, ms  ratio")
    for reward in REWARDS:
        found = {0: [], 1: []}
        for _ in range(2):
            for staleness, times in found.items():
                times.append(seconds(experiment, reward, staleness, model))
        turn, ahead = (1000 * min(times) for times in found.values())
        print(f"{reward:<10}{turn:>11.1f}{ahead:>11.1f}{ahead / turn:>7.2f}")


if __name__ == "__main__":
    main()
