"""One token per row: the library's draw beside Gumbel noise and a full sort.

    python benchmarks/draw.py [--rows 8] [--repeats 20] [--json out.json]

At vocabularies of 16,384 and 151,936: `jax.random.categorical` with the log-prob of
what it drew, against `draw`; top-p by sorting the vocabulary, against `draw` with
top_p; and `draw` with top_k and min_p.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from measure import measure, write

from unipost.sampling import Sampling, draw

Array = jax.Array
VOCABULARIES = 16_384, 151_936
TOP_P = 0.95


def categorical(logits: Array, keys: Array) -> tuple[Array, Array]:
    """A token per row by Gumbel noise, and its log-probability."""
    token = jax.vmap(jax.random.categorical)(keys, logits)[:, None]
    logps = jax.nn.log_softmax(logits, -1)
    return token[:, 0], jnp.take_along_axis(logps, token, -1)[:, 0]


def sorted_top_p(logits: Array, keys: Array) -> tuple[Array, Array]:
    """Top-p by sorting the vocabulary, then `categorical`."""
    ordered, ids = jax.lax.top_k(logits, logits.shape[-1])
    probs = jax.nn.softmax(ordered, -1)
    kept = jnp.cumsum(probs, -1) - probs < TOP_P
    token, logp = categorical(jnp.where(kept, ordered, -jnp.inf), keys)
    return jnp.take_along_axis(ids, token[:, None], -1)[:, 0], logp


WAYS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "categorical": categorical,
    "draw": partial(draw, sampling=Sampling(1)),
    "top_p by sort": sorted_top_p,
    "draw top_p": partial(draw, sampling=Sampling(1, top_p=TOP_P)),
    "draw top_k": partial(draw, sampling=Sampling(1, top_k=50)),
    "draw min_p": partial(draw, sampling=Sampling(1, min_p=0.05)),
}


def timed(vocabulary: int, rows: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of each way at one vocabulary, and the ratios."""
    logits = 3 * jax.random.normal(jax.random.key(0), (rows, vocabulary))
    keys = jax.random.split(jax.random.key(1), rows)
    out: dict[str, Any] = {}
    for name, way in WAYS.items():
        compiled = jax.jit(way)

        def work(compiled=compiled):
            jax.block_until_ready(compiled(logits, keys))

        out[name] = 1e3 * measure(work, repeats)["wall_s"]
    ratios = {
        "categorical / draw": out["categorical"] / out["draw"],
        "top_p by sort / draw top_p": out["top_p by sort"] / out["draw top_p"],
    }
    return {"ms": out, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json")
    given = parser.parse_args()
    results = {str(v): timed(v, given.rows, given.repeats) for v in VOCABULARIES}
    write(given.json, {"device": jax.devices()[0].device_kind, **results})


if __name__ == "__main__":
    main()
