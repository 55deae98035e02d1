"""Which tensors of a Hugging Face checkpoint hold which parts of the parameters.

Their matrices are [outputs, inputs], one tensor per layer; ours are [inputs, outputs],
stacked over layers (`unipost.model.parameters`). Phi3 stores queries, keys and values
as the rows of one matrix, and gate and up as those of another. Experts are stored one
by one, or stacked as `gate_up_proj` [X 2F D] and `down_proj` [X D F], which is how
transformers 5 holds them in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import accumulate

from unipost.model.config import ModelConfig
from unipost.model.parameters import Path, block_shapes, shapes

# Projections and the norms of queries and keys: modules of one layer.
MODULES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
}
# Norms of the branches, by ModelConfig.norms: one name means two places.
NORMS = {
    "before": {
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    },
    "after": {
        "attention_post_norm": "post_attention_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    },
    "both": {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    },
}
# Modules whose rows are those of several projections, one below the other.
FUSED = {
    "phi3": {
        "self_attn.qkv_proj": ("query", "key", "value"),
        "mlp.gate_up_proj": ("gate", "up"),
    }
}
# Name of the expert layer, and of an expert's three matrices.
EXPERTS = {
    "mixtral": ("block_sparse_moe", {"gate": "w1", "up": "w3", "down": "w2"}),
    "qwen3_moe": (
        "mlp",
        {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"},
    ),
}
# Stored by older versions though computed from the config.
IGNORED = ("rotary_emb.inv_freq",)
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


@dataclass(frozen=True)
class Piece:
    """One slot of a leaf and where a checkpoint stores it.

    leaf[index] equals tensor[at], with its two axes swapped if `transposed`.

    path    of the leaf: ("blocks", "query", "kernel")
    index   into its leading axes: (), (layer,) or (layer, expert)
    tensor  name in the checkpoint
    shape   of that whole tensor
    at      into its leading axes: (), (rows,), (expert,) or (expert, rows)
    """

    path: Path
    index: tuple[int, ...]
    tensor: str
    shape: tuple[int, ...]
    at: tuple[int | slice, ...] = ()
    transposed: bool = False


def pieces(config: ModelConfig, stored: Collection[str] = ()) -> tuple[Piece, ...]:
    """Every slot of every leaf of `config`, each once.

    stored: names of the tensors in a checkpoint, which say whether its experts are
    stacked; without them, or without experts, the names are those that transformers
    writes.
    """
    whole = shapes(config)
    found = [
        Piece(("embedding",), (), "model.embed_tokens.weight", whole["embedding",]),
        Piece(("norm", "scale"), (), "model.norm.weight", whole["norm", "scale"]),
    ]
    head = "head", "kernel"
    if head in whole:
        shape = whole[head][::-1]
        found.append(Piece(head, (), "lm_head.weight", shape, transposed=True))
    for layer in range(config.num_hidden_layers):
        found += _block(config, layer, stored)
    return tuple(found)


def score_pieces(hidden: int, labels: int, leaves: Collection[str]) -> list[Piece]:
    """The scalar head of a classification checkpoint, as leaves of ("score",).

    leaves: kernel [D K], stored as score.weight [K D], and bias [K] if it has one.
    """
    shapes = {"kernel": (labels, hidden), "bias": (labels,)}
    return [
        Piece(("score", leaf), (), f"score.{LEAVES[leaf]}", shapes[leaf], (), swapped)
        for leaf, swapped in (("kernel", True), ("bias", False))
        if leaf in leaves
    ]


def _block(config: ModelConfig, layer: int, stored: Collection[str]) -> Iterator[Piece]:
    """The pieces of one layer."""
    prefix = f"model.layers.{layer}."
    modules = MODULES | NORMS[config.norms]
    fused = FUSED.get(config.family, {})
    joined = {part for parts in fused.values() for part in parts}
    expert = ("router", "gate", "up", "down") if config.experts else ()
    for (part, leaf), shape in block_shapes(config).items():
        if part in joined or part in expert:
            continue
        name = f"{prefix}{modules[part]}.{LEAVES[leaf]}"
        yield _piece(config, (part, leaf), (layer,), name, shape[::-1])
    for module, parts in fused.items():
        yield from _joined(config, layer, f"{prefix}{module}.weight", parts)
    if config.experts is not None:
        yield from _experts(config, layer, prefix, stored)


def _piece(
    config: ModelConfig,
    path: Path,
    index: tuple[int, ...],
    name: str,
    shape: tuple[int, ...],
    at: tuple[int | slice, ...] = (),
) -> Piece:
    swapped = path[-1] == "kernel"
    return Piece(("blocks", *path), index, name, shape, at, transposed=swapped)


def _joined(
    config: ModelConfig, layer: int, name: str, parts: tuple[str, ...]
) -> Iterator[Piece]:
    """Pieces of a matrix [sum of outputs, inputs] that several projections share."""
    sizes = block_shapes(config)
    ends = list(accumulate(sizes[part, "kernel"][1] for part in parts))
    shape = ends[-1], sizes[parts[0], "kernel"][0]
    for part, start, end in zip(parts, [0, *ends], ends, strict=False):
        at = (slice(start, end),)
        yield _piece(config, (part, "kernel"), (layer,), name, shape, at)


def _experts(
    config: ModelConfig, layer: int, prefix: str, stored: Collection[str]
) -> Iterator[Piece]:
    """The router, and the experts one by one or stacked."""
    module, names = EXPERTS[config.family]
    sizes = block_shapes(config)
    count, hidden, inner = sizes["gate", "kernel"]
    # transformers 5 calls the layer `mlp` in memory, whatever the checkpoint says
    stacked = f"{prefix}mlp.experts.gate_up_proj" in stored
    module = "mlp" if stacked else module
    router = f"{prefix}{module}.gate.weight"
    yield _piece(config, ("router", "kernel"), (layer,), router, (count, hidden))
    both, down = (count, 2 * inner, hidden), (count, hidden, inner)
    halves = {"gate": slice(0, inner), "up": slice(inner, 2 * inner)}
    for part, each in names.items():
        path = part, "kernel"
        shape = sizes[path][:0:-1]
        for expert in range(count):
            index = layer, expert
            if not stacked:
                name = f"{prefix}{module}.experts.{expert}.{each}.weight"
                yield _piece(config, path, index, name, shape)
            elif part == "down":
                name = f"{prefix}mlp.experts.down_proj"
                yield _piece(config, path, index, name, down, (expert,))
            else:
                name = f"{prefix}mlp.experts.gate_up_proj"
                yield _piece(config, path, index, name, both, (expert, halves[part]))


def fused(config: ModelConfig) -> tuple[tuple[str, ...], ...]:
    """Groups of projections that the checkpoint stores as one matrix."""
    return tuple(FUSED.get(config.family, {}).values())


def linear_modules(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Linear modules of a layer, by name, and the projections that each holds.

    Those that PEFT knows: experts and their router are not among them.
    """
    sizes = block_shapes(config)
    whole = FUSED.get(config.family, {})
    parts = {part for group in whole.values() for part in group}
    alone = {
        module: (part,)
        for part, module in MODULES.items()
        if part not in parts and len(sizes.get((part, "kernel"), ())) == 2
    }
    return alone | whole
