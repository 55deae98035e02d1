"""What predicts forgetting: distances between two checkpoints, and how well they do.

2509.04259 (RL's Razor) finds that forgetting is a quadratic function of KL(q || p),
base first, on inputs of the new task alone. Its Table 1 compares R^2 of other
distances; here are the same, measured on one pair of checkpoints, and the table over
many pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from unipost.analysis.compare import compare
from unipost.analysis.statistics import Interval, quadratic_r2, relation, spearman
from unipost.analysis.weights import weight_distance
from unipost.policy import Params, Policy
from unipost.update import Rows


class Predictors(NamedTuple):
    """Distances of a tuned model p from its base q, on inputs of the new task.

    forward_kl  KL(q || p) per response, along responses of the base, nats
    reverse_kl  KL(p || q) per response, along responses of the tuned model, nats
    variation   mean total variation per token, along responses of the base
    l1, l2, spectral  norms of the difference of the weights (`weight_distance`)
    activation  mean L2 norm of the difference of the final hidden states per token,
                along responses of the base
    """

    forward_kl: float
    reverse_kl: float
    variation: float
    l1: float
    l2: float
    spectral: float
    activation: float


class Fit(NamedTuple):
    """How well one predictor x says a number y over R checkpoints.

    r2        R^2 of y on 1, x, x^2 by least squares, its interval over runs
    spearman  rank correlation of x and y, its interval over runs
    left_out  R^2 of predictions for a group by the fit to all other groups,
              1 - sum (y - prediction)^2 / sum (y - mean)^2: below 0 where they are
              worse than the mean; NaN with fewer than two groups
    """

    r2: Interval
    spearman: Interval
    left_out: float


def predictors(
    policy: Policy,
    base_params: Params,
    params: Params,
    base_rows: Rows,
    tuned_rows: Rows,
) -> Predictors:
    """`Predictors` of a checkpoint from its base.

    base_rows, tuned_rows  responses [P G ...] to prompts of the new task, drawn at
    temperature 1 from the base and from the tuned model.
    """
    own = compare(policy, base_params, params, tuned_rows)
    before = compare(policy, base_params, params, base_rows)
    moved = weight_distance(base_params, params)
    return Predictors(
        forward_kl=float(before.forward.sum(-1).mean()),
        reverse_kl=float(own.reverse.sum(-1).mean()),
        variation=before.mean(before.variation),
        l1=moved.l1,
        l2=moved.l2,
        spectral=moved.spectral,
        activation=before.mean(before.activation),
    )


def left_out_r2(x: ArrayLike, y: ArrayLike, groups: Sequence) -> float:
    """R^2 of each group's y [R] by the quadratic fit to all other groups (`Fit`)."""
    x, y, names = np.asarray(x, float), np.asarray(y, float), np.asarray(groups)
    total = ((y - y.mean()) ** 2).sum()
    if len(np.unique(names)) < 2 or total == 0:
        return float("nan")
    guess = np.empty_like(y)
    for name in np.unique(names):
        own = names == name
        guess[own] = _predicted(x[~own], y[~own], x[own])
    return float(1.0 - ((y - guess) ** 2).sum() / total)


def predictor_table(
    distances: Mapping[str, ArrayLike],
    forgetting: ArrayLike,
    groups: Sequence,
    runs: Sequence | None = None,
    n_boot: int = 2000,
) -> dict[str, Fit]:
    """{predictor: Fit} over R checkpoints, the best R^2 first.

    distances   {predictor: values [R]}
    forgetting  [R], for instance base minus tuned accuracy on other tasks, in points
    groups      [R] the method of each checkpoint: what `left_out` leaves out
    runs        [R] the run of each checkpoint: drawn whole in intervals; None: each
                is a run of its own

    A quadratic has three numbers, which flatters R^2 of a few runs: compare `left_out`.
    Raises ValueError for lengths that differ, fewer than 4 checkpoints and values that
    are not finite.
    """
    y = np.asarray(forgetting, float)
    arrays = {name: np.asarray(x, float) for name, x in distances.items()}
    for name, x in {"forgetting": y, **arrays}.items():
        if x.shape != (len(groups),) or len(groups) < 4:
            raise ValueError(
                f"predictor_table: {name} is {x.shape} for {len(groups)} groups; give "
                "one number for each of 4 or more checkpoints"
            )
        if not np.isfinite(x).all():
            raise ValueError(f"predictor_table: {name} has values that are not finite")
    whole = np.arange(len(y)) if runs is None else np.asarray(runs)
    found = {
        name: Fit(
            relation(quadratic_r2, x, y, whole, n_boot),
            relation(spearman, x, y, whole, n_boot),
            left_out_r2(x, y, groups),
        )
        for name, x in arrays.items()
    }
    return dict(sorted(found.items(), key=lambda item: -_known(item[1].r2.mean)))


def _predicted(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The least-squares quadratic of y in x, at other x; of least norm if x repeats."""
    # in units of the spread: x may be 1e-6 or 1e6
    centre, scale = x.mean(), x.std() or 1.0
    of, to = ((v - centre) / scale for v in (x, at))
    weights = np.linalg.lstsq(np.vander(of, 3), y, rcond=None)[0]
    return np.vander(to, 3) @ weights


def _known(value: float) -> float:
    return -np.inf if np.isnan(value) else value
