"""Safetensors files: what lies where, read in place, written one tensor at a time.

A file is the length of its header in 8 bytes, little-endian; the header, which is JSON
with dtype, shape and byte range of every tensor; and their bytes in row-major order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
# Files of torch.save, which may run code when they are read.
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: its bytes start at `offset`."""

    file: Path
    name: str
    code: str
    shape: tuple[int, ...]
    offset: int

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError for another shape, and for a dtype that is not read."""
        if self.code not in DTYPES:
            raise ValueError(
                f"{self.file}: tensor {self.name} is stored as {self.code}; store it "
                f"as {', '.join(DTYPES)}"
            )
        if self.shape != shape:
            raise ValueError(
                f"{self.file}: tensor {self.name} has shape {self.shape}; its config "
                f"asks for {shape}"
            )

    def open(self) -> np.ndarray:
        """The tensor in place: slices of it read only what they need."""
        dtype, shape = DTYPES[self.code], self.shape
        return np.asarray(np.memmap(self.file, dtype, "r", self.offset, shape))


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object; ValueError names the file if it is absent or malformed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: not found; give a checkpoint folder") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no JSON object; copy it again")
    return content


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a checkpoint by name: of model.safetensors, or of all shards.

    Raises ValueError, in one line with the file, for damaged files and for an index
    that names files or tensors that are not there.
    """
    if (folder / SINGLE).exists():
        return read_header(folder / SINGLE)
    index = folder / INDEX
    if not index.exists():
        _refuse_pickled(folder)
        raise ValueError(
            f"{folder / SINGLE}: not found; weights are read from safetensors files"
        )
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index}: weight_map is missing or empty; copy it again")
    wrong = [shard for shard in places.values() if not isinstance(shard, str)]
    if wrong:
        raise ValueError(f"{index}: weight_map names {wrong[0]!r}; give file names")
    shards = {shard: _shard(folder, shard) for shard in sorted(set(places.values()))}
    found = {name: held for shard in shards.values() for name, held in shard.items()}
    for name, shard in places.items():
        if name not in shards[shard]:
            raise ValueError(
                f"{folder / shard}: tensor {name} is missing, but {INDEX} says it is "
                "there"
            )
        found[name] = shards[shard][name]
    return found


def _shard(folder: Path, shard: str) -> dict[str, Stored]:
    path = folder / shard
    if not path.is_file():
        raise ValueError(f"{path}: not found, but {INDEX} names it; copy it")
    return read_header(path)


def _refuse_pickled(folder: Path) -> None:
    """Raises ValueError for weights that only torch reads."""
    for name in PICKLED:
        if (folder / name).exists():
            raise ValueError(
                f"{folder / name}: only safetensors files are read; load this folder "
                "with transformers and write it again with its save_pretrained"
            )


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file by name; ValueError if it is damaged."""
    if not path.is_file():
        _refuse_pickled(path.parent)
        raise ValueError(f"{path}: not found; weights are read from safetensors files")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise _damaged(path, f"{size} bytes cannot hold its header")
        header = file.read(length)
    try:
        content = json.loads(header)
        entries = {k: v for k, v in content.items() if k != "__metadata__"}
        found = {
            name: _entry(path, name, entry, 8 + length)
            for name, entry in entries.items()
        }
        ends = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise _damaged(path, f"its header is not readable: {reason[:80]}") from error
    last = 0
    for start, end in ends:
        if start != last:
            raise _damaged(path, f"bytes {last} to {start} belong to no one tensor")
        last = end
    if 8 + length + last != size:
        raise _damaged(path, f"it lists {8 + length + last} bytes and has {size}")
    return found


def _entry(path: Path, name: str, entry: Mapping[str, Any], data: int) -> Stored:
    """One entry of a header; its offsets count from byte `data` of the file."""
    start, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, end)):
        raise ValueError(f"tensor {name} has no whole sizes")
    held = Stored(path, name, entry["dtype"], shape, data + start)
    dtype = DTYPES.get(held.code)
    if dtype is not None and end - start != prod(shape) * dtype.itemsize:
        raise ValueError(f"tensor {name} has {end - start} bytes for {shape}")
    return held


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path}: damaged or cut short ({reason}); copy it again")


def write_file(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype,
    values: Iterable[np.ndarray],
) -> None:
    """Writes tensors, all of one dtype, as they come, in the order of `shapes`.

    values: drawn one by one, so that only one is in memory.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + prod(shape) * dtype.itemsize
        entry = {"dtype": CODES[dtype], "shape": list(shape)}
        header[name] = {**entry, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for (name, shape), value in zip(shapes.items(), values, strict=True):
            if value.shape != shape or value.dtype != dtype:
                raise ValueError(f"{path}: {name} is {value.dtype} {value.shape}")
            file.write(np.ascontiguousarray(value).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
