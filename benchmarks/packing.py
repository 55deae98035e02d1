"""Time of a scoring step with packed rows against padded ones, on ragged texts.

    python benchmarks/packing.py [--texts 64] [--rounds 5] [--json out.json]

A 10.1 M parameter model (float32, vocabulary of 16k, as `jax_shapes.py`) scores
responses and takes the gradient of their mean log-prob. Lengths are log-normal, as
those of sampled answers are, cut at 128 prompt and 384 response tokens. Padded rows
have 512 columns each; packed rows of 512 slots hold the same texts. Least wall and CPU
time of `--rounds`, which take turns; `slots` is the ratio that the rows' sizes give.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax_shapes import CONFIG as SMALL
from measure import between, now, write

from unipost.model import init_params, transformer_policy
from unipost.packed import pack_rows, score_packed
from unipost.scoring import score

PROMPT, RESPONSE = 128, 384
LENGTH = PROMPT + RESPONSE
CONFIG = replace(SMALL, max_position_embeddings=LENGTH)
POLICY = transformer_policy(CONFIG)


class Texts(NamedTuple):
    """Prompts [N L] and responses [N T], padded."""

    prompt: jax.Array
    prompt_mask: jax.Array
    response: jax.Array
    response_mask: jax.Array


def ragged(texts: int, seed: int = 0) -> Texts:
    """Texts whose lengths are drawn."""
    random = np.random.default_rng(seed)

    def lengths(median: float, limit: int) -> np.ndarray:
        drawn = random.lognormal(np.log(median), 0.7, (texts, 1))
        return np.clip(drawn.round(), 1, limit)

    prompt = random.integers(0, CONFIG.vocab_size, (texts, PROMPT), dtype=np.int32)
    response = random.integers(0, CONFIG.vocab_size, (texts, RESPONSE), dtype=np.int32)
    prompt_mask = np.arange(PROMPT) >= PROMPT - lengths(48, PROMPT)
    response_mask = np.arange(RESPONSE) < lengths(112, RESPONSE)
    return Texts(*map(jnp.asarray, (prompt, prompt_mask, response, response_mask)))


def steps(data: Texts) -> tuple[list[Any], float]:
    """Gradients of the mean log-prob, padded and packed; ratio of their slots."""
    layout = jax.tree.map(jnp.asarray, pack_rows(*data, LENGTH))
    params, shape = init_params(CONFIG, 0), data.response.shape

    def padded(params, data):
        return score(POLICY, params, *data).logps.sum()

    def packed(params, layout):
        return score_packed(POLICY, params, layout, shape).logps.sum()

    pairs = (padded, data), (packed, layout)
    calls = [(jax.jit(jax.value_and_grad(f)), x) for f, x in pairs]
    sums = [float(f(params, x)[0]) for f, x in calls]
    np.testing.assert_allclose(*sums, rtol=1e-5)
    run = [lambda f=f, x=x: jax.block_until_ready(f(params, x)) for f, x in calls]
    return run, layout.tokens.size / (len(data.prompt) * LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    given = parser.parse_args()
    data = ragged(given.texts)
    run, slots = steps(data)
    spans: list[list[dict[str, float]]] = [[], []]
    for _ in range(given.rounds):
        for step, found in zip(run, spans, strict=True):
            begin = now()
            step()
            found.append(between([begin, now()]))
    real = int(data.prompt_mask.sum() + data.response_mask.sum())
    results: dict[str, Any] = {"texts": given.texts, "slots": round(slots, 3)}
    results["tokens"] = round(real / (given.texts * LENGTH), 3)
    for clock in ("wall_s", "cpu_s"):
        padded, packed = (min(x[clock] for x in found) for found in spans)
        results[f"padded_{clock}"] = round(padded, 3)
        results[f"packed_{clock}"] = round(packed, 3)
        results[f"ratio_{clock}"] = round(packed / padded, 3)
    write(given.json, results)


if __name__ == "__main__":
    main()
