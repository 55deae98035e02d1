"""Steps of a 1.5 B model on one accelerator, against its own measured limits.

    python benchmarks/gpu.py [--size qwen2_1b5] [--only sft,decode] [--json out.json]

Qwen2-1.5B's shape with random weights: float32 parameters and moments, bfloat16
products. Training counts the model's FLOPs (recomputing is not counted) against the
rate of one large bfloat16 matrix product here:

    sft     rows of 4,096 tokens                       at least 50% of that rate
    dpo     pairs of 1,024 + 1,024, reference given    at least 45%
    grpo    groups of 8 of 512 + 1,536, old and reference given     at least 45%
    decode  256 rows after prompts of 512, bfloat16 weights: at least 60% of the rate
            at which weights and filled cache could be read (measured by a copy)

first_s is the first call: compiling, below 90 s. `--size toy` shows on a CPU that it
runs; its percentages mean nothing.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from measure import measure, write
from steps import Trainer, given_streams, random_rows, sampler

from unipost import Batch, presets
from unipost.model import ModelConfig, init_params, transformer_policy
from unipost.model.transformer import Compute
from unipost.update import Rows, annotate


@dataclass(frozen=True)
class Size:
    """A model, the shapes (P, G, L, T) of its steps, and a product's side."""

    config: ModelConfig
    sft: tuple[int, int, int, int]
    dpo: tuple[int, int, int, int]
    grpo: tuple[int, int, int, int]
    decode: tuple[int, int, int, int]
    side: int


SIZES = {
    "qwen2_1b5": Size(
        ModelConfig(
            vocab_size=151936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            head_dim=128,
            rope_theta=1e6,
            max_position_embeddings=4096,
            attention_bias="qkv",
        ),
        sft=(4, 1, 1, 4095),
        dpo=(4, 2, 1024, 1024),
        grpo=(1, 8, 512, 1536),
        decode=(16, 16, 512, 256),
        side=8192,
    ),
    "toy": Size(
        ModelConfig(vocab_size=512, hidden_size=64, attention_bias="qkv"),
        sft=(4, 1, 1, 127),
        dpo=(2, 2, 32, 32),
        grpo=(1, 4, 32, 32),
        decode=(2, 4, 16, 16),
        side=512,
    ),
}


def matmul_rate(side: int) -> float:
    """FLOP/s of a bfloat16 product of two square matrices."""
    x, y = (jax.random.normal(jax.random.key(i), (side, side)) for i in range(2))
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    count = 10

    @jax.jit
    def chain(x: jax.Array, y: jax.Array) -> jax.Array:
        # each product needs the one before it, so that none is dropped
        return jax.lax.fori_loop(0, count, lambda _, x: (x @ y) / side**0.5, x)

    seconds = measure(lambda: chain(x, y).block_until_ready(), 5)["wall_s"]
    return count * 2 * side**3 / seconds


def copy_rate(bytes_: int) -> float:
    """Bytes per second of reading and writing an array."""
    x = jnp.zeros(bytes_ // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    seconds = measure(lambda: add(x).block_until_ready(), 5)["wall_s"]
    return 2 * bytes_ / seconds


def sizes(params: Any) -> tuple[int, int]:
    """Entries of all blocks, and of the head (the table, which is tied)."""
    blocks = sum(x.size for x in jax.tree.leaves(params["blocks"]))
    return blocks, params["embedding"].size


def step_flops(config: ModelConfig, params: Any, rows: Rows) -> float:
    """Model FLOPs of forward and backward: 6 per weight and token, and attention.

    The head is applied to responses only; of the scores half are causal.
    """
    count = math.prod(rows.response.shape[:2])
    length, scored = rows.prompt.shape[-1], rows.response.shape[-1]
    columns = length + scored - 1
    blocks, head = sizes(params)
    width = config.num_attention_heads * config.head_dim
    attention = 6 * config.num_hidden_layers * width * columns**2
    return count * (6 * (blocks * columns + head * scored) + attention)


def training(size: Size, case: str) -> tuple[Callable[[], Any], float]:
    """A step and its FLOPs."""
    config = size.config
    policy = transformer_policy(config, Compute(dtype="bfloat16"))
    params = init_params(config, 0)
    rows = random_rows(config.vocab_size, getattr(size, case))
    flops = step_flops(config, params, rows)
    objective: Any = presets.sft()
    batch = Batch(mask=rows.response_mask)
    if case == "dpo":
        objective = presets.dpo(0.1)
        reference = annotate(policy, params, rows).policy
        batch = Batch(mask=rows.response_mask, reference=reference)
    elif case == "grpo":
        objective = presets.grpo(kl=0.04)
        batch = given_streams(policy, params, rows)
    trainer = Trainer(policy, params, objective)
    return lambda: jax.block_until_ready(trainer(rows, batch)), flops


def decode(size: Size, repeats: int) -> dict[str, float]:
    """Tokens per second, and the share of the floor: the least bytes over the time."""
    config, (prompts, group, length, columns) = size.config, size.decode
    policy = transformer_policy(config, Compute(dtype="bfloat16"))
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), init_params(config, 0))
    rows = random_rows(config.vocab_size, size.decode)
    times = {}
    for new in (columns, columns // 2):
        draw = sampler(policy, rows, new, group)
        times[new] = measure(
            lambda draw=draw: jax.block_until_ready(draw(params, 0)), repeats
        )
    # the half that is longer has no prefill in it
    seconds = times[columns]["wall_s"] - times[columns // 2]["wall_s"]
    steps = columns - columns // 2
    token = 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    filled = length + (columns + columns // 2) / 2
    needed = 2 * sum(sizes(params)) + prompts * group * filled * token
    rate = copy_rate(min(int(needed), 2**32))
    return times[columns] | {
        "tokens_per_s": prompts * group * steps / seconds,
        "bytes_per_s": rate,
        "share": needed * steps / seconds / rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="qwen2_1b5")
    parser.add_argument("--only", default="sft,dpo,grpo,decode")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    size = SIZES[args.size]
    peak = matmul_rate(size.side)
    device = jax.devices()[0].device_kind
    results: dict[str, Any] = {"jax": jax.__version__, "device": device}
    results["matmul_flops_per_s"] = peak
    for case in args.only.split(","):
        if case == "decode":
            results[case] = decode(size, args.repeats)
            continue
        step, flops = training(size, case)
        numbers = measure(step, args.repeats)
        numbers["share"] = flops / numbers["wall_s"] / peak
        results[case] = numbers
        del step
    stats = jax.devices()[0].memory_stats() or {}
    results["peak_bytes"] = stats.get("peak_bytes_in_use")
    write(args.json, results)


if __name__ == "__main__":
    main()
