"""Where a number could go wrong silently: own parts, extremes, shapes, data."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from preset_examples import streams_and_batch

import unipost
from unipost import Batch, Objective, Penalty, presets
from unipost.classical import Chi2KL, Jeffreys, NeymanChi2, PearsonChi2, ReverseKL
from unipost.links import Clipped
from unipost.parametric import Alpha, SkewJensenShannon
from unipost.penalties import exact_divergence
from unipost.signals import Mean


@unipost.part
class OwnAlpha(unipost.Divergence):
    """The alpha family by f and f' alone, with a numeric leaf."""

    a: float

    def f(self, log_u):
        a = self.a
        return (jnp.exp((1 - a) * log_u) - (1 - a) * jnp.exp(log_u) - a) / (a * (a - 1))

    def f_prime(self, log_u):
        return -jnp.expm1(-self.a * log_u) / self.a


@unipost.part
class OwnVariation(unipost.Divergence):
    """Total variation by f and f' alone: a kink at u = 1."""

    def f(self, log_u):
        return 0.5 * jnp.abs(jnp.expm1(log_u))

    def f_prime(self, log_u):
        return 0.5 * jnp.sign(log_u)


@pytest.mark.parametrize("make", [presets.f_sft, presets.f_dpo])
def test_a_parameter_of_ones_own_may_be_traced_and_swept(make):
    name = "f_sft" if make is presets.f_sft else "f_dpo"
    streams, batch = streams_and_batch(name)
    run = jax.jit(lambda objective: objective(streams, batch)[0])
    own = [float(run(make(OwnAlpha(a)))) for a in (0.3, 0.6)]
    built_in = [float(run(make(Alpha(a)))) for a in (0.3, 0.6)]
    np.testing.assert_allclose(own, built_in, rtol=1e-7)
    swept = jax.vmap(lambda a: run(make(OwnAlpha(a))))(jnp.array([0.3, 0.6]))
    np.testing.assert_allclose(swept, built_in, rtol=1e-7)


def test_limits_read_off_f_prime():
    """Growth like log u or faster is infinite; a slow power law is not."""
    assert OwnAlpha(0.3).slope_at_zero == -np.inf
    assert np.isfinite(float(OwnAlpha(-0.01).slope_at_zero))
    with pytest.raises(ValueError, match="finite f'"):
        presets.f_dpo(OwnAlpha(-0.01))


def test_a_kink_of_ones_own_has_no_curvature():
    assert OwnVariation().curvature is None
    with pytest.raises(ValueError, match="has no curvature"):
        unipost.unit_curvature(OwnVariation())
    with pytest.raises(ValueError, match="as a score has f' constant"):
        Objective(OwnVariation(), anchor="old", signal=Mean())
    with pytest.raises(ValueError, match="give the methods conjugate"):
        OwnVariation().phi(0.1)


@pytest.mark.parametrize("divergence", [Chi2KL(), unipost.unit_curvature(Jeffreys())])
def test_adjoints_of_unbounded_slopes(divergence):
    swapped = unipost.adjoint(divergence)
    assert float(swapped.slope_at_zero) == -np.inf
    u = np.exp(np.linspace(-15, 15, 200_001))
    best = np.max(0.1 * u - np.array(swapped.f(jnp.log(u))))
    assert float(swapped.conjugate(0.1)) == pytest.approx(best, abs=1e-7)
    streams, batch = streams_and_batch("f_sft")
    assert np.isfinite(float(presets.f_sft(swapped)(streams, batch)[0]))


RATIO = {"divergence": unipost.unit_curvature(PearsonChi2()), "anchor": "old"}


def test_a_ratio_is_clamped_by_default_and_its_gradient_is_finite():
    objective = Objective(**RATIO, link=Clipped(), signal=Mean())
    assert objective.bound == 20.0
    assert Objective(penalty=Penalty(0.1)).bound == 20.0
    assert Objective().bound is None and presets.dpo().bound is None
    logps = jnp.array([[[0.0, -1.0], [-1.0, -2.0]]], jnp.float32)
    old = jnp.array([[[-120.0, -1.0], [-1.0, -2.0]]], jnp.float32)
    batch = Batch(mask=jnp.ones((1, 2, 2)), rewards=jnp.array([[1.0, 0.0]]), old=old)
    grad = jax.grad(lambda x: objective(x, batch)[0])(logps)
    assert np.isfinite(np.array(grad)).all()


def test_the_share_that_a_penalty_clamps_is_reported():
    streams, batch = streams_and_batch("grpo")
    far = replace(batch, reference=batch.reference - 40.0)
    metrics = presets.grpo()(streams, far)[1]
    assert float(metrics["penalty_clamp_share"]) == pytest.approx(1.0)
    assert float(metrics["clamp_share"]) == 0.0


def test_the_kl_in_the_reward_is_not_clamped():
    """30 and 300 nats over a long response are different penalties."""
    streams, batch = streams_and_batch("rloo")
    losses = []
    for distance in (30.0, 300.0):
        shift = jnp.zeros_like(batch.mask, float).at[:, 0, 0].set(distance)
        far = replace(batch, reference=batch.reference - shift)
        losses.append(float(presets.rloo()(streams, far)[0]))
    assert abs(losses[0] - losses[1]) > 1.0


def test_weights_of_empty_rows_and_wrong_shapes():
    streams, batch = streams_and_batch("grpo")
    weight = batch.weight.at[1, 0].set(jnp.nan)  # row (1, 0) is empty
    loss = presets.grpo()(streams, replace(batch, weight=weight))[0]
    assert float(loss) == float(presets.grpo()(streams, batch)[0])
    with pytest.raises(ValueError, match=r"batch.rewards: shape \(6, 1\)"):
        presets.grpo()(streams, replace(batch, rewards=batch.rewards[:, :1]))
    with pytest.raises(ValueError, match=r"streams: shape \(6, 4\)"):
        bad = replace(streams, entropy=streams.entropy[..., 0])
        replace(presets.grpo(), entropy_bonus=0.1)(bad, batch)


def test_tokens_that_the_model_forbids_add_nothing_to_an_exact_penalty():
    p, q = np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.4, 0.2])
    pad = [-np.inf]
    log_p, log_q = (jnp.asarray([*np.log(x), *pad]) for x in (p, q))
    for divergence, want in (
        (ReverseKL(), (p * np.log(p / q)).sum()),
        (NeymanChi2(), ((p - q) ** 2 / p).sum()),
    ):
        assert float(exact_divergence(divergence, log_p, log_q)) == pytest.approx(want)
    dropped = jnp.asarray([*np.log(p / (1 - 0.3))[:2], -np.inf])
    want = (p[:2] / 0.7 * np.log(p[:2] / 0.7 / q[:2])).sum()
    got = exact_divergence(ReverseKL(), dropped, jnp.log(q))
    assert float(got) == pytest.approx(want)


@pytest.mark.parametrize("value", ["0.1", None, np.nan, np.inf])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="^beta: "):
        presets.dpo(beta=value)


def test_a_bound_may_be_infinite():
    streams, batch = streams_and_batch("dapo")
    open_above = presets.dapo(high=np.inf)(streams, batch)
    assert np.isfinite(float(open_above[0]))
    assert float(open_above[1]["clip_share"]) < float(
        presets.dapo(high=1e-6)(streams, batch)[1]["clip_share"]
    )


DATA = {
    "demonstrations": "sft",
    "preferences": "dpo",
    "rewards": "grpo",
    "rewards+demonstrations": "luffy",
}


@pytest.mark.parametrize("gives", DATA)
@pytest.mark.parametrize("wants", DATA)
def test_data_must_be_of_the_kind_the_objective_follows(gives, wants):
    from unipost.data_needs import check_data
    from unipost.sources import Demonstrations

    class Data(Demonstrations):
        gives = property(lambda self: gives)

    data = Data("rows.jsonl", 4, 4, 4)
    arguments = {"luffy": {"max_length": 8.0}}.get(DATA[wants], {})
    objective = unipost.PRESETS[DATA[wants]](**arguments)
    if gives == wants:
        check_data(objective, data)
    else:
        with pytest.raises(ValueError, match="^data: gives"):
            check_data(objective, data)


def test_an_argument_that_an_edit_replaces_is_refused():
    from unipost.choices import REGISTRIES
    from unipost.config import CHOICES, build
    from unipost.tree import ConfigError

    CHOICES.update(REGISTRIES)
    with pytest.raises(ConfigError, match="kl: has no effect beside penalty"):
        build(Objective, {"name": "grpo", "kl": 9.0, "penalty": None})
    with pytest.raises(ConfigError, match="low: has no effect beside link"):
        build(Objective, {"name": "grpo", "low": 0.1, "link": "importance"})
    kept = build(Objective, {"name": "grpo", "low": 0.1, "link": {"high": 0.3}})
    assert kept.link == Clipped(0.1, 0.3)


def test_a_token_that_the_teacher_forbids_costs_a_finite_jsd():
    """w KL(ref || m) + (1 - w) KL(pi || m) with ref = 0 on one token, by hand."""
    policy, teacher = np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.4, 0.0])
    w = 0.3
    m = w * teacher + (1 - w) * policy
    first = (teacher[:2] * np.log(teacher[:2] / m[:2])).sum()
    want = w * first + (1 - w) * (policy * np.log(policy / m)).sum()
    divergence = SkewJensenShannon(w)
    logs = [jnp.log(jnp.asarray(x)) for x in (policy, teacher)]
    assert float(exact_divergence(divergence, *logs)) == pytest.approx(want, rel=1e-12)
    grad = jax.grad(lambda x: exact_divergence(divergence, x, logs[1]))(logs[0])
    assert np.isfinite(grad).all()
