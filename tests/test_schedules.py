"""Schedules of the learning rate against optax, by hand, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unipost.choices import REGISTRIES
from unipost.config import CHOICES, build, to_tree
from unipost.optimizers import (
    SCHEDULES,
    SGD,
    AdamW,
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Linear,
    OptaxSchedule,
    Optimizer,
    Polynomial,
    WarmupStableDecay,
)

STEPS, WARMUP = 23, 3
REST = STEPS - WARMUP
ONECYCLE = {"transition_steps": REST, "peak_value": 2.0}


def joined(tail, fall):
    """Constant, then the fall in the last `tail` of the steps."""
    start = REST - int(tail * REST)
    return optax.join_schedules([optax.constant_schedule(1.0), fall], [start])


def from_wave(floor, steps):
    return optax.cosine_decay_schedule(1.0, steps, floor)


CASES = {
    "constant": (Constant(), optax.constant_schedule(1.0)),
    "linear": (Linear(), optax.linear_schedule(1.0, 0.0, REST)),
    "linear-floor": (Linear(0.2), optax.linear_schedule(1.0, 0.2, REST)),
    "cosine": (Cosine(), from_wave(0.0, REST)),
    "cosine-floor": (Cosine(0.1), from_wave(0.1, REST)),
    "polynomial": (Polynomial(2.0), optax.polynomial_schedule(1.0, 0.0, 2.0, REST)),
    "polynomial-floor": (
        Polynomial(0.5, 0.3),
        optax.polynomial_schedule(1.0, 0.3, 0.5, REST),
    ),
    "exponential": (Exponential(0.05), optax.exponential_decay(1.0, REST, 0.05)),
    "wsd": (
        WarmupStableDecay(0.25),
        joined(0.25, optax.linear_schedule(1.0, 0.0, REST // 4)),
    ),
    "wsd-cosine": (
        WarmupStableDecay(0.5, "cosine", 0.1),
        joined(0.5, from_wave(0.1, REST // 2)),
    ),
    "wsd-sqrt": (
        WarmupStableDecay(0.5, "sqrt"),
        joined(0.5, lambda s: 1 - jnp.sqrt(s / (REST // 2))),
    ),
    "optax": (
        OptaxSchedule("cosine_onecycle_schedule", ONECYCLE),
        optax.cosine_onecycle_schedule(**ONECYCLE),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rate_is_that_of_optax(name):
    schedule, oracle = CASES[name]
    optimizer = AdamW(0.5, schedule, WARMUP)
    rate = jax.jit(optimizer.rate)
    got = [float(rate(step, STEPS)) for step in range(STEPS)]
    warm = [0.5 * (step + 1) / (WARMUP + 1) for step in range(WARMUP)]
    np.testing.assert_allclose(got[:WARMUP], warm, rtol=1e-6)
    want = [0.5 * float(oracle(step)) for step in range(REST)]
    np.testing.assert_allclose(got[WARMUP:], want, rtol=2e-5, atol=1e-7)


def test_inverse_sqrt_by_hand():
    optimizer = SGD(2.0, InverseSqrt(4.0), 4)
    got = [float(optimizer.rate(step, 10**6)) for step in (4, 16, 36, 400)]
    # sqrt(warmup / step), as the timescale is the warm-up
    np.testing.assert_allclose(got, [2.0, 1.0, 2 / 3, 0.2], rtol=1e-6)
    short = SGD(2.0, InverseSqrt(1.0))
    assert float(short.rate(3, 10)) == pytest.approx(1.0, rel=1e-6)


def test_a_schedule_ends_where_it_says():
    for schedule, end in (
        (Linear(0.2), 0.2),
        (Cosine(0.1), 0.1),
        (Exponential(0.05), 0.05),
        (WarmupStableDecay(0.3, floor=0.4), 0.4),
    ):
        assert float(SGD(1.0, schedule).rate(9, 9)) == pytest.approx(end, rel=1e-6)


def test_numbers_of_schedules_do_not_compile_again():
    traces = []

    @jax.jit
    def rate(optimizer, step):
        traces.append(1)
        return optimizer.rate(step, 10)

    got = [
        float(rate(SGD(x, Cosine(floor)), 7)) for x, floor in ((1.0, 0.1), (2.0, 0.5))
    ]
    assert len(traces) == 1
    assert got[1] > 2 * got[0]


def test_names_and_parts_are_one():
    assert AdamW(1e-3, "cosine") == AdamW(1e-3, Cosine())
    CHOICES.update(REGISTRIES)
    written = {"name": "adamw", "learning_rate": 1e-3}
    assert build(Optimizer, written) == AdamW(1e-3, Constant())
    assert build(Optimizer, written | {"schedule": "linear"}) == AdamW(1e-3, Linear())
    for name, (schedule, _) in CASES.items():
        tree = to_tree(AdamW(1e-3, schedule), Optimizer)
        assert tree["schedule"]["name"] == name.partition("-")[0]
        assert build(Optimizer, tree) == AdamW(1e-3, schedule)
    seen = {type(schedule) for schedule, _ in CASES.values()} | {InverseSqrt}
    assert seen == {*SCHEDULES.values()}


REFUSED = [
    (
        lambda: AdamW(1e-3, "cosin"),
        "adamw.schedule: unknown 'cosin'; did you mean 'cosine'?",
    ),
    (lambda: SGD(1.0, "exponential"), "sgd.schedule: 'exponential' needs arguments"),
    (lambda: Linear(1.5), "linear.floor: 1.5 is outside [0, 1]"),
    (lambda: Cosine(-0.1), "cosine.floor: -0.1 is outside [0, 1]"),
    (lambda: Polynomial(0.0), "polynomial.power: 0 is not positive"),
    (lambda: Polynomial(1.0, 2.0), "polynomial.floor: 2 is outside [0, 1]"),
    (lambda: Exponential(1.0), "exponential.end: 1 is outside (0, 1)"),
    (lambda: InverseSqrt(0.0), "inverse_sqrt.timescale: 0 is not positive"),
    (lambda: WarmupStableDecay(0.0), "wsd.tail: 0 is outside (0, 1]"),
    (lambda: WarmupStableDecay(floor=2.0), "wsd.floor: 2 is outside [0, 1]"),
    (
        lambda: OptaxSchedule("cosine_decay"),
        "optax.function: unknown 'cosine_decay'; did you mean 'cosine_decay_schedule'?",
    ),
    (
        lambda: OptaxSchedule("linear_schedule", {"init_value": 1.0}),
        "optax.arguments: linear_schedule needs 'end_value'; write it",
    ),
    (
        lambda: OptaxSchedule("constant_schedule", {"valu": 1.0}),
        "optax.arguments.valu: unknown 'valu'; did you mean 'value'?",
    ),
]


@pytest.mark.parametrize("make, message", REFUSED)
def test_refused_schedules(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
