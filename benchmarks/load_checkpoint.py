"""Host memory and time of reading a sharded checkpoint.

    python benchmarks/load_checkpoint.py [--gigabytes 1.5]

Makes a synthetic bfloat16 Llama checkpoint of several files in a temporary folder, and
reads it in fresh processes: whole on one device, in slices on eight devices, and in
slices on two processes of four devices each. On CPU device arrays are host memory;
what is printed is the peak of anonymous memory beyond them (buffers, copies), the
peak of mapped file pages, which the kernel may drop at any time, and the share of the
files that each process read. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)
SIZES: dict[str, Any] = {
    "vocab_size": 65536,
    "hidden_size": 1536,
    "intermediate_size": 6144,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "tie_word_embeddings": False,
}

TIMES = ("seconds", "cpu")


def status(field: str) -> int:
    """Bytes of one line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}; run this on Linux")


class Peak:
    """Peaks of anonymous and of file memory while the block runs, above its start."""

    def __enter__(self) -> Peak:
        self.start = {name: status(name) for name in ("RssAnon", "RssFile")}
        self.top = dict(self.start)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.stop.wait(0.002):
            for name in self.top:
                self.top[name] = max(self.top[name], status(name))

    def __exit__(self, *exception) -> None:
        self.stop.set()
        self.thread.join()
        self.rise = {name: self.top[name] - self.start[name] for name in self.top}


def make(folder: Path, gigabytes: float) -> int:
    """Writes the checkpoint; returns the bytes of its largest tensor."""
    from unipost.hf.config import render_config
    from unipost.hf.files import INDEX, write_file
    from unipost.hf.names import tensor_shapes
    from unipost.model import ModelConfig

    def of(layers: int) -> tuple[ModelConfig, dict[str, tuple[int, ...]]]:
        config = ModelConfig(num_hidden_layers=layers, **SIZES)
        return config, tensor_shapes(config)

    one, two = (2 * sum(map(prod, of(n)[1].values())) for n in (1, 2))
    layers = max(1, round((gigabytes * 1e9 - one) / (two - one)) + 1)
    config, shapes = of(layers)
    noise = np.random.default_rng(0).normal(size=1 << 20).astype(BF16)

    def values(names: list[str]) -> Iterator[np.ndarray]:
        for name in names:
            yield np.resize(noise, shapes[name])

    names, places = list(shapes), {}
    groups = [names[i::4] for i in range(4)]
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        held = {name: shapes[name] for name in group}
        write_file(folder / file, held, BF16, values(group))
        places |= dict.fromkeys(group, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    fields = render_config(config, "bfloat16")
    (folder / "config.json").write_text(json.dumps(fields))
    return 2 * max(map(prod, shapes.values()))


def read(folder: Path, dtype: Any, sliced: bool) -> dict[str, float]:
    """Reads the checkpoint in this process; what it cost."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from unipost.hf import load

    mesh = Mesh(np.array(jax.devices()), ("all",))
    count = {"bytes": 0}
    fill = load.fill

    def counted(*arguments) -> int:
        read = fill(*arguments)
        count["bytes"] += read
        return read

    def place(path: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
        ends = (None,) if len(shape) == 1 else ("all",)
        spec = (*(None,) * (len(shape) - 1), *ends)
        return NamedSharding(mesh, PartitionSpec(*spec))

    load.fill = counted
    jax.block_until_ready(jax.jit(lambda x: x + 1)(np.ones(3)))
    with Peak() as peak:
        start, used = time.perf_counter(), time.process_time()
        sharding = place if sliced else None
        params = load.load_pretrained(folder, dtype=dtype, sharding=sharding).params
        jax.block_until_ready(params)
        seconds = time.perf_counter() - start
        used = time.process_time() - used
    held = sum(
        shard.data.nbytes
        for x in jax.tree.leaves(params)
        for shard in x.addressable_shards
    )
    return {
        "seconds": seconds,
        "cpu": used,
        "held": held,
        "read": count["bytes"],
        "anonymous": peak.rise["RssAnon"] - held,
        "file": peak.rise["RssFile"],
    }


def child(arguments: list[str]) -> None:
    """One measured process: folder, dtype, whole or sliced, port, processes, rank."""
    import jax

    folder, dtype, how, port, processes, rank = arguments
    if int(processes) > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(rank))
    print(json.dumps(read(Path(folder), dtype, how == "sliced")))


def measure(folder: Path, dtype: str, how: str, processes: int, devices: int) -> None:
    """Runs the processes of one case and prints a line for each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flag = f"--xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flag}
    run = [sys.executable, __file__, "--child", str(folder), dtype, how, str(port)]
    children = [
        subprocess.Popen(
            [*run, str(processes), str(rank)],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    for rank, each in enumerate(children):
        out, _ = each.communicate()
        if each.returncode:
            raise SystemExit(f"{how} on {processes} processes failed")
        cost = json.loads(out.splitlines()[-1])
        mega = {name: round(cost[name] / 1e6) for name in cost if name not in TIMES}
        print(
            f"{dtype:8} {how:6} process {rank + 1}/{processes} of {devices} devices: "
            f"{cost['seconds']:.1f} s ({cost['cpu']:.1f} CPU s), device arrays "
            f"{mega['held']} MB, files read {mega['read']} MB; peak beyond the arrays: "
            f"anonymous {mega['anonymous']} MB, file pages {mega['file']} MB",
            flush=True,
        )


def main() -> None:
    """Makes the checkpoint, measures every case, removes it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.5)
    gigabytes = parser.parse_args().gigabytes
    with tempfile.TemporaryDirectory() as folder:
        largest = make(Path(folder), gigabytes)
        total = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
        print(f"files {total / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB")
        for case in (
            ("bfloat16", "whole", 1, 1),
            ("float32", "whole", 1, 1),
            ("bfloat16", "sliced", 1, 8),
            ("bfloat16", "sliced", 2, 4),
        ):
            measure(Path(folder), *case)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
