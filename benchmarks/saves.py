"""Seconds that a run waits for a checkpoint, beside those that writing it takes.

    python benchmarks/saves.py [--megabytes 600] [--folder FOLDER]

The state is parameters and two moments of random numbers, which do not compress. The
first save compiles the checksums; the others are shown. A run waits in `save` until
the state is copied off the device, and goes on while it is written.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from unipost.checkpoint import Checkpoints
from unipost.checksums import checksums

LAYERS = 12


def state_of(megabytes: int) -> dict:
    """Three trees of `LAYERS` stacked square matrices, in float32."""
    size = int((megabytes * 1e6 / 4 / 3 / LAYERS) ** 0.5)
    shape = (LAYERS, size, size)
    keys = jax.random.split(jax.random.key(0), 3)
    names = "params", "mu", "nu"
    return {n: jax.random.normal(k, shape) for n, k in zip(names, keys, strict=True)}


def main() -> None:
    """Print a line for every save, and one for reading the last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--folder", type=Path, help="where to write (default: /tmp)")
    options = parser.parse_args()
    state = jax.block_until_ready(state_of(options.megabytes))
    size = sum(x.nbytes for x in jax.tree.leaves(state)) / 1e6
    print(f"{size:.0f} MB on {jax.devices()[0].device_kind}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        with Checkpoints(every=1, keep=1).open(Path(folder) / "c") as store:
            for step in range(1, 5):
                began = time.perf_counter()
                checksums(state)
                summed = time.perf_counter()
                store.save(step, state)
                saved = time.perf_counter()
                store.wait()
                done = time.perf_counter()
                if step > 1:
                    print(
                        f"save waits {saved - summed:.2f} s, of which checksums "
                        f"{summed - began:.2f}; on disk after {done - summed:.2f} s"
                    )
            began = time.perf_counter()
            found = store.restore(jax.tree.map(jnp.zeros_like, state)).state
            jax.block_until_ready(found)
            print(f"read and verified in {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
