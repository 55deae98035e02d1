"""What reference log-probs depend on, as digests and in words.

Two keys are equal where model, tokenizer, rows and dtype are: then so are the
log-probs. Digests are SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost.data import Tokens, data_hash
from unipost.loading import adapter_base
from unipost.processes import gathered
from unipost.tokenizer import Tokenizer

Part = dict[str, Any]
FIELDS = {
    "model": ("files", "parameters", "what"),
    "tokenizer": ("digest", "what"),
    "data": ("digest", "what"),
    "compute": ("digest", "what"),
}
"""The parts of a record and what each says."""


@dataclass(frozen=True)
class Key:
    """The parts of a key, {digest, what} each; `parameters` is the model's own digest.

    model       {files, what}: files is the digest of its folder's weights and config,
                None where it was made in memory
    parameters  digests the model itself, which may have to be loaded for that: it
                decides where the files do not
    """

    model: Part
    parameters: Callable[[], str]
    tokenizer: Part
    data: Part
    compute: Part

    def record(self) -> dict[str, Part]:
        """The key as plain data, with the digest of the parameters."""
        model = {**self.model, "parameters": self.parameters()}
        others = {name: getattr(self, name) for name in ("tokenizer", "data")}
        return {"model": model, **others, "compute": self.compute}

    def decides(self, record: Mapping[str, Part] | None) -> bool:
        """Whether the parameters' digest is asked for, given the record there is."""
        files = self.model["files"]
        return record is None or files is None or files != record["model"]["files"]

    def differences(self, record: Mapping[str, Part]) -> list[str]:
        """The parts in which a well-formed `record` is of another key, in words."""
        found = []
        for name in ("tokenizer", "data", "compute"):
            here, there = getattr(self, name), record[name]
            if here["digest"] != there["digest"]:
                found.append(_words(name, there["what"], here["what"]))
        model = record["model"]
        # two folders may hold one model, and it may have been made in memory there
        if self.decides(record) and self.parameters() != model["parameters"]:
            found.insert(0, _words("model", model["what"], self.model["what"]))
        return found


def _words(name: str, there: str, here: str) -> str:
    if there == here:
        return f"{name} ({here}; its content differs)"
    return f"{name} ({there} there, {here} here)"


def well_formed(record: Mapping[str, Any]) -> bool:
    """Whether `record` has all parts of a key."""
    return all(
        isinstance(record.get(part), dict) and {*fields} <= record[part].keys()
        for part, fields in FIELDS.items()
    )


def model_part(folder: str | None, what: str) -> Part:
    """The key's part for the model in `folder`, None for one in memory alone."""
    files = None if folder is None else data_hash(_files(folder))
    return {"files": files, "what": what}


def _files(folder: str) -> list[Path]:
    """Config and weights of a folder; of an adapter's, those of its base too."""
    base, place = adapter_base(folder), Path(folder)
    config = place / ("config.json" if base is None else "adapter_config.json")
    beneath = [] if base is None else _files(base)
    return [config, *sorted(place.glob("*.safetensors")), *beneath]


def parameters_digest(config: Any, params: Any) -> str:
    """Of a model's config and of every leaf: its path, shape, dtype and bytes.

    A model that is a function of one's own is known by its parameters alone.
    """
    digest = hashlib.sha256(repr(config).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(gathered(leaf))
        name = jax.tree_util.keystr(path)
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def tokenizer_part(tokenizer: Tokenizer) -> Part:
    """Its size, its special tokens, a thousand ids across it, and its chat template.

    What it makes of the text is in the digest of the rows.
    """
    size = tokenizer.vocab_size
    ids = range(0, size, max(1, size // 1000))
    holder = getattr(tokenizer, "backend", tokenizer)
    says = [
        [size, tokenizer.eos_token, list(getattr(tokenizer, "start_tokens", ()))],
        [tokenizer.decode([i]) for i in ids],
        getattr(holder, "chat_template", None),
    ]
    digest = hashlib.sha256(json.dumps(says, default=str).encode()).hexdigest()
    return {"digest": digest, "what": f"{type(tokenizer).__name__} of {size} tokens"}


def tokens_digest(tokens: Tokens) -> str:
    """Of prompts, responses and their masks as arrays."""
    digest = hashlib.sha256()
    for array in tokens[:4]:
        whole = np.ascontiguousarray(array)
        digest.update(f"{whole.shape} {whole.dtype}".encode())
        digest.update(whole.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def data_part(paths: Iterable[str], parts: Iterable[Tokens]) -> Part:
    """The key's part for the rows of one source, or of several side by side."""
    parts = list(parts)
    digest = hashlib.sha256("".join(map(tokens_digest, parts)).encode()).hexdigest()
    sizes = [f"{len(x.prompt)} x ({_width(x)})" for x in parts]
    return {"digest": digest, "what": f"{', '.join(paths)}: {', '.join(sizes)} tokens"}


def _width(tokens: Tokens) -> str:
    return f"{tokens.prompt.shape[1]} + {tokens.response.shape[1]}"


def compute_part(dtype: str, params: Any) -> Part:
    """The key's part for the dtype of products and that of the parameters."""
    own = sorted({jnp.dtype(leaf.dtype).name for leaf in jax.tree.leaves(params)})
    what = f"{dtype} products of {' and '.join(own)} parameters"
    return {"digest": hashlib.sha256(what.encode()).hexdigest(), "what": what}
