"""The implicit reward: z = beta f'(policy/anchor) on a token or a sequence."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from unipost.batch import Batch
from unipost.classical import ReverseKL
from unipost.divergence import Divergence
from unipost.levels import Anchor, Level, at_level, token_log_ratio
from unipost.links import Linear, Link
from unipost.pair_links import PairLink
from unipost.parts import Scalar, in_range, part
from unipost.ratios import Ratio

Array = jax.Array
CLAMP = 20.0  # |log u| beyond which a ratio is not trusted (verl's bound)


@part
class Score:
    """z = beta f'(u), u = policy/anchor at a level, and the link that z goes through.

    divergence  its f' turns the log-ratio into the implicit reward
    beta        scale of the implicit reward
    anchor      none (u = pi), reference, old, behavior, self (u = pi / sg(pi))
    ratio       treatment of the per-token log-ratios before their level; None: as is
    level       token; sequence: u = prod_t u_t; sequence_mean: its geometric mean
    per         z is divided by one, or by the sequence's length (after f')
    link        how z must follow the signal
    clamp       bound on |log u| against an anchor; the share of units it touches is
                reported as `clamp_share`, and their gradient is 0. None: no bound.
                "default": 20 where log u goes through an exponential, else None; it
                is resolved when the object is made
    """

    divergence: Divergence = ReverseKL()
    beta: Scalar = 1.0
    anchor: Anchor = "none"
    ratio: Ratio | None = None
    level: Level = "token"
    per: Literal["one", "length"] = "one"
    link: Link | PairLink = Linear()
    clamp: Scalar | None | Literal["default"] = "default"

    def __post_init__(self):
        in_range("beta", self.beta, 0.0, what="is not positive and finite")
        if isinstance(self.clamp, str):
            bound = CLAMP if self._exponential else None
            object.__setattr__(self, "clamp", bound)
        if self.clamp is not None:
            in_range("clamp", self.clamp, 0.0, what="is not positive and finite")

    @property
    def bound(self) -> Scalar | None:
        """The clamp as resolved: a number or None."""
        return None if isinstance(self.clamp, str) else self.clamp

    @property
    def _exponential(self) -> bool:
        """Whether a log-ratio to an anchor is exponentiated somewhere."""
        linear = isinstance(self.divergence, ReverseKL)
        return self.anchor not in ("none", "self") and not linear

    def log_u(self, policy: Array, batch: Batch, signal: Array, rows: Array):
        """(log u on the units of the level, 0/1 hits of the clamp or None)."""
        log_u = token_log_ratio(policy, batch, self.anchor, rows)
        if self.ratio is not None:
            log_u = self.ratio(log_u, signal, batch.mask)
        return clamped(at_level(log_u, batch.mask, self.level), self.anchor, self.bound)


def clamped(log_u: Array, anchor: Anchor, clamp: Scalar | None):
    """(clamped log u, its 0/1 hits). A bare log-prob (anchor none) is never clamped."""
    if clamp is None or anchor == "none":
        return log_u, None
    hit = (jnp.abs(log_u) > clamp).astype(log_u.dtype)
    return jnp.clip(log_u, -clamp, clamp), hit


def telescoped(values: Array, mask: Array) -> Array:
    """V(s_t) - V(s_next) [P, G, T], s_next the next unmasked state, V(end) = 0."""
    steps = jnp.arange(mask.shape[-1])
    last = mask.shape[-1]
    index = jnp.where(mask > 0, steps, last)
    upcoming = jax.lax.cummin(index, axis=index.ndim - 1, reverse=True)
    following = jnp.concatenate(
        [upcoming[..., 1:], jnp.full_like(upcoming[..., :1], last)], -1
    )
    padded = jnp.concatenate([values, jnp.zeros_like(values[..., :1])], -1)
    ahead = jnp.take_along_axis(padded, following, -1)
    return jnp.where(mask > 0, values - ahead, 0.0)
