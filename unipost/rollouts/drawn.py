"""Groups of responses as they are drawn and graded, on the host.

Letters: n prompts, G rows each, T response tokens, K parts of the reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

Tree = TypeVar("Tree")


class Texts(NamedTuple):
    """Rows of text [n, G, T]; a row that is not there has no token in its mask.

    tokens    ids, the pad token after the end
    mask      True on the tokens of the response, the end token included
    behavior  log-probs at which the tokens were drawn; NaN: not known; 0 when masked
    off       True on tokens that the policy has not just drawn itself
    finished  [n, G] whether the response ended by itself
    """

    tokens: np.ndarray
    mask: np.ndarray
    behavior: np.ndarray
    off: np.ndarray
    finished: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """[n, G] rows with a token."""
        return np.asarray(self.mask.any(-1))


class Drawn(NamedTuple):
    """Graded groups.

    index       [n] questions, by their row in the file's tokens
    rewards     [n, G], NaN where unscored or not there
    components  [n, G, K] the parts of a composed reward, without weights
    steps       [n, G, T] rewards of steps where they end, NaN elsewhere, or T = 0
    """

    index: np.ndarray
    texts: Texts
    rewards: np.ndarray
    components: np.ndarray
    steps: np.ndarray

    @property
    def scored(self) -> np.ndarray:
        """[n, G] rows with a reward."""
        return self.texts.present & np.isfinite(self.rewards)


def no_texts(count: int, rows: int, length: int, pad: int, dtype: Any) -> Texts:
    """Texts [count, rows, length] of which none is there."""
    shape = count, rows, length
    tokens, mask = np.full(shape, pad, np.int32), np.zeros(shape, bool)
    behavior, off = np.zeros(shape, dtype), np.zeros(shape, bool)
    return Texts(tokens, mask, behavior, off, np.zeros(shape[:2], bool))


def side_by_side(parts: Sequence[Texts]) -> Texts:
    """Rows of the same groups, those of each part after those of the one before."""
    dtype = parts[0].behavior.dtype
    parts = [x._replace(behavior=x.behavior.astype(dtype)) for x in parts]
    return jax.tree.map(lambda *x: np.concatenate(x, 1), *parts)


def joined(parts: Sequence[Drawn]) -> Drawn:
    """The groups of every part, one part after the other."""
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def taken(tree: Tree, where: np.ndarray) -> Tree:
    """Groups by their place [m] or a mask [n]."""
    return jax.tree.map(lambda x: x[where], tree)


def put(tree: Tree, places: np.ndarray, groups: Tree) -> Tree:
    """`tree` with the groups [m] at `places` [m]."""

    def changed(whole, new):
        whole = whole.copy()
        whole[places] = new
        return whole

    return jax.tree.map(changed, tree, groups)


def without(drawn: Drawn, rows: np.ndarray, pad: int) -> Drawn:
    """`drawn` with the rows [n, G] taken away: no token, no reward."""
    texts, gone = drawn.texts, rows[..., None]
    return drawn._replace(
        texts=Texts(
            np.where(gone, pad, texts.tokens),
            texts.mask & ~gone,
            np.where(gone, 0, texts.behavior),
            texts.off & ~gone,
            texts.finished & ~rows,
        ),
        rewards=np.where(rows, np.nan, drawn.rewards),
        components=np.where(gone, np.nan, drawn.components),
        steps=np.where(gone, np.nan, drawn.steps),
    )


def mixed(drawn: Drawn, own: int) -> np.ndarray:
    """[n] groups that say something: not all rewards are equal, two own rows scored.

    The first `own` rows of a group are the policy's own.
    """
    scored = drawn.scored
    top = np.where(scored, drawn.rewards, -np.inf).max(-1)
    low = np.where(scored, drawn.rewards, np.inf).min(-1)
    return (top > low) & (scored[:, :own].sum(-1) >= 2)
