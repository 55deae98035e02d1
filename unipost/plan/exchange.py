"""What an update would send and read on one chip, from the mesh: an ESTIMATE."""

from __future__ import annotations

from math import prod

from unipost.experiment import Experiment
from unipost.mesh.settings import AXES
from unipost.model.parameters import block_shapes
from unipost.plan.abstract import open_subject, sizes_of, state_of
from unipost.plan.collectives import Collective
from unipost.plan.estimate import (
    FULL,
    Spread,
    half_of,
    piece_of,
    scores_of,
    widths_of,
)
from unipost.plan.flops import work_of
from unipost.plan.roofline import Time, places_of, time_of
from unipost.plan.topology import Topology


def estimate_time(experiment: Experiment, spread: Spread, topology: Topology) -> Time:
    """The roofline of all updates of a step."""
    subject, sizes = open_subject(experiment), sizes_of(experiment.data)
    platform, chips = topology.platform, topology.chips
    works = work_of(experiment, subject.config, sizes, spread.sizes, platform)
    wires = estimate_collectives(experiment, spread)
    moved = moved_bytes(experiment, spread, platform)
    dtype = experiment.compute.dtype
    flops = works["update"].hardware / chips
    return time_of(topology, flops, moved, wires, places_of(topology), dtype)


def estimate_collectives(
    experiment: Experiment, spread: Spread
) -> tuple[Collective, ...]:
    """The collectives of an update, from the mesh: what each axis has to exchange.

    fsdp: every layer's weights gathered in the forward and again in the backward pass,
    their gradients scattered, and over data summed, for each microbatch. tensor: two
    sums of the hidden states for each layer and pass.
    """
    subject, sizes = open_subject(experiment), sizes_of(experiment.data)
    config, size = subject.config, half_of(experiment)
    kernels = [s for (_, k), s in block_shapes(config).items() if k == "kernel"]
    tables = config.vocab_size * config.hidden_size
    tables *= 1 if config.tie_word_embeddings else 2
    tensor = spread.over("tensor")
    whole = (sum(map(prod, kernels)) * config.num_hidden_layers + tables) / tensor
    pieces = experiment.microbatches * experiment.minibatches * experiment.inner_epochs
    again = 1 if experiment.compute.remat == "full" else 0
    trained = experiment.lora is None
    found: list[Collective] = []

    def add(kind: str, axis: str, times: float, bytes_: float, dtype: str) -> None:
        if spread.over(axis) > 1:
            group = axis_group(spread, axis)
            found.append(Collective(kind, times, int(bytes_), group, dtype))

    add("all-gather", "fsdp", pieces * 2, whole * size, "bf16")
    if trained:
        add("reduce-scatter", "fsdp", pieces, whole * size, "bf16")
        share = whole * FULL / spread.over("fsdp")
        add("all-reduce", "data", pieces, share, "f32")
    rows, length = piece_of(experiment, sizes, spread)
    stream = rows * length * config.hidden_size * size
    sums = 2 * config.num_hidden_layers * pieces * (2 + again)
    add("all-reduce", "tensor", sums, stream, "bf16")
    return tuple(found)


def axis_group(spread: Spread, axis: str) -> tuple[int, ...]:
    """The devices along one axis, as places of a mesh in the order of AXES."""
    after = prod(spread.sizes[a] for a in AXES[AXES.index(axis) + 1 :])
    return tuple(range(0, spread.sizes[axis] * after, after))


def moved_bytes(experiment: Experiment, spread: Spread, platform: str) -> float:
    """Bytes of HBM that an update reads and writes on one chip.

    The optimiser reads weights, moments and gradients and writes the first two. The
    rest is fitted to programs for TPUs: each piece moves its weights 12 times, where
    they are gathered, each layer 50 numbers of the hidden size and 15 of the inner one
    for a token, and scores of attention, where they are formed, 12 times.
    """
    subject, sizes = open_subject(experiment), sizes_of(experiment.data)
    state = state_of(experiment, subject.trained)
    own = spread.bytes(state.params) + spread.bytes(state.optimizer)
    config, size = subject.config, half_of(experiment)
    kernels = [s for (_, k), s in block_shapes(config).items() if k == "kernel"]
    entries = sum(map(prod, kernels)) * config.num_hidden_layers
    weights = entries * size / spread.over("tensor", "expert")
    rows, length = piece = piece_of(experiment, sizes, spread)
    hidden, heads, inner = widths_of(subject, spread.over("tensor"))
    layer = rows * length * (50 * hidden + 15 * heads + 15 * inner) * size
    layer += 12 * scores_of(experiment, subject, spread, piece, platform)
    pieces = experiment.microbatches * experiment.minibatches
    logits = rows * sizes.response * config.vocab_size * FULL * 6
    logits /= spread.over("tensor")
    if "score" in subject.params:
        logits = 0.0
    times = 12 if spread.over("fsdp") > 1 else 5
    each = times * weights + layer * config.num_hidden_layers + logits
    return 2 * own + spread.bytes(subject.trained) + pieces * each
