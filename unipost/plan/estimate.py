"""What a step would hold, send and read on one chip, from shapes alone: an ESTIMATE.

Nothing is compiled, so it is quick and needs no libtpu: for GPUs, and to choose which
meshes are worth compiling. Parameters, optimiser state and reference are exact; what a
program holds beside them is a model of what XLA does, whose error against the compiler
is in docs/plan.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import jax

from unipost.experiment import Experiment
from unipost.mesh import RULES, Mesh
from unipost.mesh.rules import Rule, parse_rules, spec_of
from unipost.mesh.settings import AXES, ROWS
from unipost.model.parameters import block_shapes
from unipost.optimizers.leaves import names_of
from unipost.plan.abstract import (
    Sizes,
    Subject,
    open_reference,
    open_subject,
    sizes_of,
    state_of,
)
from unipost.plan.flops import attention_kernel, chunk_of, packed_sizes
from unipost.plan.values import open_valuer
from unipost.rollouts import Rollouts

HALF, FULL = 2, 4
"""Bytes of bfloat16 and float32."""


@dataclass(frozen=True)
class Spread:
    """A mesh without devices: sizes of axes, and the rules of parameters."""

    sizes: dict[str, int]
    rules: tuple[Rule, ...]

    def over(self, *axes: str) -> int:
        """Devices along these axes together."""
        return prod(self.sizes[axis] for axis in axes)

    def bytes(self, tree: Any) -> int:
        """Bytes of a tree of parameters on one chip. ValueError if it does not divide.

        Leaves have shape and dtype; names decide, as in `Layout.sharding`.
        """
        total = 0
        for name, leaf in zip(names_of(tree), jax.tree.leaves(tree), strict=True):
            spec = spec_of(name, tuple(leaf.shape), self.sizes, self.rules)
            axes = [a for e in spec for a in (e if isinstance(e, tuple) else (e,)) if a]
            total += leaf.size * leaf.dtype.itemsize // self.over(*axes)
        return total


def spread_of(mesh: Mesh, devices: int) -> Spread:
    """`mesh` over so many devices. ValueError where its sizes do not come out."""
    rules = *parse_rules(mesh.rules, AXES), *RULES
    return Spread(mesh.sizes(devices), rules)


@dataclass(frozen=True)
class Estimate:
    """Bytes of one chip in the update of a step, by what they are.

    resident     stays from step to step: parameters, optimiser, reference, sampler
    gradients    those of the piece in work
    sums         of gradients over microbatches
    weights      copies of parameters in half precision where they lie
    gathered     two layers of them, whole
    activations  what the forward pass keeps for the backward pass
    layer        what one layer computes at once
    logits       of a chunk and their gradient, and the head, whole
    """

    resident: dict[str, int]
    gradients: float
    sums: float
    weights: float
    gathered: float
    activations: float
    layer: float
    logits: float

    @property
    def temporaries(self) -> float:
        """What the update holds beside its arguments, at the worst of two moments.

        When the head has its logits and no layer its gradient yet, or when the first
        layer gets its own and all others have them.
        """
        always = self.sums + self.weights + self.activations
        return always + max(self.logits, self.gradients + self.gathered + self.layer)

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.resident.values()) + self.temporaries


def estimate_memory(experiment: Experiment, spread: Spread, platform: str) -> Estimate:
    """The memory of the update on one chip. ValueError for what does not divide."""
    subject, sizes = open_subject(experiment), sizes_of(experiment.data)
    trained = subject.trained
    fresh = spread.bytes(trained)
    sums = fresh if experiment.microbatches > 1 else 0
    piece = piece_of(experiment, sizes, spread)
    parts = experiment, subject, spread, piece, platform
    return Estimate(
        resident_bytes(experiment, subject, spread),
        fresh,
        sums,
        *_weights(experiment, subject, spread),
        _activations(*parts),
        _layer(*parts),
        _logits(experiment, subject, spread, sizes),
    )


def resident_bytes(
    experiment: Experiment, subject: Subject, spread: Spread
) -> dict[str, int]:
    """As `programs.Step.resident`, of a mesh without devices."""
    state = state_of(experiment, subject.trained)
    frozen = subject.frozen
    found = {
        "parameters": spread.bytes(state.params) + spread.bytes(frozen or {}),
        "optimiser": spread.bytes(state.optimizer),
    }
    judge = open_reference(experiment, subject)
    if judge is not None and (frozen is None or experiment.reference is not None):
        found["reference"] = spread.bytes(judge.params)
    if experiment.staleness or experiment.sync_every > 1:
        found["sampler"] = spread.bytes(state.params)
    valuer = open_valuer(experiment, subject)
    if valuer is not None:
        found["critic"] = spread.bytes(valuer.params) + spread.bytes(valuer.state[1])
    return found


def piece_of(experiment: Experiment, sizes: Sizes, spread: Spread) -> tuple[float, int]:
    """(rows of one microbatch on one chip, tokens of a row on one chip)."""
    rows, length = packed_sizes(experiment, sizes)
    pieces = experiment.minibatches * experiment.microbatches
    own = rows / pieces / spread.over(*ROWS)
    return max(own, 1.0 if own > 0 else 0.0), -(-length // spread.over("sequence"))


def half_of(experiment: Experiment) -> int:
    """Bytes of an entry of a product."""
    return HALF if experiment.compute.dtype == "bfloat16" else FULL


def _weights(
    experiment: Experiment, subject: Subject, spread: Spread
) -> tuple[float, float]:
    """Blocks in half precision where they lie, and two layers of them gathered."""
    config = subject.config
    kernels = [s for (_, k), s in block_shapes(config).items() if k == "kernel"]
    size, shared = half_of(experiment), spread.over("fsdp")
    layer = sum(map(prod, kernels)) * size / spread.over("tensor", "expert")
    copies = layer * config.num_hidden_layers / shared if size == HALF else 0.0
    return copies, 2 * layer if shared > 1 else 0.0


def widths_of(subject: Subject, tensor: int) -> tuple[float, float, float]:
    """(hidden, heads and keys and values, twice the inner width) of one token."""
    config = subject.config
    heads = config.num_attention_heads + 2 * config.num_key_value_heads
    inner = config.intermediate_size
    if config.experts is not None:
        inner *= config.experts.per_token
    return config.hidden_size, heads * config.head_dim / tensor, 2 * inner / tensor


def _activations(experiment, subject, spread, piece, platform) -> float:
    """What is kept of every layer until the backward pass."""
    rows, length = piece
    config, remat = subject.config, experiment.compute.remat
    hidden, heads, inner = widths_of(subject, spread.over("tensor"))
    kept = hidden
    if remat != "full":
        kept += hidden + heads + inner
    if remat in ("all_dots", "none"):
        kept += config.num_attention_heads * config.head_dim / spread.over("tensor")
    if remat == "none":
        kept += inner + 2 * hidden
    total = rows * length * kept * half_of(experiment)
    if remat in ("all_dots", "none"):
        total += scores_of(experiment, subject, spread, piece, platform)
    return total * config.num_hidden_layers


def scores_of(experiment, subject, spread, piece, platform) -> float:
    """Attention scores of one layer, where the kernel forms them."""
    rows, length = piece
    config, whole = subject.config, length * spread.over("sequence")
    kernel = attention_kernel(experiment, config, whole, platform)
    if kernel not in ("einsum", "xla"):
        return 0.0
    heads = max(1.0, config.num_attention_heads / spread.over("tensor"))
    return rows * heads * length * whole * (FULL + half_of(experiment))


def _layer(experiment, subject, spread, piece, platform) -> float:
    """One layer's forward pass and its gradients at once."""
    rows, length = piece
    hidden, heads, inner = widths_of(subject, spread.over("tensor"))
    tokens = rows * length
    wide = tokens * (4 * hidden + 2 * heads + 3 * inner) * half_of(experiment)
    return wide + 1.4 * scores_of(experiment, subject, spread, piece, platform)


def _logits(
    experiment: Experiment, subject: Subject, spread: Spread, sizes: Sizes
) -> float:
    """Logits of a chunk, their gradient, and the whole head with its gradient."""
    config, tensor = subject.config, spread.over("tensor")
    if "score" in subject.params:
        return 0.0
    own, columns, chunk = chunk_of(experiment, config, sizes, spread.sizes)
    logits = own * chunk * config.vocab_size / tensor * (FULL + half_of(experiment))
    table = config.hidden_size * config.vocab_size / tensor
    gathered = table * half_of(experiment) if spread.over("fsdp") > 1 else 0.0
    # a loop over chunks adds up the gradient of the whole head
    return logits + gathered + (table * FULL if chunk < columns else 0.0)


def sampler_bytes(experiment: Experiment, spread: Spread) -> float:
    """Keys and values of the sampler on one chip, 0 where nothing is sampled."""
    data = experiment.data
    if not isinstance(data, Rollouts):
        return 0.0
    config = open_subject(experiment).config
    heads = config.num_key_value_heads / min(
        spread.over("tensor"), config.num_key_value_heads
    )
    token = 2 * config.num_hidden_layers * heads * config.head_dim * half_of(experiment)
    own, length = data.own, data.prompt_length
    columns = data.prompts * (length + own * data.sampling.max_tokens)
    return token * columns / spread.over(*ROWS)
