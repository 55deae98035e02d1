"""The training and sampling steps that are timed, on unipost's own path.

Letters: P prompts, G responses each, L prompt columns, T response columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost import Batch
from unipost.model import Params, Policy
from unipost.optimizers import AdamW
from unipost.sampling import Sampling, compiled_sample
from unipost.update import Rows, State, annotate, update, with_streams

OPTIMIZER = AdamW(1e-5, weight_decay=0.01, clip_norm=1.0)
FIRST = 4  # ids below are special tokens of the other libraries' models


def random_rows(vocab: int, shape: tuple[int, int, int, int], seed: int = 1) -> Rows:
    """Full rows of random tokens; shape is (P, G, L, T), prompts are shared by G."""
    prompts, group, length, columns = shape
    random = np.random.default_rng(seed)
    prompt = random.integers(FIRST, vocab, (prompts, 1, length), dtype=np.int32)
    response = random.integers(FIRST, vocab, (prompts, group, columns), dtype=np.int32)
    prompt = jnp.asarray(np.repeat(prompt, group, 1))
    return Rows(
        prompt,
        jnp.ones(prompt.shape, bool),
        jnp.asarray(response),
        jnp.ones(response.shape, bool),
    )


class Trainer:
    """Parameters that change from call to call; `params` may be read between calls."""

    def __init__(self, policy: Policy, params: Params, objective: Any):
        own = jax.tree.map(jnp.copy, params)
        self.policy, self.objective = policy, objective
        self.state = State(own, OPTIMIZER.init(own), jnp.zeros((), jnp.int32))
        self.steps = jnp.asarray(1000)

    @property
    def params(self) -> Params:
        return self.state.params

    def __call__(self, rows: Rows, batch: Batch) -> Any:
        """Loss, gradient, clipping and AdamW; the new state and the metrics."""
        self.state, metrics = update(
            self.policy,
            self.objective,
            OPTIMIZER,
            self.state,
            rows,
            batch,
            1,
            self.steps,
        )
        return self.state, metrics


def given_streams(policy: Policy, params: Params, rows: Rows, seed: int = 2) -> Batch:
    """A batch with rewards, and old and reference log-probs near those of `params`."""
    random = np.random.default_rng(seed)
    logps = annotate(policy, params, rows).policy

    def near() -> jax.Array:
        return logps + jnp.asarray(0.1 * random.normal(size=logps.shape), logps.dtype)

    rewards = jnp.asarray(random.normal(size=logps.shape[:2]), logps.dtype)
    batch = Batch(mask=rows.response_mask, rewards=rewards)
    return replace(batch, old=near(), reference=near())


def online(trainer: Trainer, reference: Params, rows: Rows, batch: Batch) -> Any:
    """A step that scores old and reference first, as far as the objective reads them.

    What `batch` has of them already is not scored again.
    """
    policy, objective = trainer.policy, trainer.objective
    batch = with_streams(objective, policy, rows, batch, trainer.params, reference)
    return trainer(rows, batch)


def sampler(policy: Policy, rows: Rows, columns: int, group: int) -> Callable[..., Any]:
    """draw(params, seed): `columns` tokens for each of P * group rows, none ends early.

    A prompt [P L] is the first of each group.
    """
    prompt, mask = rows.prompt[:, 0], rows.prompt_mask[:, 0]
    sampling = Sampling(columns)

    def draw(params: Params, seed: int) -> Any:
        key = jax.random.key(seed)
        return compiled_sample(policy, params, prompt, mask, key, sampling, group=group)

    return draw
