"""Losses of SFT, DPO and GRPO on every mesh of 8 devices beside those on one device.

    python benchmarks/same_numbers.py                 (an hour on two cores)
    python benchmarks/same_numbers.py --short --steps 20

The devices are the host's, in 1, 2 and 4 processes that meet on this machine. Prints
max |difference| of the losses over all steps, and exits with 1 where one is above 1e-5.

Of GRPO the tokens sampled in the first step must be those of one device. Later a single
draw that is rounded to the other side changes everything after it, so from there on the
batches that one device drew are replayed (`Recorded`).
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unipost import presets, processes
from unipost.ahead import pack, unpack
from unipost.experiment import Experiment, open_mesh
from unipost.launch import start
from unipost.loading import NewModel, load_model, setting_of
from unipost.mesh import Mesh
from unipost.optimizers import AdamW
from unipost.rollouts import Rollouts
from unipost.runs import write_atomic
from unipost.sampling import Sampling
from unipost.sources import EMPTY, Demonstrations, Experience, Preferences, Source
from unipost.train import train

LIMIT = 1e-5
AXES = ("data", "fsdp", "tensor", "sequence")
LAYOUTS = ("1x8", "2x4", "4x2")
KINDS = ("sft", "dpo", "grpo")
SHORT = {
    "1x8": ((8, 1, 1, 1), (2, 1, 1, 4)),
    "2x4": ((1, 4, 2, 1),),
    "4x2": ((2, 2, 2, 1),),
}
# 24 tokens with the two special ones, so that 8 devices can share the vocabulary
MODEL = NewModel(
    characters="0123456789+= abcdefghi",
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=8,
    head_dim=8,
    max_position_embeddings=32,
)
LENGTHS: dict[str, Any] = {"prompts": 8, "prompt_length": 8}


@dataclass(frozen=True)
class Recorded(Source):
    """Batches that were drawn before, step by step, from the file of `Recording`."""

    path: str
    prompts: int
    group: int

    @property
    def gives(self) -> str:
        return "rewards"

    @property
    def rows(self) -> int:
        return self.group

    def open(self, setting) -> Any:
        drawn = unpack(Path(self.path).read_bytes())[1]
        return Replay([experience for _, experience in drawn])


@dataclass(frozen=True)
class Replay:
    """The stream of `Recorded`."""

    drawn: list[Experience]

    @property
    def size(self) -> int:
        return len(self.drawn)

    def batch(self, step: int, params, memory=EMPTY) -> Experience:
        return self.drawn[step]


@dataclass(frozen=True)
class Recording(Rollouts):
    """Rollouts whose batches are written to `record` when the run has ended."""

    record: str = ""

    def open(self, setting) -> Any:
        return Recorder(super().open(setting), self.record, [])


@dataclass(frozen=True)
class Recorder:
    """The stream of `Recording`."""

    inner: Any
    record: str
    drawn: list[tuple[int, Experience]]

    @property
    def size(self) -> int:
        return self.inner.size

    def batch(self, step: int, params, memory=EMPTY) -> Experience:
        found = self.inner.batch(step, params, memory)
        self.drawn.append((step, found))
        return found

    def close(self) -> None:
        Path(self.record).write_bytes(pack(EMPTY, self.drawn))
        self.inner.close()


def letters(response: str, answer: str) -> float:
    """A reward that varies within a group from the start: the share of digits."""
    return sum(x.isdigit() for x in response) / max(len(response), 1)


def write_data(folder: Path) -> None:
    """sums.jsonl and pairs.jsonl: rows of all lengths."""
    sums, pairs = [], []
    for i in range(48):
        prompt, text = f"{i}+{7 * i % 90}=", str(i + 7 * i % 90)
        row = {"prompt": prompt, "answer": text}
        sums.append(row | {"completion": text + " abc"[: i % 5]})
        wrong = str(i % 10) + "fgh"[: i % 4]
        pairs.append(row | {"chosen": text, "rejected": wrong})
    for name, rows in (("sums", sums), ("pairs", pairs)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)


def experiment(kind: str, folder: Path, steps: int, source: type[Source]) -> Experiment:
    """A run on one device; `source` of GRPO is Recording or Recorded."""
    sums, pairs = str(folder / "sums.jsonl"), str(folder / "pairs.jsonl")
    record = str(folder / "record.npz")
    drawn: Source = Recorded(record, prompts=16, group=4)
    if source is Recording:
        parts = Sampling(max_tokens=8), letters, None
        drawn = Recording(sums, 16, LENGTHS["prompt_length"], 4, *parts, record=record)
    data, objective = {
        "sft": (Demonstrations(sums, **LENGTHS, response_length=8), presets.sft()),
        "dpo": (Preferences(pairs, **LENGTHS, response_length=8), presets.dpo(0.5)),
        "grpo": (drawn, presets.grpo(kl=0.1)),
    }[kind]
    return Experiment(
        MODEL,
        data,
        objective,
        AdamW(3e-3),
        steps,
        minibatches=2 if kind == "grpo" else 1,
    )


def losses(run: Experiment, folder: Path) -> list[float]:
    """The loss of every step."""
    train(run, folder)
    if not processes.is_first():
        return []
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def first_tokens(run: Experiment) -> str:
    """A digest of what the first step samples."""
    layout = open_mesh(run)
    with contextlib.nullcontext() if layout is None else jax.set_mesh(layout.mesh):
        model = load_model(run.model, run.seed, None, run.compute, layout)
        stream = run.data.open(setting_of(model, run.seed))
        rows = stream.batch(0, model.params).rows
    tokens = np.where(rows.response_mask, rows.response, -1)
    return hashlib.sha256(np.ascontiguousarray(tokens, np.int64)).hexdigest()


def work(folder: Path, layout: str, process: int, port: int, options: Any) -> None:
    """One process of a layout: mesh after mesh; the first writes the numbers."""
    start(f"127.0.0.1:{port}", process, int(layout[0]))
    found: dict[str, Any] = {}
    for sizes in options.meshes:
        mesh = Mesh(**dict(zip(AXES, sizes, strict=True))) if sizes else None
        sampled = experiment("grpo", folder, options.steps, Recording)
        own: dict[str, Any] = {"tokens": first_tokens(replace(sampled, mesh=mesh))}
        for kind in options.kinds:
            source = Recorded if mesh else Recording
            run = experiment(kind, folder, options.steps, source)
            place = folder / "runs" / layout / "x".join(map(str, sizes)) / kind
            own[kind] = losses(replace(run, mesh=mesh), place)
        found[name_of(sizes)] = own
        jax.clear_caches()
        if processes.is_first():
            write_atomic(folder / f"{layout}.json", json.dumps(found))


def name_of(sizes: Sequence[int]) -> str:
    """`data 2 x fsdp 4`, as a config has it."""
    parts = [f"{a} {n}" for a, n in zip(AXES, sizes, strict=False) if n > 1]
    return " x ".join(parts) or "one device"


def started(folder: Path, layout: str, meshes: Sequence[Any], options: Any) -> Any:
    """The processes of a layout."""
    number, devices = map(int, layout.split("x"))
    flags = os.environ.get("XLA_FLAGS", "").split()
    own = [x for x in flags if "device_count" not in x]
    own += [f"--xla_force_host_platform_device_count={devices}"]
    environ = {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "0",
        "XLA_FLAGS": " ".join(own),
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = [sys.executable, __file__, "--steps", str(options.steps)]
    common += ["--kinds", *options.kinds, "--folder", str(folder), "--layout", layout]
    common += ["--port", str(port), "--meshes", json.dumps(meshes)]
    return [
        subprocess.Popen(
            [*common, f"--process={i}"],
            env=os.environ | environ,
            stdout=(folder / f"{layout}-{i}.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        for i in range(number)
    ]


def found_in(
    folder: Path, layout: str, meshes: Sequence[Any], options: Any
) -> Iterator[tuple[str, Any]]:
    """(mesh, numbers) of a layout, as they come."""
    own, told = started(folder, layout, meshes, options), 0
    try:
        while told < len(meshes):
            time.sleep(0.2)
            codes = [process.poll() for process in own]
            path = folder / f"{layout}.json"
            known = list(json.loads(path.read_text()).items()) if path.exists() else []
            yield from known[told:]
            told = len(known)
            if any(codes) and told < len(meshes):
                worst = next(i for i, code in enumerate(codes) if code)
                log = (folder / f"{layout}-{worst}.log").read_text()
                raise SystemExit(f"{layout}: process {worst} failed\n{log}")
    finally:
        for process in own:
            process.kill()


def compare(base: Any, mesh: str, own: Any, layout: str) -> bool:
    """Print the line of a mesh; whether all numbers are the same."""
    same = own["tokens"] == base["tokens"]
    kinds = [kind for kind in own if kind != "tokens"]
    worst = [float(np.abs(np.subtract(own[k], base[k])).max()) for k in kinds]
    fine = same and all(x <= LIMIT for x in worst)
    texts = "".join(f"{x:>10.1e}" for x in worst)
    words = f"{'equal' if same else 'other':>8}{'' if fine else '   FAILED'}"
    print(f"{layout:<8}{mesh:<34}{texts}{words}", flush=True)
    return fine


def every_mesh() -> list[tuple[int, ...]]:
    """All sizes of the axes whose product is 8."""
    sizes = itertools.product((1, 2, 4, 8), repeat=len(AXES))
    return [x for x in sizes if np.prod(x) == 8]


def main() -> None:
    """Print the table; exit with 1 where a number differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--short", action="store_true", help="four meshes alone")
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS, choices=LAYOUTS)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    for name in ("folder", "layout", "port", "process", "meshes"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process is not None:
        options.meshes = json.loads(options.meshes)
        place = Path(options.folder), options.layout, int(options.process)
        work(*place, int(options.port), options)
        return
    # ends the processes that it has started, whoever ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with tempfile.TemporaryDirectory() as folder:
        good = check(Path(folder), options)
    raise SystemExit(0 if good else 1)


def check(folder: Path, options: Any) -> bool:
    """Run one device and every layout; whether all numbers are the same."""
    write_data(folder)
    begun = time.perf_counter()
    meshes = {x: SHORT[x] if options.short else every_mesh() for x in options.layouts}
    # one device and all of them share a process, which saves its start
    meshes = {"1x8": [(), *meshes.pop("1x8", ())]} | meshes
    base, good = None, True
    for layout, own in meshes.items():
        for mesh, numbers in found_in(folder, layout, own, options):
            if base is None:
                base = numbers
                show_base(base, options)
            else:
                good &= compare(base, mesh, numbers, layout)
    print(f"{time.perf_counter() - begun:.0f} s")
    return good


def show_base(base: Any, options: Any) -> None:
    """Print how the losses move on one device, and the head of the table."""
    moved = [f"{k} {base[k][0]:.4f} to {base[k][-1]:.4f}" for k in options.kinds]
    print(f"one device, {options.steps} steps: losses of {', '.join(moved)}")
    heads = "".join(f"{k:>10}" for k in options.kinds)
    head = f"{'':<8}{'max |loss - loss on one device|':<34}{heads}{'tokens':>8}"
    print(head, flush=True)


if __name__ == "__main__":
    main()
