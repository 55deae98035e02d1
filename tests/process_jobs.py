"""What each of two processes does for test_processes.py, which reads what it writes.

python process_jobs.py FOLDER      (under SLURM's variables)
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unipost import processes
from unipost.launch import start

if TYPE_CHECKING:
    from unipost.mesh import Layout


def failure(fn: Callable[[], Any]) -> str:
    """The kind and text of what `fn` raises."""
    try:
        fn()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def exchanges() -> dict[str, Any]:
    """What is computed once, in each, and split."""

    def refuse():
        raise OSError("disk full")

    def here_alone():
        if processes.index() == 1:
            raise KeyError("only in the second")
        return 1

    return {
        "index": processes.index(),
        "first": processes.on_first(os.getpid),
        "long": len(processes.on_first(lambda: b"x" * 10000)),
        "everyones": processes.everyones(lambda: "ab"[processes.index()] * 5000),
        "refused": failure(lambda: processes.on_first(refuse)),
        "here_alone": failure(lambda: processes.everyones(here_alone)),
        "no_pickle": failure(lambda: processes.on_first(lambda: lambda: 0)),
        "split": [processes.split(5).start, processes.split(5).stop],
    }


def rows() -> dict[str, Any]:
    """Rows that the devices of this process hold, by mesh; and all of them gathered."""
    import jax

    from unipost.mesh import Mesh

    found: dict[str, Any] = {}
    ids = np.arange(16.0).reshape(4, 4, 1)
    for sizes in (
        {"data": 2, "fsdp": 4},
        {"data": 2, "tensor": 4},
        {"fsdp": 4, "tensor": 2},
    ):
        layout = Mesh(**({"data": 1} | sizes)).open(prompts=4, group=4)
        placed = layout.place(ids)
        own = [np.asarray(x.data).ravel().tolist() for x in placed.addressable_shards]
        with jax.set_mesh(layout.mesh):
            whole = processes.gathered({"a": placed, "b": ids})
        same = all(np.array_equal(x, ids) for x in whole.values())
        found[json.dumps(sizes)] = [sum(own, []), same]
    return found


class Counting:
    """A reward that fails on some texts and notes what it was asked."""

    def __init__(self):
        self.asked: list[str] = []

    def score(self, samples):
        from unipost.rewards.grades import grades_of

        self.asked += [sample.response for sample in samples]
        values = [np.nan if "9" in s.response else float(s.group) for s in samples]
        reasons = [f"sample {i}: nine" for i, x in enumerate(values) if np.isnan(x)]
        return grades_of(values, reasons=reasons, notes={"asked": len(samples)})


def grading(folder: Path) -> dict[str, Any]:
    """Grades of one reward that counts and one that is a model."""
    from unipost.rewards import RewardModel, Sample, open_reward
    from unipost.rewards.grading import shared

    samples = [Sample(str(i), "3", f"{i % 3}+2=", group=i // 3) for i in range(12)]
    counting = Counting()
    found = shared(open_reward(counting), samples, 4)
    model = shared(open_reward(RewardModel(str(folder / "reward"))), samples, 4)
    return {
        "asked": counting.asked,
        "values": [str(x) for x in found.values],
        "reasons": found.reasons,
        "unscored": found.unscored,
        "notes": dict(found.notes),
        "model": model.values.tolist(),
    }


def sampled(url: str, layout: Layout | None) -> dict[str, Any]:
    """Completions of three samplers."""
    import jax
    from tiny_runs import MODEL

    from unipost.sampling import (
        BatchSampler,
        ContinuousSampler,
        RemoteSampler,
        Request,
        Sampling,
    )

    tokenizer, sampling = MODEL.tokenizer, Sampling(max_tokens=3)
    asked = [
        Request(tuple(tokenizer.encode(f"{i}+1=")), (2 * i, 2 * i + 1), 3, (1,))
        for i in range(8)
    ]
    samplers = {
        "batch": BatchSampler(),
        "continuous": ContinuousSampler(slots=8, refill=4, steps=2, prefill=4),
        "remote": RemoteSampler(url, "m", logprobs="none", retries=0),
    }
    found = {}
    params = MODEL.params if layout is None else layout.spread(MODEL.params)
    for name, sampler in samplers.items():
        engine = sampler.open(MODEL.policy, tokenizer, sampling, 4)
        drawn = engine(params, asked, jax.random.key(5))
        found[name] = [[one.tokens.tolist() for one in some] for some in drawn]
    return found


def run(folder: Path) -> None:
    """GRPO with pages, evaluation and checkpoints; DPO with a cache and an adapter."""
    from process_runs import cached_run, whole_run

    from unipost.train import train

    train(whole_run(folder), folder / "run")
    train(cached_run(folder, folder / "cache"), folder / "cached")


def main() -> None:
    """Every job, an evaluation, and a run that is refused as it has no mesh."""
    folder = Path(sys.argv[1])
    found: dict[str, Any] = {"processes": start(), "again": start()}
    found |= {"exchanges": exchanges(), "rows": rows()}

    from unipost.cli import main as command
    from unipost.mesh import Mesh
    from unipost.mesh.layout import within

    layout = Mesh(data=2, fsdp=4).open()
    with within(layout):
        found["grading"] = grading(folder)
        found["sampled"] = sampled(os.environ["SERVER"], layout)
    run(folder)
    path = folder / f"found-{processes.index()}.json"
    path.write_text(json.dumps(found))
    model, tasks = str(folder / "run" / "final"), str(folder / "tasks.yaml")
    command(["eval", model, tasks, "--reference", str(folder / "base")])
    command(["run", str(folder / "no_mesh.yaml"), "--out", str(folder / "refused")])


if __name__ == "__main__":
    main()
