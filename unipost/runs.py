"""Run directories: everything needed to repeat a run, and what it measured.

config.yaml       the resolved experiment, every default written out
environment.json  package versions, command, seed, hashes of data and model
metrics.jsonl     one line per step; equal bytes for equal runs
timing.jsonl      wall times, which are not
evaluation.jsonl  one line per evaluation
checkpoints/      states to resume from
final/            the trained model in the Hugging Face layout
trace/            what was recorded of some steps, where that was asked for
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from unipost.processes import count, is_first, on_first

PACKAGES = ("unipost", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunError(RuntimeError):
    """A run that cannot start or go on; the message is one line."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """OSErrors inside are of `path`: the system's own for a full disk names no file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path}: cannot be written: {reason}") from error


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file or none: to a neighbour, then rename. Raises OSError."""
    partial = path.with_name(f".{path.name}.partial")
    with naming(path):
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


def json_line(values: Mapping[str, Any]) -> str:
    """One JSON line; floats as their shortest exact text, non-finite ones as text."""

    def plain(x):
        if isinstance(x, float) and not math.isfinite(x):
            return str(x)
        return x

    return json.dumps({k: plain(v) for k, v in values.items()}) + "\n"


class JsonLines:
    """An append-only JSONL file with one line per step, flushed as it is written.

    Of several processes the first one has it; what the others write goes nowhere.

    dropped  lines that were there before and are not kept
    """

    def __init__(self, path: Path, done: int | None):
        """Keep the lines with step <= `done` (None: start empty) and append to them.

        A torn last line, left by a kill, is dropped.
        """
        self.path, self.dropped = path, 0
        if not is_first():
            self._file = open(os.devnull, "a")
            return
        kept, there = [], path.read_text() if path.exists() else ""
        if done is not None:
            for line in there.splitlines(keepends=True):
                try:
                    if not line.endswith("\n") or json.loads(line)["step"] > done:
                        break
                except (json.JSONDecodeError, KeyError):
                    break
                kept.append(line)
        self.dropped = there.count("\n") - len(kept)
        write_atomic(path, "".join(kept))
        self._file = path.open("a")

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one line. Raises OSError naming the file (a full disk)."""
        with naming(self.path):
            self._file.write(json_line(values))
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def environment(seed: int, hashes: Mapping[str, str]) -> dict[str, Any]:
    """What a run was made with: versions, machine, command, seed, hashes."""
    import jax

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout
            versions[name] = "not installed"
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": versions,
        "devices": [d.device_kind for d in jax.devices()],
        "processes": count(),
        "seed": seed,
        "hashes": dict(hashes),
    }


def open_folder(folder: Path, config: str) -> bool:
    """Make `folder` for a run with the resolved `config`; True if it was there before.

    Of several processes the first one does.

    A run that stopped before its first step (a missing data file) gives way to
    another. Raises RunError when the folder holds a run with other settings, naming
    the first that differs, or something that is no run.
    """
    return on_first(lambda: _opened(folder, config))


def _opened(folder: Path, config: str) -> bool:
    path = folder / "config.yaml"
    if path.exists() and not _begun(folder):
        write_atomic(path, config)
    if path.exists():
        difference = first_difference(path.read_text(), config)
        if difference:
            raise RunError(
                f"{folder}: holds a run with other settings ({difference}); choose "
                "another --out or remove it"
            )
        return True
    check_own(folder)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, config)
    return False


def check_own(folder: Path) -> None:
    """Raise RunError where `folder` holds something that is no run."""
    if (folder / "config.yaml").exists() or not folder.exists():
        return
    if _begun(folder):
        raise RunError(f"{folder}: is not empty and holds no run; choose another --out")


def holds_other(folder: Path, config: str) -> bool:
    """Whether `folder` holds something that a run with `config` cannot go on from."""
    if not folder.exists() or not _begun(folder):
        return False
    path = folder / "config.yaml"
    return not path.exists() or bool(first_difference(path.read_text(), config))


def _begun(folder: Path) -> bool:
    first = {"config.yaml", "environment.json"}
    first |= {f".{name}.partial" for name in first} | {".lock"}
    return any(path.name not in first and _holds(path) for path in folder.iterdir())


def _holds(path: Path) -> bool:
    # files are opened, and empty, before the first step has gone well
    return any(path.iterdir()) if path.is_dir() else path.stat().st_size > 0


def first_difference(there: str, here: str) -> str:
    """The first setting in which two config texts differ; "" where none does.

    The mesh is none of them: it changes no number.
    """
    if there == here:
        return ""
    import yaml

    old, new = flat(yaml.safe_load(there)), flat(yaml.safe_load(here))
    for key in old | new:
        if key.partition(".")[0] != "mesh" and old.get(key) != new.get(key):
            return f"{key}: {old.get(key)!r} there, {new.get(key)!r} here"
    return ""


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of every value in a tree; what is empty has none."""
    if isinstance(tree, dict):
        pairs = ((k, v) for k, v in tree.items())
    elif isinstance(tree, list):
        pairs = ((str(i), v) for i, v in enumerate(tree))
    else:
        return {prefix: tree}
    found = {}
    for key, value in pairs:
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def revision() -> str | None:
    """The short commit of the checkout, or None outside one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
