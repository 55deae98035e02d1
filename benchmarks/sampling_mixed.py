"""Responses of mixed lengths: continuous batching beside plain batches of its slots.

    python benchmarks/sampling_mixed.py [--slots 32] [--repeats 3] [--json out.json]

The 10.1 M model of `jax_shapes.py`, 16 prompts of 32 tokens with 16 responses each,
whose lengths are geometric with mean 32, at most 224. Both ways draw the same tokens;
the plain one takes 32 responses at a time, as many steps as the longest of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax_shapes import CONFIG
from measure import measure, write

from unipost.model import Params, Policy, init_params, transformer_policy
from unipost.policy import Array, Cache
from unipost.sampling import (
    BatchSampler,
    Completion,
    ContinuousSampler,
    Engine,
    Request,
    Sampling,
)
from unipost.tokenizer import CharTokenizer

PROMPTS, GROUP, LENGTH, LONGEST, MEAN = 16, 16, 32, 224, 32
END = 1


def with_lengths(policy: Policy) -> Policy:
    """The policy, made to end with END after as many tokens as the first one says."""

    def ending(logits: Array, left: Array) -> Array:
        now = (left <= 1)[:, None]
        end = jnp.arange(logits.shape[-1]) == END
        return jnp.where(now == end, logits, -jnp.inf)

    def prefill(params: Params, tokens: Array, mask: Array, columns: int):
        logits, cache = policy.prefill(params, tokens, mask, columns)
        first = jnp.take_along_axis(tokens, mask.argmax(1)[:, None], 1)[:, 0]
        rows = {"model": cache.rows, "left": first.astype(jnp.int32)}
        return ending(logits, first), cache._replace(rows=rows)

    def decode(params: Params, cache: Cache, token: Array) -> tuple[Array, Cache]:
        inner = cache._replace(rows=cache.rows["model"])
        logits, inner = policy.decode(params, inner, token)
        left = cache.rows["left"] - 1
        rows = {"model": inner.rows, "left": left}
        return ending(logits, left), inner._replace(rows=rows)

    return Policy(policy.hidden, policy.head, prefill, decode)


def requests_of(lengths: np.ndarray) -> list[Request]:
    """One request per response; its prompt starts with its length."""
    rng = np.random.default_rng(1)
    texts = rng.integers(2, CONFIG.vocab_size, (PROMPTS, LENGTH - 1))
    return [
        Request((int(n), *texts[i // GROUP].tolist()), (i,), LONGEST, (END,))
        for i, n in enumerate(lengths)
    ]


def in_batches(engine: Engine, size: int) -> Engine:
    """The engine on `size` requests at a time."""

    def call(params: Params, requests: Sequence[Request], key: Array):
        out: list[list[Completion]] = []
        for start in range(0, len(requests), size):
            out += engine(params, requests[start : start + size], key)
        return out

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(1 / MEAN, PROMPTS * GROUP), LONGEST)
    policy, params = with_lengths(transformer_policy(CONFIG)), init_params(CONFIG, 0)
    place = policy, CharTokenizer("ab"), Sampling(LONGEST), LENGTH
    samplers = {
        "continuous": ContinuousSampler(given.slots, refill=4, prefill=8).open(*place),
        "plain": in_batches(BatchSampler().open(*place), given.slots),
    }
    requests, drawn = requests_of(lengths), {}
    results: dict[str, Any] = {"device": jax.devices()[0].device_kind}

    def work_of(name: str) -> Callable[[], None]:
        def work() -> None:
            drawn[name] = samplers[name](params, requests, jax.random.key(0))

        return work

    for name in samplers:
        results[name] = measure(work_of(name), given.repeats, warm=1)
    found = {name: [len(x[0].tokens) for x in drawn[name]] for name in samplers}
    assert found["continuous"] == found["plain"] == lengths.tolist()
    blocks = lengths.reshape(-1, given.slots)
    results["tokens"] = int(lengths.sum())
    results["least rows x steps"] = {
        "continuous": int(lengths.sum()),
        "plain": int(blocks.max(1).sum() * given.slots),
    }
    ratio = results["plain"]["wall_s"] / results["continuous"]["wall_s"]
    write(given.json, results | {"plain / continuous": ratio})


if __name__ == "__main__":
    main()
