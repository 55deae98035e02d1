"""Bradley-Terry: TRL's numbers, the formula in numpy, its symmetries."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost.reward_model import bradley_terry

FOLDER = Path(__file__).parent / "fixtures" / "cases"
ARRAYS = np.load(FOLDER / "reward_model.npz")
CASES = json.loads((FOLDER / "reward_model.json").read_text())["cases"]
RNG = np.random.default_rng(0)
CHOSEN, REJECTED, MARGIN = 2 * RNG.normal(size=(3, 7))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["case"])
def test_golden(case):
    name = case["case"]
    margin = ARRAYS[f"{name}/in/margin"]
    centering = case["hyper"]["center_rewards_coefficient"]

    def loss(scores):
        chosen, rejected = jnp.split(scores[:, 0], 2)
        return bradley_terry(chosen, rejected, margin, centering)[0]

    value, grad = jax.value_and_grad(loss)(jnp.asarray(ARRAYS[f"{name}/in/scores"]))
    tol = {"rtol": 1e-9, "atol": 1e-11}
    np.testing.assert_allclose(value, case["outputs"]["loss"], **tol)
    np.testing.assert_allclose(grad, ARRAYS[f"{name}/out/grad"], **tol)


@pytest.mark.parametrize("centering", [None, 0.3])
@pytest.mark.parametrize("margin", [None, 0.4, MARGIN])
def test_the_formula_and_its_gradient(margin, centering):
    """log(1 + e^-z), and slopes sigma(z) - 1 through the difference of scores."""
    z = CHOSEN - REJECTED - (0.0 if margin is None else margin)
    total, c = CHOSEN + REJECTED, centering or 0.0
    want = np.mean(np.log1p(np.exp(-z))) + c * np.mean(total**2)
    loss, _ = bradley_terry(CHOSEN, REJECTED, margin, centering)
    assert float(loss) == pytest.approx(want, rel=1e-12)
    grads = jax.grad(lambda a, b: bradley_terry(a, b, margin, centering)[0], (0, 1))(
        jnp.asarray(CHOSEN), jnp.asarray(REJECTED)
    )
    slope = (1 / (1 + np.exp(-z)) - 1) / 7
    centre = 2 * c * total / 7
    np.testing.assert_allclose(grads[0], centre + slope, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(grads[1], centre - slope, rtol=1e-11, atol=1e-14)


def test_gradient_by_central_differences():
    def loss(chosen):
        return bradley_terry(chosen, REJECTED, MARGIN, 0.1)[0]

    step, direction = 1e-6, RNG.normal(size=7)
    difference = loss(CHOSEN + step * direction) - loss(CHOSEN - step * direction)
    slope = np.vdot(jax.grad(loss)(jnp.asarray(CHOSEN)), direction)
    assert float(difference) / (2 * step) == pytest.approx(slope, rel=1e-7)


def test_equal_scores_are_log_two():
    loss, metrics = bradley_terry(CHOSEN, CHOSEN)
    assert float(loss) == pytest.approx(np.log(2), rel=1e-12)
    assert float(metrics["accuracy"]) == 0.0


def test_a_common_shift_is_free_unless_centred():
    plain = bradley_terry(CHOSEN, REJECTED, MARGIN)[0]
    shifted = bradley_terry(CHOSEN + 3, REJECTED + 3, MARGIN)[0]
    assert float(shifted) == pytest.approx(float(plain), rel=1e-12)
    centred = bradley_terry(CHOSEN + 3, REJECTED + 3, MARGIN, 0.1)[0]
    want = plain + 0.1 * np.mean((CHOSEN + REJECTED + 6) ** 2)
    assert float(centred) == pytest.approx(float(want), rel=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_far_scores_stay_finite(dtype):
    far = jnp.array([1e4, -1e4], dtype)
    loss, _ = bradley_terry(far, -far)
    assert loss.dtype == dtype
    assert float(loss) == pytest.approx(1e4, rel=1e-6)


def test_metrics():
    _, metrics = bradley_terry(jnp.array([2.0, 0.0]), jnp.array([1.0, 3.0]), 5.0)
    assert {name: float(value) for name, value in metrics.items()} == {
        "accuracy": 0.5,
        "margin": -1.0,
        "min_reward": 0.0,
        "mean_reward": 1.5,
        "max_reward": 3.0,
    }


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bradley_terry(CHOSEN[:, None], REJECTED), r"chosen: shape \(7, 1\)"),
        (lambda: bradley_terry(CHOSEN[:0], REJECTED[:0]), r"chosen: shape \(0,\)"),
        (lambda: bradley_terry(CHOSEN, REJECTED[:6]), r"rejected: shape \(6,\)"),
        (lambda: bradley_terry(CHOSEN, REJECTED, MARGIN[:6]), r"margin: shape \(6,\)"),
        (lambda: bradley_terry(CHOSEN, REJECTED, None, -1.0), r"centering: -1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
