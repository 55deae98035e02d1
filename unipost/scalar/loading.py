"""Models with a scalar head for a run: read, or a language model with a new head."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipost.adapters import Adapted, LoRA, merge
from unipost.hf import read_generation
from unipost.loading import (
    Model,
    NewModel,
    laid_out,
    load_model,
    open_adapter,
    same_tokens,
    save_leaves,
)
from unipost.mesh import Layout as Spread
from unipost.model import Compute, transformer_policy
from unipost.objectives import Trainable
from unipost.runs import RunError
from unipost.scalar.hf import (
    check_layout,
    layout_of,
    load_classifier,
    save_classifier,
    trunk_config,
    value_layout,
)
from unipost.scalar.model import scalar_policy, with_head
from unipost.scalar.objective import Layout, ScalarObjective
from unipost.tokenizer import check_vocabulary, load_tokenizer


@dataclass(frozen=True)
class ScalarModel(Model):
    """A scalar policy with its parameters {"trunk", "score"}, its tokenizer and layout.

    `base` is the language model that it starts from, which can write text; None where
    it was read with its head.
    """

    layout: Layout = "sequence"
    base: Model | None = None

    @property
    def labels(self) -> int:
        """Scores of the head."""
        return self.params["score"]["kernel"].shape[-1]

    def writing(self) -> Model:
        """The language model that samples text for the data, or the model itself."""
        return self.base or self

    def save(self, folder: Path, params: Any) -> None:
        """Write `params` to `folder`/final, an adapter merged."""
        self.write(folder / "final", params)

    def write(self, folder: Path, params: Any) -> None:
        """Write `params` to `folder` in the layout of transformers, if it can.

        A model of one's own (`config` None) is written to `folder`.npz.
        """
        if self.config is None:
            save_leaves(folder.with_name(f"{folder.name}.npz"), params)
            return
        parts = self.config, params, self.layout, self.tokenizer
        save_classifier(folder, *parts, generation=self.generation)

    def check_tokens(self, other: Model, folder: str) -> None:
        """Raises RunError where this model, of `folder`, has other tokens."""
        if not same_tokens(self.tokenizer, other.tokenizer):
            raise RunError(
                f"{folder}: its tokenizer is not the model's; write a model with the "
                "same tokens"
            )


def scalar_of(
    model: Model,
    labels: int,
    layout: Layout | None = None,
    lora: LoRA | None = None,
    seed: int = 0,
) -> ScalarModel:
    """`model` with a new scalar head of zeros in place of its head; arrays are shared.

    An adapter of its own is merged first; `lora` puts a new one on the trunk. `layout`
    None is that of a critic (`unipost.scalar.hf.value_layout`).
    """
    layout = layout or value_layout(model.config)
    trunk = merge(model.params) if isinstance(model.params, Adapted) else model.params
    if model.config is not None:
        check_layout(model.config, layout)
        trunk = {name: part for name, part in trunk.items() if name != "head"}
    biased = ("bias",) if layout == "token" else ()
    params = with_head(model.policy, trunk, labels, biased)
    found = ScalarModel(
        model.config,
        scalar_policy(model.policy),
        params,
        model.tokenizer,
        generation=model.generation,
        layout=layout,
        base=model,
    )
    found = found if lora is None else _adapted(found, lora, seed)
    return laid_out(found, model.mesh)


def load_scalar(
    model: str | NewModel,
    seed: int,
    labels: int,
    layout: Layout | None = None,
    lora: LoRA | None = None,
    compute: Compute | None = None,
    spread: Spread | None = None,
) -> ScalarModel:
    """The model of a run that trains a scalar head of `labels` labels.

    A folder of a classification layout is read with its head; of a language model, or
    a new model, the head starts at 0. It is written as `layout`, None is that of a
    critic. Raises ValueError for
    a head with other labels, and for one with a bias that `layout` has no place for.
    """
    if isinstance(model, NewModel) or layout_of(model) is None:
        base = load_model(model, seed, None, compute, spread)
        return scalar_of(base, labels, layout, lora, seed)
    found = read_scalar(model, compute, spread)
    layout = layout or value_layout(found.config)
    if found.config is not None:
        check_layout(found.config, layout)
    if found.labels != labels:
        raise ValueError(
            f"{model}: its head has {found.labels} labels; write a model with {labels}"
        )
    if layout == "sequence" and "bias" in found.params["score"]:
        raise ValueError(
            f"{model}: token classification, whose head has a bias; write a language "
            "model or a sequence classification"
        )
    found = dataclasses.replace(found, layout=layout)
    found = found if lora is None else _adapted(found, lora, seed)
    return laid_out(found, spread)


def open_model(
    objective: Trainable,
    model: str | NewModel,
    seed: int,
    lora: LoRA | None = None,
    compute: Compute | None = None,
    spread: Spread | None = None,
) -> Model:
    """The model that `objective` trains: a language model or one with a scalar head.

    `spread` lays its parameters over a mesh.
    """
    if isinstance(objective, ScalarObjective):
        head = objective.labels, objective.layout
        return load_scalar(model, seed, *head, lora, compute, spread)
    return load_model(model, seed, lora, compute, spread)


def read_scalar(
    folder: str, compute: Compute | None = None, spread: Spread | None = None
) -> ScalarModel:
    """The model of a classification checkpoint and its tokenizer, as it is."""
    place_of = spread and spread.placement
    config, params, place, layout = load_classifier(folder, sharding=place_of)
    if place is None:
        raise RunError(f"{folder}: holds no tokenizer; save one beside the weights")
    tokenizer = load_tokenizer(place)
    check_vocabulary(tokenizer, config.vocab_size, place)
    policy = scalar_policy(transformer_policy(trunk_config(config), compute))
    generation = read_generation(folder) or None
    parts = config, policy, params, tokenizer
    found = ScalarModel(*parts, generation=generation, layout=layout)
    return laid_out(found, spread)


def _adapted(model: ScalarModel, lora: LoRA, seed: int) -> ScalarModel:
    if model.config is None:
        raise ValueError("lora: a model of one's own has no projections; leave it out")
    config, trunk = trunk_config(model.config), model.params["trunk"]
    trunk = open_adapter(lora, config, trunk, seed)
    params = {**model.params, "trunk": trunk}
    return dataclasses.replace(model, params=params)
