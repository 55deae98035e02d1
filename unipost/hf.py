"""Llama and Qwen2 checkpoints in the Hugging Face layout, in and out.

A folder holds config.json, generation_config.json, and model.safetensors (or shards
with model.safetensors.index.json), and may hold a tokenizer.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unipost.hf_config import parse_config, render_config
from unipost.model import BIASED, ModelConfig, init_params
from unipost.tokenizer import CharTokenizer, PretrainedTokenizer

# Ours <- theirs, for the tensors of one layer; matrices are transposed.
MATRICES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
DTYPES = ("float32", "bfloat16")


class Pretrained(NamedTuple):
    """A checkpoint read from disk; `tokenizer` is its folder if it has one, or None."""

    config: ModelConfig
    params: dict[str, Any]
    tokenizer: Path | None


def load_pretrained(folder: str | Path) -> Pretrained:
    """Reads a Llama or Qwen2 checkpoint; parameters become float32 if they were not.

    Give `tokenizer` to `load_tokenizer`. Raises ValueError, in one line with the file
    and the field or tensor, for what this model does not compute, for tensors that are
    missing, left over or of another shape, and for damaged files.
    """
    folder = Path(folder)
    config = parse_config(read_json(folder / "config.json"), folder / "config.json")
    params = assemble(config, read_tensors(folder), folder)
    files = "tokenizer.json", "tokenizer_config.json"
    found = any((folder / name).exists() for name in files)
    return Pretrained(config, params, folder if found else None)


def save_pretrained(
    folder: str | Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    tokenizer: CharTokenizer | PretrainedTokenizer | None = None,
    *,
    dtype: str = "float32",
) -> None:
    """Writes a checkpoint that transformers and `load_pretrained` read.

    It is a Qwen2 model where `config.attention_bias` is "qkv", otherwise a Llama model.
    dtype: "float32" or "bfloat16", how weights are stored. The folder appears whole or
    not at all; an earlier checkpoint there is replaced. Raises ValueError for another
    dtype, parameters that do not fit `config`, and a folder that holds other things.
    """
    if dtype not in DTYPES:
        raise ValueError(
            f"save_pretrained: dtype {dtype!r} unknown; give {' or '.join(DTYPES)}"
        )
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "config.json").exists():
            raise ValueError(
                f"save_pretrained: {folder} holds files but no checkpoint; give an "
                "empty or new folder"
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        new = staging / "new"
        new.mkdir()
        write(new, config, params, tokenizer, dtype)
        swap(new, folder, staging / "old")
    finally:
        shutil.rmtree(staging)


def swap(new: Path, folder: Path, old: Path) -> None:
    """Puts `new` at `folder` and what was there at `old`, or changes nothing."""
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise


def write(
    folder: Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    tokenizer: CharTokenizer | PretrainedTokenizer | None,
    dtype: str,
) -> None:
    """Writes every file of a checkpoint into an existing, empty folder."""
    from safetensors.numpy import save_file

    ends = (
        {}
        if tokenizer is None
        else {"eos_token_id": tokenizer.eos_token, "pad_token_id": tokenizer.pad_token}
    )
    tensors = {
        name: np.ascontiguousarray(np.asarray(x, jnp.dtype(dtype)))
        for name, x in disassemble(config, params).items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for name, content in (
        ("config.json", {**render_config(config, dtype), **ends}),
        ("generation_config.json", ends),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    # safetensors writes for the owner alone; a checkpoint is as readable as its config
    weights = folder / "model.safetensors"
    weights.chmod((folder / "config.json").stat().st_mode)
    if tokenizer is not None:
        tokenizer.save(folder)


def places(config: ModelConfig) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Where each tensor of a checkpoint lives: path of the leaf, and index into it."""
    found: dict[str, tuple[tuple[str, ...], Any]] = {
        "model.embed_tokens.weight": (("embedding",), ...),
        "model.norm.weight": (("norm", "scale"), ...),
    }
    if not config.tie_word_embeddings:
        found["lm_head.weight"] = ("head", "kernel"), ...
    biased = {ours: MATRICES[ours] for ours in BIASED[config.attention_bias]}
    for layer in range(config.num_hidden_layers):
        for leaf, kind, parts in (
            ("kernel", "weight", MATRICES),
            ("bias", "bias", biased),
            ("scale", "weight", NORMS),
        ):
            for ours, theirs in parts.items():
                name = f"model.layers.{layer}.{theirs}.{kind}"
                found[name] = ("blocks", ours, leaf), layer
    return found


def leaves(config: ModelConfig) -> dict[tuple[str, ...], np.ndarray]:
    """Empty float32 arrays, one per leaf of the parameters, by path."""
    shapes = jax.eval_shape(lambda: init_params(config, 0))
    flat, _ = jax.tree_util.tree_flatten_with_path(shapes)
    return {
        tuple(key.key for key in path): np.empty(leaf.shape, np.float32)
        for path, leaf in flat
    }


def disassemble(config: ModelConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by Hugging Face name, from parameters that must fit `config`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(dict(params))
    host = {tuple(key.key for key in path): np.asarray(leaf) for path, leaf in flat}
    expected = {path: leaf.shape for path, leaf in leaves(config).items()}
    if {path: leaf.shape for path, leaf in host.items()} != expected:
        raise ValueError(
            "save_pretrained: params do not have the shapes of config; give the "
            "config that these parameters were made with"
        )
    return {
        name: host[path][index].T if path[-1] == "kernel" else host[path][index]
        for name, (path, index) in places(config).items()
    }


def assemble(
    config: ModelConfig, tensors: dict[str, tuple[Path, np.ndarray]], folder: Path
) -> dict[str, Any]:
    """Parameters from tensors by name, each with the file it came from."""
    host = leaves(config)
    if config.tie_word_embeddings:
        tensors = drop_tied_head(tensors)
    for name, (path, index) in places(config).items():
        if name not in tensors:
            raise ValueError(
                f"{folder}: tensor {name} is missing; config.json asks for it"
            )
        file, tensor = tensors[name]
        value = tensor.T if path[-1] == "kernel" else tensor
        target = host[path][index]
        if value.shape != target.shape:
            want = target.T.shape if path[-1] == "kernel" else target.shape
            raise ValueError(
                f"{file}: tensor {name} has shape {tensor.shape}; config.json asks "
                f"for {want}"
            )
        target[...] = value
    extra = sorted(set(tensors) - set(places(config)))
    if extra:
        raise ValueError(
            f"{tensors[extra[0]][0]}: tensor {extra[0]} is not part of the model that "
            "config.json describes; remove it or correct config.json"
        )
    params: dict[str, Any] = {}
    for (*path, last), value in host.items():
        inner = params
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = jnp.asarray(value)
    return params


def drop_tied_head(tensors: dict[str, tuple[Path, np.ndarray]]) -> dict[str, Any]:
    """Without a stored lm_head that repeats the tied embedding, as some files do."""
    embedding = tensors.get("model.embed_tokens.weight")
    head = tensors.get("lm_head.weight")
    if head is None or embedding is None:
        return tensors
    if not np.array_equal(head[1], embedding[1]):
        raise ValueError(
            f"{head[0]}: lm_head.weight differs from model.embed_tokens.weight but "
            "config.json ties them; set tie_word_embeddings to false"
        )
    return {name: held for name, held in tensors.items() if name != "lm_head.weight"}


def read_tensors(folder: Path) -> dict[str, tuple[Path, np.ndarray]]:
    """Every tensor of the checkpoint with the file that holds it."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_file(folder / "model.safetensors")
    shards = read_json(index)["weight_map"]
    tensors: dict[str, tuple[Path, np.ndarray]] = {}
    for shard in sorted(set(shards.values())):
        tensors |= read_file(folder / shard)
    for name, shard in shards.items():
        if name not in tensors or tensors[name][0].name != shard:
            raise ValueError(
                f"{folder / shard}: tensor {name} is missing, but {index.name} says it "
                "is there"
            )
    return tensors


def read_file(path: Path) -> dict[str, tuple[Path, np.ndarray]]:
    """Tensors of one safetensors file; ValueError names the file if it is damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise ValueError(f"{path}: not found; weights are read from safetensors files")
    try:
        with safe_open(path, "np") as file:
            tensors = {name: (path, file.get_tensor(name)) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(
            f"{path}: damaged or cut short ({error}); copy it again"
        ) from error
    for name, (_, tensor) in tensors.items():
        if tensor.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
            raise ValueError(
                f"{path}: tensor {name} is {tensor.dtype}; store float32, bfloat16 or "
                "float16"
            )
    # Older files store rotary frequencies, which are not parameters.
    return {
        name: held
        for name, held in tensors.items()
        if not name.endswith("rotary_emb.inv_freq")
    }


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object; ValueError names the file if it is absent or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: not found; give a checkpoint folder") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
