"""Models of a run: read from a folder or drawn anew, each with its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unipost.hf import load_pretrained, save_pretrained
from unipost.model import ModelConfig, Policy, init_params, transformer_policy
from unipost.runs import RunError
from unipost.tokenizer import CharTokenizer, Tokenizer, load_tokenizer


@dataclass(frozen=True)
class NewModel:
    """A model from scratch: sizes, and the characters of its tokenizer."""

    characters: str
    hidden_size: int = 64
    intermediate_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    max_position_embeddings: int = 512


@dataclass(frozen=True)
class Model:
    """A policy with its parameters and tokenizer.

    `config` is None for a model of one's own (`unipost.model.function_policy`): such a
    model is trained as any other, and saved as `final.npz`, a leaf by its path.
    """

    config: ModelConfig | None
    policy: Policy
    params: Any
    tokenizer: Any

    def save(self, folder: Path, params: Any) -> None:
        """Write `params` to `folder`/final, in the Hugging Face layout if it can."""
        if self.config is not None:
            save_pretrained(folder / "final", self.config, params, self.tokenizer)
            return
        leaves = jax.tree_util.tree_leaves_with_path(params)
        named: Any = {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}
        np.savez(folder / "final.npz", **named)


def load_model(model: str | NewModel, seed: int) -> Model:
    """The model of an experiment: read from its folder, or drawn from `seed`."""
    if isinstance(model, str):
        config, params, folder = load_pretrained(model)
        if folder is None:
            raise RunError(f"{model}: holds no tokenizer; save one beside the weights")
        tokenizer: Tokenizer = load_tokenizer(folder)
    else:
        tokenizer = CharTokenizer(model.characters)
        sizes = {k: v for k, v in vars(model).items() if k != "characters"}
        config = ModelConfig(vocab_size=tokenizer.vocab_size, **sizes)
        params = init_params(config, seed)
    return Model(config, transformer_policy(config), params, tokenizer)


def load_reference(folder: str | None, model: Model, whole: bool) -> Model:
    """The frozen reference of `model`: itself, or that of a folder.

    `whole` says that distributions over the vocabulary are compared. Raises RunError
    where its tokens are not the model's: log-probs would be of different things.
    """
    if folder is None:
        return model
    reference = load_model(folder, seed=0)
    sizes = [m.config and m.config.vocab_size for m in (reference, model)]
    if not _same_tokens(reference.tokenizer, model.tokenizer):
        problem = "its tokenizer is not the model's"
    elif whole and sizes[0] != sizes[1]:
        problem = f"its vocabulary has {sizes[0]} entries, the model's {sizes[1]}"
    else:
        return reference
    raise RunError(f"{folder}: {problem}; write a reference with the same tokens")


def _same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers agree in size, end, and a thousand ids across them."""
    if (one.vocab_size, one.eos_token) != (other.vocab_size, other.eos_token):
        return False
    ids = range(0, one.vocab_size, max(1, one.vocab_size // 1000))
    return all(one.decode([i]) == other.decode([i]) for i in ids)
