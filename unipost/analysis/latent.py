"""How far a model's hidden states moved: PCA shift by layer, and linear CKA.

Features are hidden states pooled over a text, of every layer from the embeddings to
the final norm. At layer l the two first principal directions c_1, c_2 of the base's
features are kept for both models, and m_k = mean_i x_i . c_k is taken without
centring. With D_k = m_k(tuned) - m_k(base):

    paper_code  d = || (1/L) sum_l (D_1, D_2)_l ||: what 2507.00432's released code does
                (its section 3 has the same z). Coordinates are averaged with their
                signs, so shifts of different layers cancel, the sign of a principal
                direction matters, and wide activations dominate
    robust      d = (1/L) sum_l || (D_1, D_2)_l || / s_l, s_l the standard deviation of
                the base's features along c_1: no cancellation, no sign, no scale

The paper's code pools over all columns of left-padded texts, padding included; the
robust form over real tokens. Linear CKA (1905.00414) does not change when the
features are turned.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from unipost.analysis.statistics import Interval
from unipost.policy import Array, Params, Policy

Mode = Literal["robust", "paper_code"]


class LatentShift(NamedTuple):
    """Shift of the hidden states of L layers.

    distance  d of the mode, with a 95% interval over items, the directions held fixed
    layers    [L 2] (D_1, D_2): of paper_code raw, of robust over s_l
    base, tuned  [L 2] points (m_1 - m_1(base), m_2) as the paper's figure draws them
    cka       [L] linear CKA of the two models; NaN where one does not vary
    """

    distance: Interval
    layers: np.ndarray
    base: np.ndarray
    tuned: np.ndarray
    cka: np.ndarray


def layer_features(
    policy: Policy,
    params: Params,
    tokens: ArrayLike,
    mask: ArrayLike,
    over: Literal["tokens", "columns"] = "tokens",
    block: int = 64,
) -> np.ndarray:
    """Hidden states of every layer [L + 1, N, D], the mean over each text's columns.

    tokens, mask [N S]. `over` tokens: real tokens only; columns: all of them, padding
    too, as 2507.00432's code pools. Raises ValueError for a policy that shows no layers
    and for a text without a token.
    """
    tokens, mask = np.asarray(tokens), np.asarray(mask).astype(bool)
    if policy.states is None:
        raise ValueError(
            "layer_features: the policy shows no layers; give one of transformer_policy"
        )
    if not mask.any(1).all():
        raise ValueError("layer_features: a text has no token")
    parts = []
    for start in range(0, len(tokens), block):
        place = np.arange(start, start + min(block, len(tokens))) % len(tokens)
        found = _features(policy, params, tokens[place], mask[place], over)
        parts.append(np.asarray(found)[:, : len(tokens) - start])
    return np.concatenate(parts, 1)


@partial(jax.jit, static_argnums=(0, 4))
def _features(policy: Policy, params: Params, tokens, mask, over: str) -> Array:
    weight = mask if over == "tokens" else jnp.ones_like(mask)

    def pool(x: Array) -> Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        total = jnp.where(weight[..., None], x, 0.0).sum(1)
        return total / weight.sum(1, keepdims=True)

    assert policy.states is not None
    return policy.states(params, tokens, mask, pool)


def latent_shift(
    base: ArrayLike, tuned: ArrayLike, mode: Mode = "robust", draws: int = 1000
) -> LatentShift:
    """`LatentShift` from features [L, N, D] of the same N texts, `layer_features`.

    A layer where the base's features do not vary has no direction: it counts as no
    shift in paper_code, and robust leaves it out. Raises ValueError for features that
    do not fit, fewer than 3 texts, and no layer that varies.
    """
    base, tuned = np.asarray(base, float), np.asarray(tuned, float)
    if base.shape != tuned.shape or base.ndim != 3 or base.shape[1] < 3:
        raise ValueError(
            f"latent_shift: features {base.shape} and {tuned.shape}; give two arrays "
            "[layers, texts, width] of the same 3 or more texts"
        )
    found = [principal(x) for x in base]
    spread = np.array([s for _, s in found])
    if not (spread > 0).any():
        raise ValueError("latent_shift: the base's features are the same for all texts")
    before, after = (
        np.stack([x @ d.T for x, (d, _) in zip(both, found, strict=True)])
        for both in (base, tuned)
    )
    moved = after - before  # [L N 2]
    kept = spread > 0
    if mode == "robust":
        moved = moved[kept] / spread[kept, None, None]
    rng = np.random.default_rng(0)
    weights = rng.multinomial(
        base.shape[1], np.full(base.shape[1], 1 / base.shape[1]), draws
    )
    drawn = np.einsum("bn,lnk->blk", weights / base.shape[1], moved)
    low, high = np.percentile(_distance(drawn, mode), [2.5, 97.5])
    distance = float(_distance(moved.mean(1), mode))
    middle = before.mean(1), after.mean(1)
    start = np.array([1.0, 0.0]) * middle[0]
    return LatentShift(
        Interval(distance, float(low), float(high)),
        moved.mean(1),
        middle[0] - start,
        middle[1] - start,
        np.array([linear_cka(a, b) for a, b in zip(base, tuned, strict=True)]),
    )


def _distance(layers: np.ndarray, mode: Mode) -> np.ndarray:
    """d [...] of (D_1, D_2) [... L 2]."""
    if mode == "paper_code":
        return np.linalg.norm(layers.mean(-2), axis=-1)
    return np.linalg.norm(layers, axis=-1).mean(-1)


def principal(features: ArrayLike) -> tuple[np.ndarray, float]:
    """(directions [2 D], standard deviation along the first) of features [N D].

    Directions of the centred features, signed as scikit-learn's PCA (1.5 on): the
    largest loading is positive. The deviation has N - 1 below. Zeros where nothing
    varies.
    """
    x = np.asarray(features, float)
    centred = x - x.mean(0)
    if np.abs(centred).max() <= 1e-12 * max(np.abs(x).max(), 1e-300):
        return np.zeros((2, x.shape[1])), 0.0
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    directions = np.pad(directions, ((0, max(0, 2 - len(directions))), (0, 0)))[:2]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], 1)
    return directions * np.where(largest < 0, -1.0, 1.0), float(
        values[0] / np.sqrt(len(x) - 1)
    )


def linear_cka(one: ArrayLike, other: ArrayLike) -> float:
    """||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of centred features [N D], [N E], in 0 ... 1.

    1 for features that are a turned and scaled copy; NaN where one does not vary.
    Source: 1905.00414.
    """
    x, y = (np.asarray(a, float) for a in (one, other))
    x, y = x - x.mean(0), y - y.mean(0)
    if len(x) != len(y):
        raise ValueError(f"linear_cka: {len(x)} and {len(y)} texts; give the same ones")
    k, m = x @ x.T, y @ y.T  # Gram matrices: ||Y'X||^2 = sum K * M
    scale = np.linalg.norm(k) * np.linalg.norm(m)
    return float((k * m).sum() / scale) if scale > 0 else float("nan")
