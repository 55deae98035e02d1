"""verl's `loss_agg_mode` as aggregations, and the value loss under them."""

from __future__ import annotations

from typing import Literal, get_args

import jax

from unipost import critic
from unipost.aggregation import (
    Aggregation,
    Constant,
    SequenceMean,
    SequenceSum,
    TokenMean,
)
from unipost.parts import Scalar, part

Array = jax.Array
Agg = Literal[
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
]
EPS = 1e-8  # added to the length of a row


@part
class PaddedConstant(Aggregation):
    """Sum over tokens / (rows * T), T the padded width of the batch.

    The same data padded further has a smaller loss; `Constant` takes a length instead.
    """

    def weights(self, mask):
        return Constant(float(mask.shape[-1])).weights(mask)


def aggregation(
    agg: Agg = "token-mean", loss_scale_factor: Scalar | None = None
) -> Aggregation:
    """verl's aggregation by its name. n_i tokens in row i, R rows with a token.

    token-mean               sum / sum n_i
    token-sum                sum
    seq-mean-token-sum       sum / R
    seq-mean-token-mean      sum_i sum_t / (n_i + 1e-8) / R
    seq-mean-token-sum-norm  sum / (R * loss_scale_factor); None: the padded width T

    An empty batch gives 0, where verl's token-mean is 0/0. Raises ValueError for
    another name, and for a loss_scale_factor that the mode does not read.
    """
    if agg not in get_args(Agg):
        raise ValueError(f"verl.agg: {agg!r}; write one of {', '.join(get_args(Agg))}")
    if agg == "seq-mean-token-sum-norm":
        known = loss_scale_factor is not None
        return Constant(loss_scale_factor) if known else PaddedConstant()
    if loss_scale_factor is not None:
        raise ValueError(
            f"verl.loss_scale_factor: agg {agg} does not read it; write agg: "
            "seq-mean-token-sum-norm"
        )
    return {
        "token-mean": TokenMean(),
        "token-sum": Constant(1.0, over="nothing"),
        "seq-mean-token-sum": SequenceSum(),
        "seq-mean-token-mean": SequenceMean(eps=EPS),
    }[agg]


def value_loss(
    values: Array,
    old_values: Array,
    returns: Array,
    mask: Array,
    cliprange_value: Scalar = 0.5,
    agg: Agg = "token-mean",
    loss_scale_factor: Scalar | None = None,
) -> tuple[Array, dict[str, Array]]:
    """agg of 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2), with metrics.

    All arrays [..., T]; c is `cliprange_value`. See `unipost.critic.value_loss`.
    """
    weights = aggregation(agg, loss_scale_factor).weights(mask)
    return critic.value_loss(values, old_values, returns, weights, cliprange_value)
