"""Models with a scalar head in the classification layouts of transformers, in and out.

*ForSequenceClassification holds score.weight [K D]; *ForTokenClassification holds
score.bias [K] too. There is no lm_head, whatever tie_word_embeddings says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp

from unipost.adapters import Adapted
from unipost.hf.config import parse_config, render_config
from unipost.hf.export import write_pieces
from unipost.hf.families import FAMILIES
from unipost.hf.files import read_json, stored_tensors
from unipost.hf.load import TOKENIZER, Placement, match, read
from unipost.hf.names import pieces, score_pieces
from unipost.model import ModelConfig
from unipost.model.parameters import shapes
from unipost.scalar.objective import Layout
from unipost.tokenizer import SavedTokenizer

CLASSES: dict[str, Layout] = {
    "ForSequenceClassification": "sequence",
    "ForTokenClassification": "token",
}
CAUSAL = "ForCausalLM"
# Families of which transformers 5.23 has no class for token classification.
NO_TOKENS = ("gemma3_text", "olmo2")


class Classifier(NamedTuple):
    """A classification checkpoint; `params` are {"trunk", "score"}.

    `config` is that of the file, `tokenizer` its folder if it has one, or None.
    """

    config: ModelConfig
    params: dict[str, Any]
    tokenizer: Path | None
    layout: Layout


def trunk_config(config: ModelConfig) -> ModelConfig:
    """The config whose parameters are those of the trunk: no matrix to the logits."""
    return replace(config, tie_word_embeddings=True)


def layout_of(folder: str | Path) -> Layout | None:
    """The layout of a checkpoint by its `architectures`; None: a language model."""
    path = Path(folder) / "config.json"
    if not path.exists():
        return None
    named = read_json(path).get("architectures") or []
    for ending, layout in CLASSES.items():
        if any(isinstance(name, str) and name.endswith(ending) for name in named):
            return layout
    return None


def load_classifier(
    folder: str | Path,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    sharding: Placement | None = None,
) -> Classifier:
    """Reads a checkpoint in one of the classification layouts.

    `sharding` as in `unipost.hf.load_pretrained`.

    Raises ValueError, in one line with the file and the field or tensor, as
    `unipost.hf.load_pretrained`, and for a checkpoint of another class.
    """
    folder, layout = Path(folder), layout_of(folder)
    path = folder / "config.json"
    fields = read_json(path)
    if layout is None:
        raise ValueError(
            f"{path}: architectures = {fields.get('architectures')!r}; give a "
            f"checkpoint of a class that ends in {' or '.join(CLASSES)}"
        )
    config = parse_config({**fields, "architectures": None}, path)
    _check_class(fields, config, layout, path)
    tensors = stored_tensors(folder)
    trunk = trunk_config(config)
    leaves = ["kernel"]
    if layout == "token" and fields.get("token_classification_bias", True):
        leaves.append("bias")
    head = score_pieces(config.hidden_size, _labels(fields, path), leaves)
    plan = match(trunk, tensors, folder, head)
    sizes = shapes(trunk)
    for piece in head:
        swapped = piece.shape[::-1] if piece.transposed else piece.shape
        sizes[piece.path] = swapped
    places = {path: sharding and sharding(path, sizes[path]) for path in sizes}
    params = read(plan, tensors, sizes, places, jnp.dtype(dtype))
    score = params.pop("score")
    found = any((folder / name).exists() for name in TOKENIZER)
    params = {"trunk": params, "score": score}
    return Classifier(config, params, folder if found else None, layout)


def _check_class(
    fields: Mapping[str, Any], config: ModelConfig, layout: Layout, path: Path
) -> None:
    """Raises ValueError unless `architectures` is the family's class of the layout."""
    wanted = architecture(config.family, layout)
    if fields["architectures"] != [wanted]:
        raise ValueError(
            f"{path}: architectures = {fields['architectures']!r} is not supported; "
            f"only {[wanted]!r} is for model_type {config.family!r}"
        )


def architecture(family: str, layout: Layout) -> str:
    """The class of transformers: "Qwen3ForSequenceClassification" and so on."""
    stem = FAMILIES[family].architecture.removesuffix(CAUSAL)
    if family == "gemma3_text" and layout == "sequence":
        stem = "Gemma3Text"
    return stem + next(ending for ending, x in CLASSES.items() if x == layout)


def _labels(fields: Mapping[str, Any], path: Path) -> int:
    """The number of labels that config.json says; 2 where it says nothing."""
    named, count = fields.get("id2label"), fields.get("num_labels")
    if named is not None and not isinstance(named, Mapping):
        raise ValueError(f"{path}: id2label = {named!r}; write a mapping of labels")
    if named is not None and count not in (None, len(named)):
        raise ValueError(
            f"{path}: num_labels = {count!r}, but id2label names {len(named)}; write "
            "one of them"
        )
    return len(named) if named is not None else 2 if count is None else int(count)


def save_classifier(
    folder: str | Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    layout: Layout,
    tokenizer: SavedTokenizer | None = None,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    generation: Mapping[str, Any] | None = None,
) -> None:
    """Writes {"trunk", "score"} so that transformers and `load_classifier` read it.

    An adapted trunk is merged. In the token layout a head without a bias gets one of 0,
    with two labels they are named wrong and right. The folder appears whole or not at
    all. Raises ValueError for a bias in the sequence layout, which has none, for a
    family without that class, and as `unipost.hf.save_pretrained`.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"save_classifier: layout {layout!r}; give sequence or token")
    check_layout(config, layout)
    score, trunk = dict(params["score"]), params["trunk"]
    labels = score["kernel"].shape[-1]
    if layout == "token" and "bias" not in score:
        score["bias"] = jnp.zeros(labels, score["kernel"].dtype)
    if layout == "sequence" and "bias" in score:
        raise ValueError(
            "save_classifier: the head has a bias; give layout token, or drop it"
        )
    head = score_pieces(config.hidden_size, labels, score)
    held = (*pieces(trunk_config(config)), *head)
    fields = {
        **render_config(config, dtype),
        "architectures": [architecture(config.family, layout)],
        **label_fields(labels),
    }
    if generation is not None and tokenizer is not None:
        # transformers does not look at what follows the last other token
        generation = {**generation, "pad_token_id": tokenizer.pad_token}
    whole = _joined(trunk, score)
    wide = jnp.dtype(dtype)
    write_pieces(folder, fields, held, whole, tokenizer, wide, generation=generation)


def check_layout(config: ModelConfig, layout: Layout) -> None:
    """Raises ValueError where transformers has no such class of the family."""
    if layout == "token" and config.family in NO_TOKENS:
        raise ValueError(
            f"model: transformers has no token classification of {config.family}, in "
            "which a head of every token is written; write a model of another family"
        )


def value_layout(config: ModelConfig | None) -> Layout:
    """How a critic is written: token classification, where the family has it."""
    return "sequence" if config and config.family in NO_TOKENS else "token"


def label_fields(labels: int) -> dict[str, Any]:
    """id2label and label2id: wrong and right of two, else LABEL_0 and so on."""
    names = ["wrong", "right"] if labels == 2 else [f"LABEL_{i}" for i in range(labels)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _joined(trunk: Any, score: Mapping[str, Any]) -> Any:
    """The trunk's parameters with the head among them, as the exporter takes them."""
    if isinstance(trunk, Adapted):
        return replace(trunk, base={**trunk.base, "score": score})
    return {**trunk, "score": score}
