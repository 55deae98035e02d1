"""FLOPs of a step from the model's formula, over all chips together.

A product of [n k] with [k m] is 2 n k m. Of one token and one layer, with D hidden, H
query and K key-value heads of size E and inner width F,

    linear     2 (2 D H E + 2 D K E + 3 D F)        F times experts per token
    attention  4 H E for every key that a query reads
    head       2 D V for every token that is scored

The backward pass is twice the forward pass, once where the matrix is frozen. `model`
counts what the mathematics asks for: each query reads the keys before it, nothing is
computed twice (the numerator of an MFU). `hardware` adds what is computed again and
above the diagonal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from unipost.adapters import HEAD
from unipost.experiment import Experiment
from unipost.head import chunk_columns
from unipost.mesh.settings import ROWS
from unipost.model import ModelConfig
from unipost.model.attention import LANES
from unipost.model.parameters import block_shapes
from unipost.plan.abstract import Sizes
from unipost.rollouts import Rollouts
from unipost.scalar.objective import ScalarObjective

FLASH_BACKWARD = {"splash": 3.5, "cudnn": 2.5}
"""Backward over forward of a kernel that computes its scores again: splash in both of
its two backward kernels (7 products for 2), cuDNN in one (5 for 2)."""


@dataclass(frozen=True)
class Work:
    """FLOPs of one program.

    model     what the formula asks for
    hardware  with what is computed again, as far as it is known from the settings
    kernel    the part of `hardware` inside attention kernels, which XLA does not see
    """

    model: float
    hardware: float
    kernel: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.model + other.model,
            self.hardware + other.hardware,
            self.kernel + other.kernel,
        )

    def __mul__(self, times: float) -> Work:
        return Work(self.model * times, self.hardware * times, self.kernel * times)


@dataclass(frozen=True)
class Forward:
    """FLOPs of a forward pass by what they are; `causal` is attention's least."""

    linear: float
    down: float
    attention: float
    causal: float
    head: float

    def once(self, flash: bool) -> Work:
        """The pass by itself, as scoring makes it."""
        other = self.linear + self.head
        kernel = self.attention if flash else 0.0
        return Work(other + self.causal, other + self.attention, kernel)


def linear_entries(config: ModelConfig) -> tuple[float, float]:
    """Entries of the matrices of one layer that a token goes through; those of down."""
    total = down = 0.0
    for (name, kind), shape in block_shapes(config).items():
        if kind != "kernel":
            continue
        entries = 1.0
        for side in shape[-2:]:
            entries *= side
        if len(shape) == 3 and config.experts is not None:
            entries *= config.experts.per_token
        total += entries
        down += entries if name == "down" else 0.0
    return total, down


def keys_read(length: int, window: int | None) -> float:
    """Pairs of a query and a key that it may read, in a text of `length` tokens."""
    near = length if window is None else min(window, length)
    return near * (near + 1) / 2 + (length - near) * near


def forward(
    config: ModelConfig, rows: int, length: int, scored: int, kernel: str
) -> Forward:
    """A forward pass over `rows` of `length` tokens, `scored` of which get logits.

    kernel: the implementation of attention; einsum and xla compute all pairs.
    """
    layers, tokens = config.num_hidden_layers, rows * length
    entries, down = linear_entries(config)
    wide = 4.0 * config.num_attention_heads * config.head_dim * rows
    causal = wide * sum(keys_read(length, w) for w in config.windows)
    every = wide * layers * length**2
    return Forward(
        linear=2.0 * entries * layers * tokens,
        down=2.0 * down * layers * tokens,
        attention=every if kernel in ("einsum", "xla") else causal,
        causal=causal,
        head=2.0 * config.hidden_size * config.vocab_size * scored,
    )


def training(
    passed: Forward,
    experiment: Experiment,
    config: ModelConfig,
    kernel: str,
    chunked: bool,
) -> Work:
    """Forward and backward of a pass under the experiment's remat and adapter."""
    lora, flash = experiment.lora, FLASH_BACKWARD.get(kernel)
    trained = 1.0 if lora is None else 0.0
    share = 0.0 if lora is None else adapter_share(experiment, config)
    linear = passed.linear * (2.0 + trained + 3.0 * share)
    head_trained = trained if lora is None or HEAD not in lora.targets else 0.0
    head = passed.head * (2.0 + head_trained)
    model = linear + head + 3.0 * passed.causal
    inside = passed.attention * (1.0 + (flash or 2.0))
    again, more = _again(passed, experiment, config)
    inside += more
    hardware = linear + head + again + inside + (passed.head if chunked else 0.0)
    return Work(model, hardware, inside if flash else 0.0)


def _again(
    passed: Forward, experiment: Experiment, config: ModelConfig
) -> tuple[float, float]:
    """What the backward pass computes again: (linear, attention)."""
    remat = experiment.compute.remat
    if remat == "dots":
        return 0.0, passed.attention
    if remat != "full":
        return 0.0, 0.0
    # nothing reads what `down` writes, unless a norm stands after it
    needed = passed.linear - (passed.down if config.norms == "before" else 0.0)
    return needed, passed.attention


def adapter_share(experiment: Experiment, config: ModelConfig) -> float:
    """Entries of the low-rank factors over those of the matrices, of one layer."""
    lora = experiment.lora
    if lora is None:
        return 0.0
    kernels = block_shapes(config)
    sides = [sum(kernels[name, "kernel"][-2:]) for name in lora.targets if name != HEAD]
    return lora.rank * sum(sides) / linear_entries(config)[0]


def work_of(
    experiment: Experiment,
    config: ModelConfig,
    sizes: Sizes,
    axes: Mapping[str, int],
    platform: str,
) -> dict[str, Work]:
    """The work of every program of a step, by the names of `programs.parts_of`.

    axes: of the mesh, by how many devices; they decide whether logits are cut.
    """
    rows, length = packed_sizes(experiment, sizes)
    kernel = attention_kernel(experiment, config, length, platform)
    flash = kernel in FLASH_BACKWARD
    scored = 0 if scalar(experiment) else sizes.rows * sizes.response
    whole = forward(config, rows, length, scored, kernel)
    _, columns, chunk = chunk_of(experiment, config, sizes, axes)
    chunked = chunk < columns and scored > 0
    updates = experiment.inner_epochs
    found = {"update": training(whole, experiment, config, kernel, chunked) * updates}
    present = passes_of(experiment)
    found["update"] += whole.once(flash) * (present["update"] * updates)
    if present["score"]:
        found["score"] = whole.once(flash) * present["score"]
    if experiment.critic is not None:
        found |= _critic(experiment, config, whole, kernel)
    if experiment.inner_epochs * experiment.minibatches > 1:
        found["signal"] = whole.once(flash) * present["update"]
    if isinstance(experiment.data, Rollouts):
        reads = experiment.data.prompt_length
        kernel = attention_kernel(experiment, config, reads, platform)
        found["sample"] = sampling(config, experiment.data, kernel)
    return found


def _critic(
    experiment: Experiment, config: ModelConfig, passed: Forward, kernel: str
) -> dict[str, Work]:
    """A critic of the policy's shape: its values, and its updates."""
    critic = experiment.critic
    assert critic is not None
    other, trunk = replace(experiment, lora=critic.lora), replace(passed, head=0.0)
    updates = training(trunk, other, config, kernel, False) * experiment.inner_epochs
    values = trunk.once(kernel in FLASH_BACKWARD)
    return {"values": values, "critic": updates}


def passes_of(experiment: Experiment) -> dict[str, int]:
    """Forward passes beside the trained one, of `update` and of scoring."""
    needs, data = experiment.objective.needs, experiment.data.fields
    update = bool(needs & {"current", "current_entropy"}) + ("mismatched" in needs)
    old = "old_collision" in needs or ("old" in needs and "old" not in data)
    cached = experiment.reference_cache is not None
    judged = {"reference", "reference_lse", "reference_vocab"} & needs
    score = old + (bool(judged) and not cached) + ("mismatched" in needs and not cached)
    return {"update": int(update), "score": int(score)}


def sampling(config: ModelConfig, data: Rollouts, kernel: str) -> Work:
    """Prompts read once, then every response to its last column, as is the worst."""
    prompts, length = data.prompts, data.prompt_length
    rows, steps = prompts * data.own, data.sampling.max_tokens
    first = forward(config, prompts, length, prompts, kernel)
    flash = kernel in FLASH_BACKWARD
    entries = linear_entries(config)[0] * config.num_hidden_layers
    entries += config.hidden_size * config.vocab_size
    wide = 4.0 * config.num_attention_heads * config.head_dim
    wide *= config.num_hidden_layers * rows
    linear = 2.0 * entries * rows * steps
    reads = wide * steps * (length + steps)
    seen = wide * steps * (length + (steps + 1) / 2)
    return first.once(flash) + Work(linear + seen, linear + reads)


def attention_kernel(
    experiment: Experiment, config: ModelConfig, length: int, platform: str
) -> str:
    """The attention that `auto` computes on `platform` for rows of `length` tokens.

    The rule of `unipost.model.attention.choose`, for a platform that is not there.
    """
    name, size = experiment.compute.attention, config.head_dim
    if name != "auto":
        return name
    if platform == "gpu":
        half = experiment.compute.dtype == "bfloat16"
        plain = config.attention_softcap is None
        return "cudnn" if half and plain and size % 8 == 0 and size <= 128 else "einsum"
    filled = 8 * (-length % LANES) <= length
    return "splash" if filled and size % LANES == 0 else "einsum"


def chunk_of(
    experiment: Experiment, config: ModelConfig, sizes: Sizes, axes: Mapping[str, int]
) -> tuple[float, int, int]:
    """(rows of one chip, columns of responses, how many of them get logits at once).

    Of one microbatch, as `unipost.head` cuts it on a mesh with these axes.
    """
    pieces = experiment.minibatches * experiment.microbatches
    rows = max(1, sizes.rows // pieces)
    shards, tensor = prod(axes.get(name, 1) for name in ROWS), axes.get("tensor", 1)
    shards = shards if rows % shards == 0 else 1
    vocab = config.vocab_size // (tensor if config.vocab_size % tensor == 0 else 1)
    columns = -(-sizes.response // axes.get("sequence", 1))
    given = rows, columns, config.hidden_size, vocab, 4, shards
    return rows / shards, columns, chunk_columns(*given)


def packed_sizes(experiment: Experiment, sizes: Sizes) -> tuple[int, int]:
    """Rows and their length as the model reads them."""
    length = sizes.prompt + sizes.response - 1
    packed = experiment.packed_length
    if packed is None:
        return sizes.rows, length
    return -(-sizes.rows // max(1, packed // length)), packed


def scalar(experiment: Experiment) -> bool:
    """Whether a scalar head is trained, which has no logits."""
    return isinstance(experiment.objective, ScalarObjective)
