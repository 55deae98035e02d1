"""How hard an objective still pushes on tokens, by their probability after training."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from unipost.batch import Batch
from unipost.experiment import Experiment
from unipost.explain import gradient_coefficient
from unipost.loading import Model, setting_of
from unipost.objective import Objective
from unipost.update import annotate, with_present, with_streams

# probability bins of the gradient-coefficient figure, log-spaced from 0.001 to 1
EDGES = np.logspace(-3, 0, 13)


def coefficients(experiment: Experiment, model: Model, params: Any):
    """Mean gradient coefficient by token probability, after training.

    The first batch of the run's own data under the trained policy: which tokens the
    objective still pushes, and how hard. None where no such number exists.
    """
    policy, objective = model.policy, experiment.objective
    if not isinstance(objective, Objective):
        return None
    setting = setting_of(model, experiment.seed)
    rows, batch = experiment.data.open(setting).batch(0, params)[:2]
    batch = with_streams(objective, policy, rows, batch, params, model.params)
    batch = with_present(policy, objective, params, rows, batch)
    logps = annotate(policy, params, rows).policy
    try:
        values = gradient_coefficient(objective, logps, batch)
    except ValueError:  # the gradient is not one number per token
        return None
    return _binned(logps, values, batch)


def _binned(logps, values, batch: Batch) -> dict[str, list]:
    kept = np.asarray(batch.mask) > 0
    p = np.exp(np.asarray(logps))[kept]
    # a preference or an advantage pushes both ways: its size is what is compared
    size = np.asarray(jnp.abs(values))[kept]
    place = np.clip(np.digitize(p, EDGES) - 1, 0, len(EDGES) - 2)
    count = np.bincount(place, minlength=len(EDGES) - 1)
    total = np.bincount(place, weights=size, minlength=len(EDGES) - 1)
    mean = [float(t / c) if c else None for t, c in zip(total, count, strict=True)]
    centres = np.sqrt(EDGES[1:] * EDGES[:-1])
    return {
        "probability": centres.tolist(),
        "value": mean,
        "count": count.tolist(),
    }
