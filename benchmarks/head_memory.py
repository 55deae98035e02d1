"""Memory and time of the output head: chunks of columns against all logits at once.

    python benchmarks/head_memory.py [--rounds 3] [--tokens 16384] [--json out.json]

Temporary memory of scoring and its gradient, as XLA plans it (`memory_analysis`; the
152k vocabulary is compiled and not run), in GiB: all logits at once, and in the chunk
that `unipost.head.chunk_columns` chooses. Then seconds of both at a vocabulary of 16k,
where both run, in chunks of 2048 tokens: least wall and CPU time of `--rounds`, which
take turns. Hidden states are given, so nothing but the head is in these numbers.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measure import between, now, write

from unipost.head import CHUNK_TOKENS, chunk_columns, scores_of

HIDDEN, TOKENS = 1536, 16384
LARGE, SMALL = 152_064, 16_384
EXTRAS: tuple[tuple[str, ...], ...] = ((), ("entropy",), ("entropy", "collision"))


def linear(params: Any, hidden: jax.Array) -> jax.Array:
    """Logits of a head {"kernel": [D V]}."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    return (flat @ params["kernel"]).reshape(*hidden.shape[:-1], -1)


def gradient(extras: tuple[str, ...], chunk: int | None):
    """Gradient of a sum of scores with respect to head and hidden states, jitted."""

    def loss(params, hidden, targets, mask):
        head = partial(linear, params)
        scores = scores_of(head, hidden, targets, mask, extras, chunk)
        return sum(jnp.sum(jnp.sin(x)) for x in scores if x is not None)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))


def shapes(rows: int, tokens: int, vocab: int) -> tuple[Any, ...]:
    """Shapes of the arguments of `gradient`: float32, `rows` of the tokens."""
    shape = jax.ShapeDtypeStruct
    columns = tokens // rows
    return (
        {"kernel": shape((HIDDEN, vocab), jnp.float32)},
        shape((rows, columns, HIDDEN), jnp.float32),
        shape((rows, columns), jnp.int32),
        shape((rows, columns), jnp.bool_),
    )


def memory(
    rows: int, tokens: int, vocab: int, extras: tuple[str, ...]
) -> dict[str, Any]:
    """GiB of temporary memory with all logits at once and in the chosen chunk."""
    columns = tokens // rows
    chunk = chunk_columns(rows, columns, HIDDEN, vocab, 4)

    def temporary(chunk: int) -> float:
        step = gradient(extras, chunk).lower(*shapes(rows, tokens, vocab)).compile()
        plan = step.memory_analysis()
        assert plan is not None
        return plan.temp_size_in_bytes / 2**30

    whole, chunked = temporary(columns), temporary(chunk)
    return {
        "V": vocab,
        "D": HIDDEN,
        "rows": rows,
        "tokens": tokens,
        "extras": ",".join(extras) or "-",
        "chunk_tokens": rows * chunk,
        "whole_gib": round(whole, 2),
        "chunked_gib": round(chunked, 2),
        "ratio": round(chunked / whole, 3),
    }


def draw(rows: int, tokens: int) -> tuple[Any, ...]:
    """Random arguments of `gradient` at the small vocabulary."""
    random = np.random.default_rng(0)

    def array(shape: jax.ShapeDtypeStruct) -> jax.Array:
        if shape.dtype == jnp.bool_:
            return jnp.ones(shape.shape, bool)
        if shape.dtype == jnp.int32:
            return jnp.asarray(random.integers(0, SMALL, shape.shape), jnp.int32)
        return jnp.asarray(0.02 * random.standard_normal(shape.shape, np.float32))

    return jax.tree.map(array, shapes(rows, tokens, SMALL))


def times(rows: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Seconds of scoring and gradient at V=16k, whole and in chunks of 2048 tokens."""
    arguments, columns = draw(rows, tokens), tokens // rows
    steps = [gradient((), chunk) for chunk in (columns, CHUNK_TOKENS // rows)]
    spans: list[list[dict[str, float]]] = [[], []]
    for turn in range(rounds + 1):
        for step, found in zip(steps, spans, strict=True):
            begin = now()
            jax.block_until_ready(step(*arguments))
            if turn:  # the first turn compiles
                found.append(between([begin, now()]))
    result: dict[str, Any] = {"V": SMALL, "D": HIDDEN, "rows": rows, "tokens": tokens}
    for clock in ("wall_s", "cpu_s"):
        whole, chunked = (min(x[clock] for x in found) for found in spans)
        result[f"whole_{clock}"] = round(whole, 2)
        result[f"chunked_{clock}"] = round(chunked, 2)
        result[f"ratio_{clock}"] = round(chunked / whole, 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--json")
    given = parser.parse_args()
    cases = [(rows, TOKENS, LARGE, x) for rows in (1, 64) for x in EXTRAS]
    cases += [(1, tokens, LARGE, ()) for tokens in (1024, 2048, 4096)]
    cases += [(64, TOKENS, vocab, ()) for vocab in (SMALL, 65_536, 262_144)]
    cases += [(256, 4 * TOKENS, SMALL, ())]
    found = {"memory": [memory(*case) for case in cases]}
    if given.rounds:
        found["time"] = [times(rows, given.tokens, given.rounds) for rows in (1, 64)]
    write(given.json, found)


if __name__ == "__main__":
    main()
