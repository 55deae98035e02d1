"""LoRA adapters in the layout of PEFT, in and out.

A folder holds adapter_config.json and adapter_model.safetensors, with the factors of
every adapted module: lora_A [r in] and lora_B [out r].
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost.adapters import HEAD, TARGETS, Adapted, LoRA, joined, kernel
from unipost.hf.files import Stored, read_header, read_json, write_file
from unipost.hf.names import fused, linear_modules
from unipost.hf.peft_config import LM_HEAD, Request, read_request
from unipost.hf.staging import replaced
from unipost.model.config import ModelConfig
from unipost.processes import gathered, on_first

MARKER, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Module:
    """A linear module with an adapter, in every layer or once.

    names        of the module in each layer, or its one name
    projections  that its matrix holds, their outputs one below the other
    """

    names: tuple[str, ...]
    projections: tuple[str, ...]

    @property
    def key(self) -> str:
        """Where `Adapted.adapter` has its factors."""
        return "+".join(self.projections)

    def tensors(self) -> Iterator[tuple[str, str]]:
        """Names of the stored A and B of each layer."""
        for name in self.names:
            stem = f"{PREFIX}{name}.lora_"
            yield f"{stem}A.weight", f"{stem}B.weight"


def modules(config: ModelConfig) -> dict[str, Module]:
    """Every module that may have an adapter, by its name within a layer."""
    layers = range(config.num_hidden_layers)
    found = {
        name: Module(tuple(f"model.layers.{i}.{name}" for i in layers), parts)
        for name, parts in linear_modules(config).items()
    }
    if not config.tie_word_embeddings:
        found[LM_HEAD] = Module((LM_HEAD,), (HEAD,))
    return found


def load_adapter(
    folder: str | Path, config: ModelConfig, base: Any, lora: LoRA | None = None
) -> Adapted:
    """`base` with the adapter of a folder in PEFT's layout, its factors in float32.

    lora: what the adapter has to be, apart from `lora.path`. lora_dropout is not part
    of a model: training has none here. Raises ValueError, in one line with the file
    and the field or tensor, for kinds of adapters that are not supported, for tensors
    that are missing, left over, of another shape or dtype, or not finite, and for an
    adapter that is not as `lora` says.
    """
    folder = Path(folder)
    known = modules(config)
    names = {name: module.names for name, module in known.items()}
    request = read_request(read_json(folder / MARKER), folder / MARKER, names)
    chosen = {known[name].key: rank for name, rank in request.ranks.items()}
    if lora is not None:
        _check_lora(lora, request, set(chosen), config, folder / MARKER)
    tensors = read_header(folder / WEIGHTS)
    held = {module.key: module for module in known.values() if module.key in chosen}
    expected = {name for x in held.values() for pair in x.tensors() for name in pair}
    _check_names(tensors, expected, folder / WEIGHTS)
    adapter = {
        key: _factors(tensors, base, module, chosen[key])
        for key, module in held.items()
    }
    return Adapted(base, adapter, request.alpha, request.rslora)


def _check_lora(
    lora: LoRA, request: Request, keys: set[str], config: ModelConfig, path: Path
) -> None:
    """Raises ValueError where the run's settings are not those of the file."""
    wanted = set(joined(lora.targets, fused(config)))
    pairs: dict[str, tuple[object, object]] = {
        "rank": (lora.rank, request.rank),
        "alpha": (lora.alpha, request.alpha),
        "rslora": (lora.rslora, request.rslora),
        "targets": (_listed(wanted), _listed(keys)),
    }
    for name, (given, stored) in pairs.items():
        if given != stored:
            raise ValueError(
                f"lora.{name}: {given} is not that of the adapter in {path}; write "
                f"{name}: {stored}"
            )


def _listed(keys: Collection[str]) -> str:
    """The projections of an adapter's keys, as a config lists them."""
    parts = {part for key in keys for part in key.split("+")}
    return f"[{', '.join(name for name in (*TARGETS, HEAD) if name in parts)}]"


def _check_names(tensors: Mapping[str, Stored], expected: set[str], path: Path) -> None:
    """Raises ValueError for the first tensor that is missing or left over."""
    for name in sorted(expected - set(tensors)):
        raise ValueError(f"{path}: tensor {name} is missing; {MARKER} asks for it")
    for name in sorted(set(tensors) - expected):
        raise ValueError(
            f"{path}: tensor {name} is not part of the adapter that {MARKER} "
            "describes; remove it or correct that file"
        )


def _factors(
    tensors: Mapping[str, Stored], base: Any, module: Module, rank: int
) -> dict[str, jax.Array]:
    """A and B of one module, stacked over layers."""
    sizes = [kernel(base, part).shape for part in module.projections]
    inputs, outputs = sizes[0][-2], sum(size[-1] for size in sizes)
    pairs = [
        (_matrix(tensors[a], (rank, inputs)).T, _matrix(tensors[b], (outputs, rank)).T)
        for a, b in module.tensors()
    ]
    stacked = zip(*pairs, strict=True)
    if len(sizes[0]) == 2:
        a, b = pairs[0]
    else:
        a, b = (np.stack(each) for each in stacked)
    return {"a": jnp.asarray(a, jnp.float32), "b": jnp.asarray(b, jnp.float32)}


def _matrix(stored: Stored, shape: tuple[int, ...]) -> np.ndarray:
    stored.check(shape)
    value = stored.open().astype(np.float32)
    if not np.isfinite(value).all():
        raise ValueError(
            f"{stored.file}: tensor {stored.name} has entries that are NaN or "
            "infinite; copy it again"
        )
    return value


def save_adapter(
    folder: str | Path, config: ModelConfig, params: Adapted, base: str | None = None
) -> None:
    """Writes the adapter alone, in float32, as PEFT and vLLM read it.

    base: folder or name of the base model, for base_model_name_or_path. The folder
    appears whole or not at all, and replaces an earlier adapter; of several processes
    the first writes. Raises ValueError for an adapter that does not fit `config` and
    for a folder that holds other things; OSError, in one line, where the disk is full.
    """
    known = {module.key: (name, module) for name, module in modules(config).items()}
    adapter = params.adapter or {}
    wrong = sorted(set(adapter) - set(known))
    if wrong or not adapter:
        raise ValueError(
            f"save_adapter: {wrong or 'no adapter'}; give an adapter that was made "
            "for this config"
        )
    values = {
        name: value
        for key, factors in adapter.items()
        for name, value in _stored(known[key][1], factors)
    }
    shapes = {name: value.shape for name, value in values.items()}
    ranks = {known[key][0]: x["a"].shape[-1] for key, x in adapter.items()}
    fields = _fields(ranks, params, base)

    def write() -> None:
        size = 4 * sum(map(prod, shapes.values()))
        with replaced(Path(folder), MARKER, size) as new:
            wanted = np.dtype(np.float32)
            write_file(new / WEIGHTS, shapes, wanted, iter(values.values()))
            (new / MARKER).write_text(json.dumps(fields, indent=2) + "\n")

    on_first(write)


def _stored(
    module: Module, factors: Mapping[str, jax.Array]
) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of one module, in float32."""
    a, b = (gathered(factors[name]).astype(np.float32) for name in ("a", "b"))
    if a.ndim == 2:
        a, b = a[None], b[None]
    for (one, other), left, right in zip(module.tensors(), a, b, strict=True):
        yield one, left.T
        yield other, right.T


def _fields(
    ranks: Mapping[str, int], params: Adapted, base: str | None
) -> dict[str, Any]:
    """adapter_config.json; modules whose rank is not the usual one are listed."""
    rank = Counter(ranks.values()).most_common(1)[0][0]
    short = {name: name.split(".")[-1] for name in ranks}
    alpha = int(params.alpha) if params.alpha == int(params.alpha) else params.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": params.rslora,
        "target_modules": sorted(short.values()),
        "rank_pattern": {short[n]: r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {},
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
    }
