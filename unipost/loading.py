"""Models of a run: read from a folder or drawn anew, each with its tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np

from unipost.adapters import Adapted, LoRA, init_adapter, merge, trained_part
from unipost.hf import (
    load_adapter,
    load_pretrained,
    read_generation,
    save_adapter,
    save_pretrained,
)
from unipost.hf.files import read_json
from unipost.hf.names import fused
from unipost.mesh import Layout
from unipost.model import Compute, ModelConfig, Policy, init_params, transformer_policy
from unipost.processes import gathered, on_first
from unipost.runs import RunError
from unipost.sources import Setting
from unipost.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    check_vocabulary,
    load_tokenizer,
)

M = TypeVar("M", bound="Model")


@dataclass(frozen=True)
class NewModel:
    """A model from scratch: sizes, and its tokenizer: of `characters`, or of bytes."""

    characters: str | None = None
    hidden_size: int = 64
    intermediate_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    max_position_embeddings: int = 512
    tokenizer: Literal["characters", "bytes"] = "characters"

    def __post_init__(self):
        if self.tokenizer == "characters" and self.characters is None:
            raise ValueError("characters: missing; write them, or tokenizer: bytes")
        if self.tokenizer == "bytes" and self.characters is not None:
            raise ValueError("characters: given with tokenizer: bytes; leave one out")

    def new_tokenizer(self) -> CharTokenizer | ByteTokenizer:
        """The tokenizer that it is made with."""
        if self.characters is None:
            return ByteTokenizer()
        return CharTokenizer(self.characters)


@dataclass(frozen=True)
class Model:
    """A policy with its parameters and tokenizer.

    `config` is None for a model of one's own (`unipost.model.function_policy`): such a
    model is trained as any other, and saved as `final.npz`, a leaf by its path.
    `folder` is where it was read from, `generation` its generation_config.json.
    `mesh` is the layout that the parameters are spread over, None for one device.
    """

    config: ModelConfig | None
    policy: Policy
    params: Any
    tokenizer: Any
    folder: str | None = None
    generation: Mapping[str, Any] | None = None
    mesh: Layout | None = None

    def writing(self) -> Model:
        """The model that samples text for the data; the model itself."""
        return self

    def save(self, folder: Path, params: Any) -> None:
        """Write `params` to `folder`/final, in the Hugging Face layout if it can.

        Of a model that was read from a folder and adapted, the adapter alone.
        """
        adapted = self.folder is not None and isinstance(params, Adapted)
        if self.config is not None and adapted:
            save_adapter(folder / "final", self.config, params, self.folder)
            return
        if self.config is not None:
            place, parts = folder / "final", (self.config, params, self.tokenizer)
            save_pretrained(place, *parts, generation=self.generation)
            return
        save_leaves(folder / "final.npz", params)


def setting_of(model: Model, seed: int) -> Setting:
    """What the sources of a run read of its model."""
    own = model.writing()
    return Setting(own.policy, own.params, own.tokenizer, seed, model.mesh)


def save_leaves(path: Path, params: Any) -> None:
    """Write every leaf under its path, as NumPy does; of processes the first."""
    leaves = jax.tree_util.tree_leaves_with_path(gathered(params))
    named: Any = {jax.tree_util.keystr(place): np.asarray(x) for place, x in leaves}
    on_first(lambda: np.savez(path, **named))


def load_model(
    model: str | NewModel,
    seed: int,
    lora: LoRA | None = None,
    compute: Compute | None = None,
    layout: Layout | None = None,
) -> Model:
    """The model of an experiment: read from its folder, or drawn from `seed`.

    The folder of an adapter stands for its base with the adapter merged in. With
    `lora` its parameters are `Adapted`: a new adapter on top of the model. `layout`
    spreads them over a mesh; a checkpoint is read straight to where it goes.
    """
    place = generation = None
    if isinstance(model, str):
        base = adapter_base(model)
        place = model if base is None else None
        place_of = layout and layout.placement
        config, params, folder = load_pretrained(base or model, sharding=place_of)
        generation = read_generation(base or model) or None
        if folder is None:
            raise RunError(f"{model}: holds no tokenizer; save one beside the weights")
        tokenizer: Tokenizer = load_tokenizer(folder)
        check_vocabulary(tokenizer, config.vocab_size, folder)
        if base is not None:
            params = merge(load_adapter(model, config, params))
    else:
        tokenizer = model.new_tokenizer()
        names = {"characters", "tokenizer"}
        sizes = {k: v for k, v in vars(model).items() if k not in names}
        config = ModelConfig(vocab_size=tokenizer.vocab_size, **sizes)
        params = init_params(config, seed)
    if lora is not None:
        params = open_adapter(lora, config, params, seed)
    policy = transformer_policy(config, compute)
    found = Model(config, policy, params, tokenizer, place, generation)
    return laid_out(found, layout)


def laid_out(model: M, layout: Layout | None) -> M:
    """`model` with its parameters spread over a mesh, or as it is without one.

    Raises ValueError for a parameter that does not divide over its axes.
    """
    if layout is None or model.mesh == layout:
        return model
    params = layout.spread(model.params)
    return dataclasses.replace(model, params=params, mesh=layout)


def adapter_base(folder: str) -> str | None:
    """The base model of a folder that holds an adapter in PEFT's layout, else None.

    Raises RunError where it is not here.
    """
    path = Path(folder) / "adapter_config.json"
    if not path.exists() or (Path(folder) / "config.json").exists():
        return None
    base = read_json(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not Path(base).is_dir():
        raise RunError(
            f"{path}: base_model_name_or_path is {base!r}, which is no folder here; "
            "write that of the base model"
        )
    return base


def open_adapter(lora: LoRA, config: ModelConfig, base: Any, seed: int) -> Adapted:
    """The adapter of a run: read from its folder, or drawn from `seed`."""
    if lora.path is None:
        return init_adapter(lora, base, seed, fused(config))
    return load_adapter(lora.path, config, base, lora)


def load_reference(
    folder: str | None, model: Model, whole: bool, compute: Compute | None = None
) -> Model:
    """The frozen reference of `model`: itself without its adapter, or of a folder.

    `whole` says that distributions over the vocabulary are compared. Raises RunError
    where its tokens are not the model's: log-probs would be of different things.
    """
    if folder is None:
        frozen, _ = trained_part(model.params)
        return model if frozen is None else dataclasses.replace(model, params=frozen)
    reference = load_model(folder, 0, None, compute, model.mesh)
    sizes = [m.config and m.config.vocab_size for m in (reference, model)]
    if not same_tokens(reference.tokenizer, model.tokenizer):
        problem = "its tokenizer is not the model's"
    elif whole and sizes[0] != sizes[1]:
        problem = f"its vocabulary has {sizes[0]} entries, the model's {sizes[1]}"
    else:
        return reference
    raise RunError(f"{folder}: {problem}; write a reference with the same tokens")


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers agree in size, end, and a thousand ids across them."""
    if (one.vocab_size, one.eos_token) != (other.vocab_size, other.eos_token):
        return False
    ids = range(0, one.vocab_size, max(1, one.vocab_size // 1000))
    return all(one.decode([i]) == other.decode([i]) for i in ids)
