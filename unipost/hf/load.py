"""Checkpoints in the Hugging Face layout to parameters on devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from unipost.hf.config import parse_config
from unipost.hf.files import Stored, read_json, stored_tensors
from unipost.hf.names import IGNORED, Piece, pieces
from unipost.hf.shards import Shape, Sharding, fill, held_here, whole, zeros
from unipost.model.config import ModelConfig
from unipost.model.parameters import Path as Leaf
from unipost.model.parameters import shapes
from unipost.processes import alone

# The sharding of a leaf by its path and shape; None for the default device.
Placement = Callable[[Leaf, Shape], Sharding | None]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TOKENIZER = "tokenizer.json", "tokenizer_config.json"
DTYPES = ("float32", "bfloat16")
# Entries that are compared at a time.
BLOCK = 1 << 22


class Pretrained(NamedTuple):
    """A checkpoint read from disk; `tokenizer` is its folder if it has one, or None."""

    config: ModelConfig
    params: dict[str, Any]
    tokenizer: Path | None


def load_pretrained(
    folder: str | Path,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    sharding: Placement | None = None,
) -> Pretrained:
    """Reads a checkpoint in the Hugging Face layout.

    dtype     of the parameters, whatever that of the files
    sharding  sharding(path, shape) of each leaf, for example of ("blocks", "query",
              "kernel"); a process reads the slices that its own devices hold

    Give `tokenizer` to `load_tokenizer`. Raises ValueError, in one line with the file
    and the field or tensor, for what these models do not compute, for tensors that are
    missing, left over, of another shape or dtype, or not finite, and for damaged files.
    """
    if dtype not in DTYPES:
        raise ValueError(
            f"load_pretrained: dtype {dtype!r} unknown; give {' or '.join(DTYPES)}"
        )
    folder = Path(folder)
    config = parse_config(_fields(folder), folder / "config.json")
    tensors = stored_tensors(folder)
    plan = match(config, tensors, folder)
    sizes = shapes(config)
    places = {path: sharding and sharding(path, sizes[path]) for path in sizes}
    check_tied(tensors, config, places["embedding",])
    params = read(plan, tensors, sizes, places, jnp.dtype(dtype))
    found = any((folder / name).exists() for name in TOKENIZER)
    return Pretrained(config, params, folder if found else None)


def read_generation(folder: str | Path) -> dict[str, Any]:
    """generation_config.json of a checkpoint, empty where it has none."""
    path = Path(folder) / "generation_config.json"
    return read_json(path) if path.exists() else {}


def _fields(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists() and (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{path}: not found; this folder is an adapter: load its base, and write "
            "the folder as lora.path"
        )
    return read_json(path)


def match(
    config: ModelConfig,
    tensors: Mapping[str, Stored],
    folder: Path,
    more: Iterable[Piece] = (),
) -> dict[str, list[Piece]]:
    """What each tensor holds; ValueError unless tensors and config fit each other.

    more: pieces beside those of a language model.
    """
    plan: dict[str, list[Piece]] = defaultdict(list)
    for piece in (*pieces(config, tensors.keys()), *more):
        plan[piece.tensor].append(piece)
    for name in plan:
        if name not in tensors:
            raise ValueError(
                f"{folder}: tensor {name} is missing; config.json asks for it"
            )
    expected = {name: held[0].shape for name, held in plan.items()}
    if config.tie_word_embeddings:
        expected[HEAD] = expected[EMBEDDING]
    for name, held in sorted(tensors.items()):
        if name.endswith(IGNORED):
            continue
        if name not in expected:
            raise ValueError(
                f"{held.file}: tensor {name} is not part of the model that config.json "
                "describes; remove it or correct config.json"
            )
        held.check(expected[name])
    return dict(plan)


def check_tied(
    tensors: Mapping[str, Stored], config: ModelConfig, place: Sharding | None
) -> None:
    """Raises ValueError for a stored lm_head that differs from the tied embedding."""
    if not config.tie_word_embeddings or HEAD not in tensors:
        return
    head, table = tensors[HEAD], tensors[EMBEDDING]
    for index, _ in held_here(table.shape, place):
        one, other = head.open()[index], table.open()[index]
        rows = max(1, BLOCK // one.shape[1])
        for i in range(0, len(one), rows):
            if not np.array_equal(one[i : i + rows], other[i : i + rows]):
                raise ValueError(
                    f"{head.file}: tensor {HEAD} differs from {EMBEDDING} but "
                    "config.json ties them; set tie_word_embeddings to false"
                )


def read(
    plan: Mapping[str, list[Piece]],
    tensors: Mapping[str, Stored],
    sizes: Mapping[Leaf, Shape],
    places: Mapping[Leaf, Sharding | None],
    dtype: np.dtype,
) -> dict[str, Any]:
    """The parameters, from tensors in the order in which they lie in their files."""
    leaves = {}
    for path, shape in sizes.items():
        try:
            leaves[path] = zeros(shape, dtype, places[path])
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"load_pretrained: sharding of {'.'.join(path)} {shape}: {reason}"
            ) from error
    # each device's part is written by itself, whatever mesh a run has set
    with alone():
        for name in sorted(plan, key=lambda n: (tensors[n].file, tensors[n].offset)):
            fill(leaves, tensors[name], plan[name])
    return unflatten_dict(
        {path: whole(sizes[path], places[path], leaves[path]) for path in sizes}
    )
