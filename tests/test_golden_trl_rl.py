"""Loss, gradient and advantages of every recorded TRL case on rewards.

The cases are TRL 1.16's own numbers: GRPO, GMPO, RLOO, advantages, sampler weights.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from trl_rows import advantages_of, computed, ratio_of

FOLDER = Path(__file__).parent / "fixtures" / "cases"


def recorded(family):
    """(hyper, inputs, expected outputs, tolerance) of a family, arrays loaded."""
    data = json.loads((FOLDER / f"{family}.json").read_text())
    arrays = np.load(FOLDER / f"{family}.npz")
    for case in data["cases"]:
        name = case["case"]
        outputs = {
            key: arrays[f"{name}/out/{key}"] if value == "array" else value
            for key, value in case["outputs"].items()
        }
        inputs = {key: arrays[f"{name}/in/{key}"] for key in case["inputs"]}
        tol = case.get("tol") or data["tol"]
        yield pytest.param(case["hyper"], inputs, outputs, tol, id=name)


def cases(*families, having="loss"):
    """The cases of some families that record `having`, with the family's name."""
    return [
        pytest.param(family, *case.values, id=f"{family}-{case.id}")
        for family in families
        for case in recorded(family)
        if having in case.values[2]
    ]


def check_metrics(hyper, inputs, outputs, metrics):
    """The numbers that both report."""
    if outputs.get("metric:kl") is not None:
        found = metrics.get("penalty", metrics.get("1/penalty"))
        np.testing.assert_allclose(found, outputs["metric:kl"], rtol=1e-6, atol=1e-8)
    # per row TRL counts empty rows too; `delta` inside the band hides what it caps
    rows = hyper.get("importance_sampling_level", "sequence") == "sequence"
    counted = not rows or (inputs["mask"].sum(-1) > 0).all()
    hidden = (hyper.get("delta") or np.inf) < 1.0 + hyper["epsilon_high"]
    clip = outputs.get("metric:clip_ratio/region_mean")
    if clip is not None and "clip_share" in metrics and counted and not hidden:
        np.testing.assert_allclose(metrics["clip_share"], clip, rtol=1e-6, atol=1e-8)
    if outputs.get("metric:entropy") is not None and "entropy" in metrics:
        entropy = outputs["metric:entropy"]
        np.testing.assert_allclose(metrics["entropy"], entropy, rtol=1e-6)


@pytest.mark.parametrize(
    "family, hyper, inputs, outputs, tol", cases("grpo", "gmpo", "rloo")
)
def test_recorded_losses(family, hyper, inputs, outputs, tol):
    loss, metrics, grad = computed(family, hyper, inputs)
    np.testing.assert_allclose(loss, outputs["loss"], **tol)
    np.testing.assert_allclose(grad.policy, outputs["grad"], **tol)
    if "grad_entropy" in outputs:
        np.testing.assert_allclose(grad.entropy, outputs["grad_entropy"], **tol)
    check_metrics(hyper, inputs, outputs, metrics)


@pytest.mark.parametrize(
    "family, hyper, inputs, outputs, tol",
    cases("grpo_advantages", "rloo", having="advantages"),
)
def test_recorded_advantages(family, hyper, inputs, outputs, tol):
    found, objective, batch = advantages_of(family, hyper, inputs)
    np.testing.assert_allclose(found, outputs["advantages"], **tol)
    if "metric:kl" in outputs:
        _, metrics = objective(batch.old, batch)
        np.testing.assert_allclose(metrics["penalty"], outputs["metric:kl"], rtol=2e-5)


@pytest.mark.parametrize(
    "family, hyper, inputs, outputs, tol",
    cases("is_correction", having="importance_sampling_ratio"),
)
def test_recorded_sampler_weights(family, hyper, inputs, outputs, tol):
    want = outputs["importance_sampling_ratio"]
    found = ratio_of(hyper, inputs)
    np.testing.assert_allclose(found, np.broadcast_to(want, found.shape), **tol)
