"""Parameters to checkpoints in the Hugging Face layout, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from unipost import processes
from unipost.adapters import Adapted, merged, terms
from unipost.hf.config import render_config
from unipost.hf.files import INDEX, SINGLE, write_file
from unipost.hf.load import DTYPES
from unipost.hf.names import Piece, pieces
from unipost.hf.staging import check_target, replaced
from unipost.model.config import ModelConfig
from unipost.model.parameters import shapes
from unipost.tokenizer import SavedTokenizer

Array = jax.Array
MARKER, GENERATION = "config.json", "generation_config.json"
# Fields that both files have.
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_pretrained(
    folder: str | Path,
    config: ModelConfig,
    params: Any,
    tokenizer: SavedTokenizer | None = None,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    limit: float = 5e9,
    generation: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint that transformers and `load_pretrained` read.

    params      plain, or `Adapted`: then merged, one matrix at a time; `save_adapter`
                writes an adapter alone
    dtype       of the stored weights
    limit       bytes of one file; more weights are several files and an index
    generation  fields of generation_config.json; without them the ids of `tokenizer`

    The folder appears whole or not at all; an earlier checkpoint there is replaced. On
    several processes all must call it, and the first writes. Raises ValueError for
    another dtype, parameters that do not fit `config`, and a folder that holds other
    things; OSError, in one line, where the disk is full.
    """
    if dtype not in DTYPES:
        raise ValueError(
            f"save_pretrained: dtype {dtype!r} unknown; give {' or '.join(DTYPES)}"
        )
    check_target(Path(folder), MARKER)
    _check_params(config, params)
    fields, held = render_config(config, dtype), pieces(config)
    wide = jnp.dtype(dtype)
    write_pieces(folder, fields, held, params, tokenizer, wide, limit, generation)


def write_pieces(
    folder: str | Path,
    fields: Mapping[str, Any],
    held: Iterable[Piece],
    params: Any,
    tokenizer: SavedTokenizer | None,
    dtype: np.dtype,
    limit: float = 5e9,
    generation: Mapping[str, Any] | None = None,
) -> None:
    """`save_pretrained` of any pieces of `params`, with `fields` in config.json."""
    folder, held = Path(folder), tuple(held)
    generation = _ends(tokenizer) if generation is None else dict(generation)
    ends = {name: generation[name] for name in ENDS if name in generation}
    texts = {MARKER: {**fields, **ends}, GENERATION: generation}
    tensors, sizes = _tensors(held, params, dtype), {x.tensor: x.shape for x in held}

    def write() -> None:
        size = sum(map(prod, sizes.values()))
        with replaced(folder, MARKER, size * dtype.itemsize) as new:
            _write_weights(new, sizes, tensors, dtype, limit)
            for name, content in texts.items():
                (new / name).write_text(json.dumps(content, indent=2) + "\n")
            if tokenizer is not None:
                tokenizer.save(new)

    if processes.count() == 1:
        write()
        return
    problem = _problem(write) if processes.is_first() else None
    # every process takes part in gathering each tensor, also after a failure
    for _ in tensors:
        pass
    processes.on_first(lambda: _raised(problem))


def _raised(problem: Exception | None) -> None:
    if problem is not None:
        raise problem


def _problem(write: Callable[[], None]) -> Exception | None:
    try:
        write()
    except Exception as error:
        return error
    return None


def _ends(tokenizer: SavedTokenizer | None) -> dict[str, int]:
    """generation_config.json of a tokenizer."""
    if tokenizer is None:
        return {}
    return {"eos_token_id": tokenizer.eos_token, "pad_token_id": tokenizer.pad_token}


def _check_params(config: ModelConfig, params: Any) -> None:
    """Raises ValueError unless the leaves are those of `config`."""
    base = params.base if isinstance(params, Adapted) else params
    leaves: dict[Any, Any] = flatten_dict(dict(base))
    found = {path: x.shape for path, x in leaves.items()}
    if found != shapes(config):
        raise ValueError(
            "save_pretrained: params do not have the shapes of config; give the "
            "config that these parameters were made with"
        )


def _write_weights(
    folder: Path,
    sizes: Mapping[str, tuple[int, ...]],
    tensors: Iterator[tuple[str, np.ndarray]],
    dtype: np.dtype,
    limit: float,
) -> None:
    """Writes the tensors as they come, into one file, or several and their index."""
    files: list[dict[str, tuple[int, ...]]] = [{}]
    total, held = 0, 0
    for name, shape in sizes.items():
        size = prod(shape) * dtype.itemsize
        if files[-1] and held + size > limit:
            files.append({})
            held = 0
        files[-1][name] = shape
        total, held = total + size, held + size
    count, places = len(files), {}
    values = (value for _, value in tensors)
    for i, shapes_of in enumerate(files, 1):
        file = SINGLE if count == 1 else f"model-{i:05d}-of-{count:05d}.safetensors"
        write_file(folder / file, shapes_of, dtype, islice(values, len(shapes_of)))
        places |= dict.fromkeys(shapes_of, file)
    if count > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def named_tensors(
    config: ModelConfig, params: Any, dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the checkpoint with its name, in host memory, one at a time.

    In the order of `pieces`, each made when it is asked for. Parameters that
    are `Adapted` are merged.
    """
    return _tensors(pieces(config), params, dtype)


def _tensors(
    held: Iterable[Piece], params: Any, dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    groups: dict[str, list[Piece]] = {}
    for piece in held:
        groups.setdefault(piece.tensor, []).append(piece)
    for name, parts in groups.items():
        if len(parts) == 1:
            yield name, _host(params, parts[0], dtype)
            continue
        tensor = np.empty(parts[0].shape, dtype)
        for piece in parts:
            tensor[piece.at] = _host(params, piece, dtype)
        yield name, tensor


def _host(params: Any, piece: Piece, dtype: np.dtype) -> np.ndarray:
    """One piece as its tensor holds it, whole even if devices hold parts of it."""
    leaf = params.base if isinstance(params, Adapted) else params
    for part in piece.path:
        leaf = leaf[part]
    *_, name, kind = "", *piece.path
    whole = isinstance(params, Adapted) and kind == "kernel"
    low = terms(params).get(name, {}) if whole else {}
    place = np.array(piece.index, np.int32)
    return processes.gathered(_take(leaf, low, place, piece.transposed, dtype))


@partial(jax.jit, static_argnums=(3, 4))
def _take(
    leaf: Array, low: dict[str, Array], place: Array, transposed: bool, dtype: np.dtype
) -> Array:
    """leaf[place], with its low-rank term if there is one, as its tensor holds it."""

    def one(x: Array) -> Array:
        for i in range(len(place)):
            x = jax.lax.dynamic_index_in_dim(x, place[i], keepdims=False)
        return x

    value = one(leaf)
    if low:
        value = merged(value, one(low["a"]), one(low["b"]))
    return (value.T if transposed else value).astype(dtype)
