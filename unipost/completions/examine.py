"""What training says of the first groups of a batch: log-probs and coefficients."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unipost.batch import Batch
from unipost.diagnostics.signals import is_advantage
from unipost.diagnostics.streams import each_term
from unipost.explain.coefficient import of_prepared
from unipost.mixture import Mixture
from unipost.model import Params, Policy
from unipost.objective import Objective
from unipost.objectives import AnyObjective, terms
from unipost.processes import gathered
from unipost.update import Rows, streams_for, with_present
from unipost.vocabulary import Vocabulary

Array = jax.Array
STREAMS = ("old", "behavior", "reference")


class Examined(NamedTuple):
    """Numbers of every token [P, G, T]; None where the run has none.

    coefficient   what stands before grad log pi(y_t | s_t) in the step, > 0 where the
                  token is raised (`unipost.explain.gradient_coefficient`); the part of
                  an entropy bonus, a value gauge or an exact penalty is not in it
    advantage     the signal, where it is an advantage
    policy, old, behavior, reference  log-probs
    """

    policy: Any
    coefficient: Any = None
    advantage: Any = None
    old: Any = None
    behavior: Any = None
    reference: Any = None


def examine(
    objective: AnyObjective,
    policy: Policy,
    params: Params,
    rows: Rows,
    batch: Batch,
    signal: Any = None,
    *,
    groups: int,
    microbatches: int = 1,
) -> Examined:
    """The numbers of the first `groups` prompts of a logical batch, on the host.

    `batch` has its old and reference streams; `signal` is that of the whole batch where
    it is known. Only the rows that are shown go through the model again, unless the
    objective reads what the policy says now.
    """
    found = _examined(
        policy, objective, params, rows, batch, signal, groups, microbatches
    )
    return gathered(found)


@partial(jax.jit, static_argnums=(0, 6, 7))
def _examined(policy, objective, params, rows, batch, signal, groups, microbatches):
    batch = with_present(policy, objective, params, rows, batch, microbatches)
    whole = batch.mask
    prepared = objective.prepare(batch, signal)
    plain = rows._replace(packed=None)
    some, batch, prepared = jax.tree.map(lambda x: x[:groups], (plain, batch, prepared))
    streams = streams_for(objective.needs, policy, params, some)
    found = {name: getattr(batch, name) for name in STREAMS}
    return Examined(
        streams.policy,
        _coefficient(objective, streams, prepared, batch, whole),
        _advantage(objective, prepared),
        **found,
    )


def _coefficient(objective, streams, prepared, batch: Batch, whole: Array):
    """None where a term is over the vocabulary: it has no number per token."""
    if any(isinstance(term, Vocabulary) for term in terms(objective)):
        return None
    value = of_prepared(objective, streams, prepared, batch.mask)
    if isinstance(objective, Mixture):
        # its unit is a token of the whole batch
        value = value * (whole > 0).sum() / jnp.maximum((batch.mask > 0).sum(), 1)
    return value


def _advantage(objective, prepared):
    for term, piece in each_term(objective, prepared):
        if isinstance(term, Objective) and is_advantage(term.signal):
            return jnp.broadcast_to(piece.signal, piece.batch.mask.shape)
    return None


def first(rows: Rows, batch: Batch, groups: int) -> tuple[Rows, Batch]:
    """The first `groups` prompts of rows and batch, on the host."""
    plain = rows._replace(packed=None)
    values = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    held = ("mask", "rewards", "off_policy", "components")
    kept = Batch(**{name: values[name] for name in held})
    return gathered(jax.tree.map(lambda x: x[:groups], (plain, kept)))
