"""What holds for verl's objectives beyond their numbers: cuts, refusals, layout."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost import Batch, verl
from unipost.corrections import Confidence, GivenWeight
from unipost.objective import Objective, at_present
from unipost.verl.advantages import DEFAULTS as ADVANTAGE_DEFAULTS
from unipost.verl.advantages import ESTIMATORS
from unipost.verl.corrections import RowGeometricMean
from unipost.verl.losses import DEFAULTS, MODES

SHAPE = (4, 3, 8)
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
NEEDED = {"dro": {"dro_beta": 0.1}}
REJECTION = {"rollout_rs": "token_k1", "rollout_rs_threshold": "0.7_1.4"}


def problem(seed=0):
    """Log-probs [P, G, T] and a batch with every array that a mode reads."""
    rng = np.random.default_rng(seed)
    mask = (rng.random(SHAPE) < 0.8).astype(float)
    mask[0, 1] = 0.0
    old = -np.abs(rng.normal(1.0, 0.5, SHAPE))
    policy = np.minimum(old + 0.4 * rng.normal(size=SHAPE), -1e-3)
    batch = Batch(
        mask=mask,
        old=old,
        rewards=rng.normal(size=SHAPE[:2]),
        advantage=rng.normal(size=SHAPE),
        importance=np.exp(0.2 * rng.normal(size=SHAPE)),
        old_collision=-np.abs(rng.normal(size=SHAPE)),
        values=rng.normal(size=SHAPE),
        baseline=rng.normal(size=SHAPE[:2]),
    )
    return jnp.asarray(policy), jax.tree.map(jnp.asarray, batch)


def examples():
    """One objective per mode, and those whose statistics span the logical batch."""
    made = {mode: verl.policy_loss(mode, **NEEDED.get(mode, {})) for mode in MODES}
    made["geo_mean"] = verl.policy_loss("geo_mean", corrections=(GivenWeight(),))
    made["clip_cov"] = verl.policy_loss(
        "clip_cov", clip_cov_ratio=0.2, clip_cov_lb=0.05, clip_cov_ub=9.0
    )
    made["kl_cov"] = verl.policy_loss("kl_cov", kl_cov_ratio=0.2)
    weights = {"rollout_is": "sequence", "rollout_is_batch_normalize": True}
    rule = verl.rollout_correction("reinforce", **weights, **REJECTION)
    made["bypass_mode"] = verl.policy_loss("bypass_mode", rollout_correction=rule)
    for name in ("reinforce_plus_plus_baseline", "gdpo", "gpg"):
        made[name] = verl.policy_loss("vanilla", signal=verl.advantage(name))
    return made


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_cuts_along_prompts_add_up(name):
    """Losses, gradients and metrics of the pieces sum to those of the whole."""
    objective, (policy, batch) = EXAMPLES[name], problem()
    prepared = objective.prepare(at_present(objective, policy, batch))
    step = jax.value_and_grad(objective.loss, has_aux=True)
    (whole, numbers), grad = step(policy, prepared)
    np.testing.assert_allclose(objective(policy, batch)[0], whole, **CLOSE)
    pieces = []
    for rows in (slice(0, 1), slice(1, 4)):
        cut = jax.tree.map(lambda x, rows=rows: x[rows], prepared)
        pieces.append(step(policy[rows], cut))
    loss = sum(piece[0][0] for piece in pieces)
    np.testing.assert_allclose(loss, whole, **CLOSE)
    np.testing.assert_allclose(np.concatenate([p[1] for p in pieces]), grad, **CLOSE)
    for key, value in numbers.items():
        total = sum(piece[0][1][key] for piece in pieces)
        np.testing.assert_allclose(total, value, **CLOSE)


@pytest.mark.parametrize("name", ["vanilla", "cispo", "clip_cov", "dro", "bypass_mode"])
def test_objectives_are_arguments_of_a_jitted_function(name):
    objective, (policy, batch) = EXAMPLES[name], problem(1)
    step = jax.jit(lambda objective, *data: objective(*data)[0])
    np.testing.assert_allclose(
        step(objective, policy, batch), objective(policy, batch)[0], **CLOSE
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_empty_batch_has_loss_and_gradient_zero(name):
    policy, batch = problem(2)
    batch = dataclasses.replace(batch, mask=jnp.zeros(SHAPE))
    step = jax.value_and_grad(EXAMPLES[name], has_aux=True)
    (loss, _), grad = step(policy, batch)
    assert float(loss) == 0.0
    assert np.all(np.array(grad) == 0.0)


OTHER = {
    "clip_low": 0.1,
    "clip_high": 0.3,
    "clip_c": 2.0,
    "tau_pos": 2.0,
    "tau_neg": 2.0,
    "dro_beta": 0.2,
    "clip_cov_ratio": 0.5,
    "clip_cov_lb": 0.05,
    "clip_cov_ub": 0.3,
    "dropped": (np.arange(96) % 3 == 0).reshape(SHAPE),
    "kl_cov_ratio": 0.5,
    "ppo_kl_coef": 0.7,
    "rollout_correction": verl.rollout_correction(**REJECTION),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_option_changes_the_loss_or_is_refused_by_name(mode):
    """Given at its default it is accepted either way."""
    policy, batch = problem(3)
    policy = policy.at[0, 0].add(3.0)  # beyond every band
    assert set(OTHER) == set(DEFAULTS)
    base = dict(NEEDED.get(mode, {}))
    if mode == "clip_cov":
        base = {"clip_cov_ratio": 0.1, "clip_cov_lb": 0.01, "clip_cov_ub": 9.0}
    if mode == "dppo_kl":
        base = {"clip_low": 0.01, "clip_high": 0.01}
    before = float(verl.policy_loss(mode, **base)(policy, batch)[0])
    for name, value in OTHER.items():
        if name in inspect.signature(MODES[mode]).parameters:
            changed = verl.policy_loss(mode, **(base | {name: value}))
            assert float(changed(policy, batch)[0]) != before, name
        else:
            verl.policy_loss(mode, **(base | {name: DEFAULTS[name]}))
            with pytest.raises(ValueError, match=rf"{name}: mode {mode} does not read"):
                verl.policy_loss(mode, **(base | {name: value}))


REINFORCE = verl.rollout_correction("reinforce")
REFUSED = {
    "mode: 'ppo'; write vanilla": {"mode": "ppo"},
    "agg: 'mean'; write one of": {"agg": "mean"},
    "loss_scale_factor: agg token-mean": {"loss_scale_factor": 4.0},
    "agg: token-sum with mode sapo": {"mode": "sapo", "agg": "token-sum"},
    "agg: token-mean with mode sapo and a penalty": {
        "mode": "sapo",
        "penalty": verl.kl_penalty(),
    },
    "agg: token-sum with mode geo_mean": {"mode": "geo_mean", "agg": "token-sum"},
    "penalty: with mode geo_mean": {"mode": "geo_mean", "penalty": verl.kl_penalty()},
    "dro_beta: missing": {"mode": "dro"},
    "clipped.dual: 1 is not above 1": {"clip_c": 1.0},
    "corrections: mode bypass_mode": {
        "mode": "bypass_mode",
        "corrections": (GivenWeight(),),
    },
    "signal: Outcome would be computed": {
        "mode": "bypass_mode",
        "signal": verl.advantage("grpo"),
        "rollout_correction": OTHER["rollout_correction"],
    },
    "clip_c: loss_type reinforce": {
        "mode": "bypass_mode",
        "clip_c": 2.0,
        "rollout_correction": REINFORCE,
    },
    "share: 0 is outside": {"mode": "kl_cov", "kl_cov_ratio": 0.0},
    "lower: 6 is not below upper": {"mode": "clip_cov", "clip_cov_lb": 6.0},
    "weight: Confidence is computed": {
        "mode": "geo_mean",
        "corrections": (Confidence(),),
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_policy_losses(message):
    with pytest.raises(ValueError, match=message):
        verl.policy_loss(**REFUSED[message])


ROLLOUT_REFUSED = {
    "rollout_is: 'token' with loss_type ppo_clip": {"rollout_is": "token"},
    "rollout_is_threshold: 3.0 with no": {"rollout_is_threshold": 3.0},
    "rollout_is_batch_normalize: True": {"rollout_is_batch_normalize": True},
    "rollout_is_threshold: '2_1'; write": {
        "loss_type": "reinforce",
        "rollout_is": "token",
        "rollout_is_threshold": "2_1",
    },
    "together": {"rollout_rs": "token_k1"},
    "rollout_rs: 'seq_max_k1'; write": {
        "rollout_rs": "seq_max_k1",
        "rollout_rs_threshold": 1,
    },
    "'0.5_2' for token_k2; write an upper": {
        "rollout_rs": "token_k2",
        "rollout_rs_threshold": "0.5_2",
    },
    "with 1 options": {"rollout_rs": "token_k2", "rollout_rs_threshold": "1,2"},
}


@pytest.mark.parametrize("message", ROLLOUT_REFUSED)
def test_refused_rollout_corrections(message):
    with pytest.raises(ValueError, match=message):
        verl.rollout_correction(**ROLLOUT_REFUSED[message])


def test_refused_names_of_penalties():
    with pytest.raises(ValueError, match="estimator: 'full'; write one of k1"):
        verl.kl_penalty("full")
    assert verl.kl_penalty("mse+", 0.5) == verl.kl_penalty("k2", 0.5)


OTHER_ADVANTAGE = {
    "gamma": 0.9,
    "lam": 0.8,
    "eps": 0.5,
    "norm_adv_by_std_in_grpo": False,
    "gdpo_reward_weights": (2.0, 1.0),
    "f_norm": 3.0,
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_option_changes_the_advantage_or_is_refused_by_name(name):
    _, batch = problem(4)
    rng = np.random.default_rng(4)
    batch = dataclasses.replace(
        batch,
        rewards=jnp.asarray(rng.normal(size=SHAPE)),
        components=jnp.asarray(rng.normal(size=(*SHAPE[:2], 2))),
    )
    assert set(OTHER_ADVANTAGE) == set(ADVANTAGE_DEFAULTS)

    def computed(**options):
        signal = verl.advantage(name, **options)
        return np.array(Objective(signal=signal).advantage(batch))

    before = computed()
    for option, value in OTHER_ADVANTAGE.items():
        if option in inspect.signature(ESTIMATORS[name]).parameters:
            assert not np.allclose(computed(**{option: value}), before), option
        else:
            with pytest.raises(ValueError, match=f"{option}: estimator {name} does"):
                verl.advantage(name, **{option: value})


@pytest.mark.parametrize("name", ESTIMATORS)
def test_padding_of_groups_changes_nothing(name):
    """An empty row with a NaN reward is not there, whichever statistic is taken."""
    _, batch = problem(5)
    batch = dataclasses.replace(batch, mask=batch.mask.at[0, 1, :3].set(1.0))
    fill = {"rewards": jnp.nan}

    def padded(field, x):
        if x is None:
            return None
        width = ((0, 0), (0, 2), *((0, 0),) * (x.ndim - 2))
        return jnp.pad(x, width, constant_values=fill.get(field, 0.0))

    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    larger = Batch(**{k: padded(k, x) for k, x in fields.items()})
    objective = Objective(signal=verl.advantage(name))
    got = np.array(objective.advantage(larger))
    np.testing.assert_allclose(got[:, :3], objective.advantage(batch), **CLOSE)
    assert np.all(got[:, 3:] == 0.0)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="estimator: 'vtrace'; write gae, grpo"):
        verl.advantage("vtrace")


def test_gdpo_needs_one_weight_per_component():
    _, batch = problem(6)
    batch = dataclasses.replace(batch, components=jnp.ones((*SHAPE[:2], 3)))
    signal = verl.advantage("gdpo", gdpo_reward_weights=(1.0,))
    with pytest.raises(ValueError, match="1 weights and 3 components"):
        Objective(signal=signal).advantage(batch)


def test_rows_in_groups_and_back():
    ids = np.array(["b", "a", "b", "c", "b", "a"])
    rows = np.arange(12.0).reshape(6, 2)
    got = verl.group_rows(rows, ids, jnp.nan)
    assert got.shape == (3, 3, 2)
    np.testing.assert_array_equal(got[0], rows[[0, 2, 4]])
    np.testing.assert_array_equal(got[1, :2], rows[[1, 5]])
    assert np.isnan(got[1, 2:]).all() and np.isnan(got[2, 1:]).all()
    np.testing.assert_array_equal(verl.ungroup_rows(got, ids), rows)
    assert verl.group_rows(np.ones(6, bool), ids).dtype == bool
    with pytest.raises(ValueError, match="5 ids for 6 rows"):
        verl.group_rows(rows, ids[:5])
    with pytest.raises(ValueError, match=r"shape \(3, 2\); group_ids say \(3, 3\)"):
        verl.ungroup_rows(got[:, :2, 0], ids)


def test_the_padded_width_is_a_length():
    """seq-mean-token-sum-norm: padding changes the loss unless a length is given."""
    mask = jnp.ones((2, 1, 4))
    wider = jnp.pad(mask, ((0, 0), (0, 0), (0, 4)))
    norm, fixed = (verl.aggregation("seq-mean-token-sum-norm", x) for x in (None, 4.0))
    np.testing.assert_allclose(norm.weights(mask), fixed.weights(mask))
    np.testing.assert_allclose(2 * norm.weights(wider).sum(), norm.weights(mask).sum())
    np.testing.assert_allclose(fixed.weights(wider).sum(), fixed.weights(mask).sum())


def test_geometric_weight_of_equal_weights_is_their_value():
    _, batch = problem(7)
    batch = dataclasses.replace(batch, importance=jnp.full(SHAPE[:2], 0.3))
    got = np.array(RowGeometricMean()(batch, batch.advantage, None))
    full = np.array(batch.mask.sum(-1)) > 0
    np.testing.assert_allclose(got[full], 0.3, rtol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_but_gpg_needs_the_old_log_probs(mode):
    objective = verl.policy_loss(mode, **NEEDED.get(mode, {}))
    policy, batch = problem(8)
    batch = dataclasses.replace(batch, old=None)
    if mode == "gpg":
        assert objective.needs == {"policy", "advantage"}
        return
    assert "old" in objective.needs
    with pytest.raises(ValueError, match="batch.old: missing; the objective needs it"):
        objective(policy, batch)


def test_gspo_stops_where_the_mean_log_ratio_is_ten():
    """Upwards alone: no gradient beyond, and the loss is that at ten."""
    mask, signal = jnp.ones((1, 1, 2)), -jnp.ones((1, 1, 2))
    objective = verl.policy_loss("gspo")
    step = jax.value_and_grad(lambda old, policy: objective(policy, at(old))[0], 1)

    def at(old):
        return Batch(mask=mask, old=old, advantage=signal)

    for drift, want in ((9.0, 9.0), (10.5, 10.0)):
        policy = jnp.full((1, 1, 2), -1.0)
        loss, grad = step(policy - drift, policy)
        np.testing.assert_allclose(loss, np.exp(want), rtol=1e-12)
        slope = np.exp(9.0) / 2 if drift == 9.0 else 0.0
        np.testing.assert_allclose(grad[0, 0], slope, rtol=1e-12)


def test_the_ball_of_dppo_kl_is_smoothed_near_certainty():
    """q = 1/2, p = 1 - 1e-12: 8.5 with 1e-8 in the logarithm, 12.8 without."""
    policy, old = jnp.full((1, 1, 1), -1e-12), jnp.full((1, 1, 1), np.log(0.5))
    batch = Batch(mask=jnp.ones((1, 1, 1)), old=old, advantage=jnp.ones((1, 1)))
    for high, kept in ((8.0, False), (9.0, True)):
        objective = verl.policy_loss("dppo_kl", clip_high=high)
        grad = jax.grad(objective, has_aux=True)(policy, batch)[0]
        assert bool(grad.sum() != 0.0) == kept


@pytest.mark.parametrize("estimator, slope", [("k3", 0.0), ("k3+", -1000.0)])
def test_k3_far_out_is_finite(estimator, slope):
    """Without the clamp on the log-ratio the gradient would be 0 * inf."""

    def value(policy):
        return verl.kl_values(policy, jnp.zeros(1), jnp.ones(1), estimator).sum()

    got = jax.value_and_grad(value)(jnp.array([-1000.0]))
    np.testing.assert_allclose(got[0], 10.0)
    np.testing.assert_allclose(got[1], slope)
