"""Responses of R runs drawn by one program, each from its own parameters and key.

Letters as in `unipost.sampling.batch`, for every run: P prompts, G responses each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unipost.adapters import with_trained
from unipost.policy import Array, Cache, Policy
from unipost.processes import gathered
from unipost.sampling import Request
from unipost.sampling.batch import BatchEngine, compiled_sample
from unipost.vectorised.stacks import Stack

Whole = tuple[Stack, Stack]
"""The parameters of R runs: those frozen, and those trained."""
CACHE = Cache._make((1, 0, None, 1))
"""The axis of the runs in a cache, None where they share what is there."""


class Asked(NamedTuple):
    """What a run asks of its sampler."""

    engine: BatchEngine
    requests: Sequence[Request]
    key: Array


@cache
def policy_of_runs(policy: Policy, runs: int) -> Policy:
    """`policy` of R runs, its rows [R * N ...] those of one run after the other's.

    Parameters are `Whole`. For sampling alone.
    """

    def prefill(params: Whole, tokens: Array, mask: Array, columns: int):
        def one(frozen, trained, tokens, mask):
            return policy.prefill(with_trained(frozen, trained), tokens, mask, columns)

        logits, cache = _over(params, one, (0, 0), *_cut((tokens, mask), runs))
        return _merged(logits), _with_axes(_merged, cache)

    def decode(params: Whole, cache: Cache, token: Array):
        def one(frozen, trained, cache, token):
            return policy.decode(with_trained(frozen, trained), cache, token)

        cache = _with_axes(lambda x, axis=0: _cut(x, runs, axis), cache)
        logits, cache = _over(params, one, (CACHE, 0), cache, _cut(token, runs))
        return _merged(logits), _with_axes(_merged, cache)

    return Policy(_samples_alone, _samples_alone, prefill, decode)


def _samples_alone(*_: Any) -> Any:
    raise AssertionError("a policy of several runs only samples")


def _over(params: Whole, function: Any, axes: tuple[Any, ...], *others: Any):
    """`function` of the parameters of every run and others: (logits, cache)."""
    frozen, trained = params

    def one(frozen_leaves, trained_leaves, *others):
        return function(frozen.one(frozen_leaves), trained.one(trained_leaves), *others)

    leading = list(frozen.axes), list(trained.axes)
    mapped = jax.vmap(one, in_axes=(*leading, *axes), out_axes=(0, CACHE))
    return mapped(frozen.leaves, trained.leaves, *others)


def _with_axes(change: Any, cache: Cache) -> Cache:
    """`change` of every array of a cache, given the axis of its runs."""

    def each(part: Any, axis: int) -> Any:
        return jax.tree.map(lambda x: change(x, axis), part)

    rows, prompt = each(cache.rows, CACHE.rows), each(cache.prompt, CACHE.prompt)
    return Cache(each(cache.stacked, CACHE.stacked), rows, cache.slot, prompt)


def _cut(tree: Any, runs: int, axis: int = 0) -> Any:
    """Rows R * N at `axis` as R, N."""

    def one(x: Array) -> Array:
        shape = x.shape
        return x.reshape(*shape[:axis], runs, -1, *shape[axis + 1 :])

    return jax.tree.map(one, tree)


def _merged(x: Array, axis: int = 0) -> Array:
    """R, N at `axis` as rows R * N."""
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def answered(params: Whole, asked: dict[int, Asked], runs: int) -> dict[int, Any]:
    """The completions of what some of R runs ask, by their places.

    Those that ask alike are answered by one program, which draws for all R: places that
    do not ask repeat what another does, and the program stays the same.
    """
    kinds: dict[Any, dict[int, Any]] = {}
    found: dict[int, Any] = {}
    for place, one in asked.items():
        try:
            given = one.engine.arguments(one.requests)
        except ValueError as error:  # the run's own, which it is told
            found[place] = error
            continue
        kinds.setdefault(_kind(one, given), {})[place] = given
    for own in kinds.values():
        found |= _drawn(params, {p: asked[p] for p in own}, own, runs)
    return found


def _kind(asked: Asked, arguments: Any) -> Any:
    """What a program of sampling is compiled for."""
    prompts, _, given, options = arguments
    engine = asked.engine
    shapes = prompts[0].shape, given is None, *options.values()
    return engine.policy, engine.sampling, *shapes


def _drawn(
    params: Whole, asked: dict[int, Asked], arguments: dict[int, Any], runs: int
) -> dict[int, Any]:
    first = next(iter(asked))
    places = [place if place in asked else first for place in range(runs)]
    prompts, ids, given, options = zip(*(arguments[p] for p in places), strict=True)
    engine, rows = asked[first].engine, len(ids[0])
    keys = jnp.stack([asked[place].key for place in places])
    samples = compiled_sample(
        policy_of_runs(engine.policy, runs),
        params,
        *(np.concatenate(x) for x in zip(*prompts, strict=True)),
        jnp.repeat(keys, rows),
        engine.sampling,
        ids=np.concatenate(ids),
        given=None if given[0] is None else np.concatenate(given),
        **options[0],
    )
    parts = [_cut(x, runs) for x in gathered(samples)]
    return {
        place: one.engine.completions(one.requests, *(x[place] for x in parts))
        for place, one in asked.items()
    }
