"""A folder of reference log-probs: one key, and arrays of lines in files of their own.

FOLDER/key.json                   what the arrays were computed from
FOLDER/NAME-reference-1024.npz    one stream of up to 1024 lines, from line 1024 on

Files appear whole or not at all: two processes may fill one folder. NAME is a digest of
key and rows, so that two keys that came at the same moment keep apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import uuid
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unipost import processes
from unipost.reference_key import Key, well_formed
from unipost.runs import RunError

LINES = 1024
"""Lines of a file: the most that is computed again after a kill."""


def claim(folder: Path, key: Key) -> dict[str, Any]:
    """The record of `key` in `folder`: the one that is there, or a new one.

    Raises RunError where the folder is of another key, saying which parts differ,
    where it holds something else, and where its record is damaged. Of several processes
    the first one looks and writes; all take part in the digest of the parameters.
    """
    if processes.count() > 1:
        if processes.on_first(lambda: key.decides(_there(folder))):
            digest = key.parameters()
            key = replace(key, parameters=lambda: digest)
        return processes.on_first(lambda: _claimed(folder, key))
    return _claimed(folder, key)


def _there(folder: Path) -> dict[str, Any] | None:
    path = folder / "key.json"
    return _record(path) if path.exists() else None


def _claimed(folder: Path, key: Key) -> dict[str, Any]:
    path = folder / "key.json"
    if not path.exists():
        if folder.exists() and not _empty(folder):
            raise RunError(
                f"{folder}: holds something else than reference log-probs; write "
                "another reference_cache"
            )
        record = key.record()
        put(path, (json.dumps(record, indent=1) + "\n").encode())
        return record
    record = _record(path)
    differences = key.differences(record)
    if differences:
        raise RunError(
            f"{folder}: holds reference log-probs of another key: "
            f"{', '.join(differences)}; delete it or write another reference_cache"
        )
    return record


def _record(path: Path) -> dict[str, Any]:
    record = None
    with contextlib.suppress(ValueError):
        record = json.loads(path.read_text())
    if not isinstance(record, dict) or not well_formed(record):
        raise RunError(f"{path}: damaged; delete {path.parent} and run again")
    return record


def _empty(folder: Path) -> bool:
    # what a killed write leaves behind is hidden
    return folder.is_dir() and all(x.name.startswith(".") for x in folder.iterdir())


def file_name(record: dict[str, Any], rows: str, stream: str, start: int) -> str:
    """The name of the file of a stream from line `start` on; `rows` is their digest."""
    digests = [record[part].get("digest") for part in ("tokenizer", "compute")]
    whole = json.dumps([rows, record["model"]["parameters"], *digests])
    name = hashlib.sha256(whole.encode()).hexdigest()[:16]
    return f"{name}-{stream}-{start}.npz"


def put(path: Path, content: bytes) -> None:
    """Write a whole file or none, whoever else writes it. Raises OSError naming it."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        reason = error.strerror or error
        raise OSError(f"{path}: cannot be written: {reason}") from error


def put_array(path: Path, array: np.ndarray) -> None:
    """Write an array as `put` does, with a checksum."""
    buffer = io.BytesIO()
    np.savez(buffer, logps=array)
    put(path, buffer.getvalue())


def read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in a file, None if it is not there. RunError where it is damaged."""
    try:
        with np.load(path) as content:
            array = content["logps"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"{path}: damaged ({reason}); delete it, and its lines are computed anew"
        ) from error
    if array.shape != shape:
        raise RunError(
            f"{path}: holds {array.shape} log-probs of {shape}; delete it, and its "
            "lines are computed anew"
        )
    return array
