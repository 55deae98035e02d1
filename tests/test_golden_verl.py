"""verl's numbers by its own option names: recorded cases, oracles on random data."""

import inspect
import json
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import oracle_verl
import oracle_verl_advantages
import pytest

from unipost import Batch, verl
from unipost.corrections import GivenWeight
from unipost.objective import Objective
from unipost.signals import Ones
from unipost.verl.advantages import ESTIMATORS
from unipost.verl.aggregations import Agg
from unipost.verl.corrections import CovarianceDrop
from unipost.verl.losses import MODES

FOLDER = Path(__file__).parent / "fixtures" / "cases"
AGGS = get_args(Agg)


def family(name):
    """[case, inputs, outputs] with arrays in place, and the family's tolerance."""
    record = json.loads((FOLDER / f"{name}.json").read_text())
    arrays, cases = np.load(FOLDER / f"{name}.npz"), []
    for case in record["cases"]:
        prefix = case["case"]
        inputs = {k: arrays[f"{prefix}/in/{k}"] for k in case["inputs"]}
        outputs = {
            k: arrays[f"{prefix}/out/{k}"] if v == "array" else v
            for k, v in case["outputs"].items()
        }
        cases.append(pytest.param(case["hyper"], inputs, outputs, id=prefix))
    return cases, record["tol"]


POLICY, POLICY_TOL = family("verl_policy")
ADVANTAGES, ADVANTAGES_TOL = family("verl_advantages")
KL, KL_TOL = family("verl_kl")
CRITIC, CRITIC_TOL = family("verl_gae")
GAE = [case for case in CRITIC if "gamma" in case.values[0]]
VALUE = [case for case in CRITIC if "agg" in case.values[0]]


def value_and_grad(options, inputs):
    """Loss, gradient and metrics of arrays [B, T], as B prompts with one response."""
    weighted = (GivenWeight(),) if "is_weights" in inputs else ()
    objective = verl.policy_loss(**options, corrections=weighted)
    arrays = {k: jnp.asarray(v)[:, None] for k, v in inputs.items()}
    batch = Batch(
        mask=arrays["mask"],
        old=arrays["old_logps"],
        advantage=arrays["advantages"],
        importance=arrays.get("is_weights"),
    )
    step = jax.value_and_grad(objective, has_aux=True)
    (loss, metrics), grad = step(arrays["policy_logps"], batch)
    return loss, grad[:, 0], metrics


def only_read(hyper):
    """The recorded options without those that the mode ignores."""
    reads = {"mode", "agg", *inspect.signature(MODES[hyper["mode"]]).parameters}
    return {k: v for k, v in hyper.items() if k in reads}


@pytest.mark.parametrize("hyper, inputs, want", POLICY)
def test_golden_policy_loss(hyper, inputs, want):
    loss, grad, metrics = value_and_grad(only_read(hyper), inputs)
    np.testing.assert_allclose(loss, want["loss"], **POLICY_TOL)
    np.testing.assert_allclose(grad, want["grad"], **POLICY_TOL)
    if hyper["mode"] == "vanilla":
        for theirs, ours in (("", "clip_share"), ("_lower", "dual_clip_share")):
            recorded = want[f"metric:actor/pg_clipfrac{theirs}"]
            np.testing.assert_allclose(metrics[ours], recorded, **POLICY_TOL)


def grouped(inputs, rewards, order=slice(None)):
    """The group ids and the batch [P, G, ...] of the rows of `inputs` in some order."""
    ids = inputs["group_ids"][order]

    def rows(name, fill=0.0):
        if name in inputs:
            return verl.group_rows(inputs[name][order], ids, fill)

    squares = rows("sum_pi_squared", 1.0)
    return ids, Batch(
        mask=rows("mask"),
        rewards=rows(rewards, jnp.nan),
        baseline=rows("reward_baselines"),
        values=rows("values"),
        old=rows("old_log_probs"),
        old_collision=None if squares is None else jnp.log(squares),
        importance=rows("rollout_is_weights"),
    )


def estimate(options, inputs, rewards="token_level_rewards", order=slice(None)):
    """The advantages [B, T] of verl.advantage(**options) through an objective."""
    ids, batch = grouped(inputs, rewards, order)
    objective = verl.policy_loss("gpg", signal=verl.advantage(**options))
    return verl.ungroup_rows(objective.advantage(batch), ids)


@pytest.mark.parametrize("rewards", ["token_level_rewards", "scores"])
@pytest.mark.parametrize("hyper, inputs, want", ADVANTAGES)
def test_golden_advantages(hyper, inputs, want, rewards):
    """From token rewards or outcomes, with the rows of the groups in any order."""
    order = np.random.default_rng(0).permutation(len(inputs["mask"]))
    got = estimate(hyper, inputs, rewards, order)
    np.testing.assert_allclose(got, want["advantages"][order], **ADVANTAGES_TOL)


@pytest.mark.parametrize("hyper, inputs, want", KL)
def test_golden_kl(hyper, inputs, want):
    policy, reference, mask = map(jnp.asarray, inputs.values())
    kept = inputs["mask"] > 0

    def total(logps):
        values = verl.kl_values(logps, reference, mask, **hyper)
        return values.sum(), values

    (_, values), grad = jax.value_and_grad(total, has_aux=True)(policy)
    np.testing.assert_allclose(values, np.where(kept, want["kl"], 0.0), **KL_TOL)
    np.testing.assert_allclose(grad, want["grad"], **KL_TOL)


@pytest.mark.parametrize("agg", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("hyper, inputs, want", KL)
def test_golden_kl_in_the_loss(hyper, inputs, want, agg):
    """The objective's own clamp must not touch the penalty: the same numbers."""
    policy, reference, mask = (jnp.asarray(x)[:, None] for x in inputs.values())
    penalty = verl.kl_penalty(hyper["estimator"], 0.5)
    frame = {"aggregation": verl.aggregation(agg), "signal": Ones(), "clamp": 3.0}
    batch = Batch(mask=mask, reference=reference, old=reference)
    with_it, without = (
        jax.value_and_grad(Objective(anchor="old", penalty=p, **frame), has_aux=True)(
            policy, batch
        )
        for p in (penalty, None)
    )
    weights = np.array(verl.aggregation(agg).weights(mask))[:, 0]
    cost = 0.5 * (weights * np.where(weights > 0, want["kl"], 0.0)).sum()
    np.testing.assert_allclose(with_it[0][0] - without[0][0], cost, rtol=1e-8)
    grad = np.array(with_it[1] - without[1])[:, 0]
    np.testing.assert_allclose(grad, 0.5 * weights * want["grad"], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("hyper, inputs, want", GAE)
def test_golden_gae(hyper, inputs, want):
    rows = inputs | {"group_ids": np.arange(len(inputs["mask"]))}
    got = estimate({"estimator": "gae", **hyper}, rows, "rewards")
    kept = inputs["mask"] > 0
    np.testing.assert_allclose(got[kept], want["advantages"][kept], **CRITIC_TOL)


@pytest.mark.parametrize("hyper, inputs, want", VALUE)
def test_golden_value_loss(hyper, inputs, want):
    step = jax.value_and_grad(verl.value_loss, has_aux=True)
    (loss, metrics), grad = step(*map(jnp.asarray, inputs.values()), **hyper)
    np.testing.assert_allclose(loss, want["loss"], **CRITIC_TOL)
    np.testing.assert_allclose(grad, want["grad"], **CRITIC_TOL)
    np.testing.assert_allclose(metrics["clip_fraction"], want["clipfrac"], **CRITIC_TOL)


def problem(seed, spread, rows=6, width=7):
    """Rows [B, T]: holes, an empty row, zero advantages, garbage off the mask."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((rows, width)) < 0.8).astype(float)
    mask[0], mask[1] = 1.0, 0.0
    old = -np.abs(rng.normal(1.0, 0.8, mask.shape))
    advantages = rng.normal(0.0, 1.5, mask.shape)
    advantages[2], advantages[3, :2] = advantages[2, 0], 0.0
    policy = old + spread * rng.normal(size=mask.shape)
    if spread < 10:  # a probability
        policy = np.minimum(policy, -1e-3)
    weights = np.exp(0.3 * rng.normal(size=mask.shape))
    return {
        "policy_logps": policy,
        "old_logps": old,
        "advantages": advantages,
        "mask": mask,
    }, weights


def check_against_oracle(options, inputs, oracle_options=None):
    given = dict(inputs)
    policy, hyper = given.pop("policy_logps"), oracle_options or options

    def loss_of(logps, fixed):
        return oracle_verl.policy_loss(logps, **given, fixed=fixed, **hyper)[0]

    with np.errstate(all="ignore"):
        want = loss_of(policy, None)
        slope = oracle_verl.gradient(lambda x: loss_of(x, policy), policy)
    loss, grad, _ = value_and_grad(options, inputs)
    np.testing.assert_allclose(loss, want, **POLICY_TOL)
    np.testing.assert_allclose(grad, slope, **POLICY_TOL)


CLIPS = {"clip_low": 0.1, "clip_high": 0.28}
OPTIONS = {
    "vanilla": {**CLIPS, "clip_c": 1.3},
    "gspo": CLIPS,
    "sapo": {"tau_pos": 2.0, "tau_neg": 3.0},
    "cispo": {"clip_low": 1.0, "clip_high": 0.5},
    "gpg": {},
    "clip_cov": CLIPS | {"clip_cov_ratio": 1.0, "clip_cov_lb": 0.2, "clip_cov_ub": 1.5},
    "kl_cov": {"kl_cov_ratio": 0.2, "ppo_kl_coef": 0.7},
    "geo_mean": CLIPS,
    "dro": {"dro_beta": 0.3},
    "dppo_tv": {**CLIPS, "clip_c": 1.3},
    "dppo_kl": {"clip_low": 0.02, "clip_high": 0.05, "clip_c": 1.3},
}
UNCLAMPED = ("clip_cov", "kl_cov", "geo_mean")  # verl overflows there


@pytest.mark.parametrize("spread", [0.05, 1.0, 25.0])
@pytest.mark.parametrize("mode", OPTIONS)
def test_every_mode_against_the_oracle(mode, spread):
    if mode in UNCLAMPED:
        spread = min(spread, 2.0)
    seed = list(OPTIONS).index(mode)
    inputs, weights = problem(seed, spread)
    agg = AGGS[seed % 5] if mode not in ("sapo", "geo_mean") else "token-mean"
    options = {"mode": mode, "agg": agg, **OPTIONS[mode]}
    check_against_oracle(options, inputs)
    check_against_oracle(options, inputs | {"is_weights": weights})


@pytest.mark.parametrize("agg", AGGS)
def test_every_aggregation_with_kl_cov_and_cispo(agg):
    inputs, _ = problem(20, 0.5)
    check_against_oracle({"mode": "cispo", "agg": agg}, inputs)
    check_against_oracle({"mode": "kl_cov", "agg": agg}, inputs)


def test_loss_scale_factor():
    inputs, _ = problem(21, 0.5)
    norm = {"agg": "seq-mean-token-sum-norm", "loss_scale_factor": 11.0}
    check_against_oracle({"mode": "vanilla", **norm}, inputs)


def drawn(inputs, **options):
    """The tokens [B, T] that CovarianceDrop leaves out."""
    arrays = {k: jnp.asarray(v)[:, None] for k, v in inputs.items()}
    kept, signal = arrays["mask"] > 0, arrays["advantages"]
    current, old = (
        jnp.where(kept, arrays[k], 0.0) for k in ("policy_logps", "old_logps")
    )
    batch = Batch(mask=arrays["mask"], current=current, old=old)
    return np.array(CovarianceDrop(**options)(batch, signal, None))[:, 0] == 0


def test_clip_cov_draws_among_its_candidates():
    """verl's count, from the tokens of the deterministic case; or those given."""
    inputs, _ = problem(3, 0.5, rows=20)
    band = {"lower": 0.1, "upper": 4.0}
    candidates = drawn(inputs, share=1.0, **band)
    some = drawn(inputs, share=0.06, **band)
    count = int(0.06 * inputs["mask"].sum())
    assert candidates.sum() > count == some.sum() > 1
    assert not (some & ~candidates).any()
    moved = {"advantages": 1.01 * inputs["advantages"]}
    again = drawn(inputs | moved, share=0.06, **band)
    assert (again != some).any()

    options = {"mode": "clip_cov", "clip_cov_lb": 0.1, "clip_cov_ub": 4.0}
    share = {**options, "clip_cov_ratio": 0.06}
    check_against_oracle(share, inputs, {**options, "dropped": some})
    random = np.random.default_rng(0).random(some.shape) < 0.3
    explicit = {"mode": "clip_cov", "dropped": jnp.asarray(random)[:, None]}
    check_against_oracle(explicit, inputs, {"mode": "clip_cov", "dropped": random})


REJECTIONS = [
    ("token_k1", "0.5_2.0"),
    ("token_k1", 1.5),
    ("token_k2", 0.3),
    ("token_k3,seq_mean_k1", "0.3,0.5_1.5"),
    ("seq_sum_k1", "0.3_3"),
    ("seq_sum_k2,token_k3", 1.0),
    ("seq_sum_k3", 2.0),
    ("seq_mean_k2", 0.3),
    ("seq_mean_k3", 0.2),
    ("seq_max_k2", 0.5),
    ("seq_max_k3", 0.6),
]


@pytest.mark.parametrize("rejection", REJECTIONS, ids=lambda r: f"{r[0]} {r[1]}")
def test_bypass_mode_rejects_as_the_oracle(rejection):
    inputs, _ = problem(30 + REJECTIONS.index(rejection), 0.5)
    rules = dict(zip(("rollout_rs", "rollout_rs_threshold"), rejection, strict=True))
    base = {"mode": "bypass_mode", "agg": "seq-mean-token-mean"}
    options = base | {"rollout_correction": verl.rollout_correction(**rules)}
    check_against_oracle(options, inputs, base | rules)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("threshold", [1.2, "0.5_2.0"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_bypass_mode_weighs_as_the_oracle(level, threshold, normalize):
    """Weights of the whole row, counts of what a rejection leaves."""
    inputs, _ = problem(40, 0.4)
    rules = {
        "loss_type": "reinforce",
        "rollout_is": level,
        "rollout_is_threshold": threshold,
        "rollout_is_batch_normalize": normalize,
        "rollout_rs": "token_k1",
        "rollout_rs_threshold": "0.6_1.8",
    }
    options = {"mode": "bypass_mode"}
    correction = {"rollout_correction": verl.rollout_correction(**rules)}
    check_against_oracle(options | correction, inputs, options | rules)


SET = {
    "gae": {"gamma": 0.99, "lam": 0.9},
    "grpo": {"eps": 0.01},
    "reinforce_plus_plus": {"gamma": 0.98},
    "gpg": {"f_norm": 2.0},
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_against_the_oracle(estimator, seed):
    """Ragged groups in any order, holes, an empty row, rewards in every column."""
    rng = np.random.default_rng(seed)
    mask = problem(seed, 1.0, rows=10)[0]["mask"]
    ids = [0, 0, 0, 1, 1, 1, 1, 2, 2, 2] if estimator == "grpo_passk" else None
    ids = rng.permutation(ids or [0, 0, 0, 1, 1, 1, 1, 2, 2, 5])
    rewards = rng.normal(size=mask.shape)
    if "optimal" in estimator:
        mask[ids == 1, 5:] = 0.0  # one row of a group is the longest by itself
        mask[np.flatnonzero(ids == 1)[0]] = 1.0
    extra = {
        "values": rng.normal(size=mask.shape),
        "reward_baselines": rng.normal(size=len(mask)),
        "old_log_probs": -np.abs(rng.normal(size=mask.shape)),
        "sum_pi_squared": rng.random(mask.shape),
    }
    if seed == 1:
        extra["rollout_is_weights"] = np.exp(0.3 * rng.normal(size=mask.shape))
    inputs = {"mask": mask, "group_ids": ids, "token_level_rewards": rewards} | extra
    options = {"estimator": estimator, **SET.get(estimator, {})}
    with np.errstate(all="ignore"):
        want = oracle_verl_advantages.advantages(
            **(options | {"token_level_rewards": rewards.copy()}),
            mask=mask,
            group_ids=ids,
            **extra,
        )[0]
    kept, got = mask > 0, np.array(estimate(options, inputs))
    np.testing.assert_allclose(got[kept], want[kept], rtol=1e-9, atol=1e-11)
    assert np.all(got[~kept] == 0.0)


def test_gdpo_with_components():
    rng = np.random.default_rng(2)
    mask, ids = problem(2, 1.0)[0]["mask"], np.array([0, 1, 0, 0, 1, 1])
    parts = rng.normal(size=(2, 6))
    tokens = [np.eye(7)[-1] * part[:, None] for part in parts]
    want = oracle_verl_advantages.gdpo(
        tokens[0], mask, ids, components=tokens, weights=(0.3, 2.0)
    )[0]
    components = verl.group_rows(parts.T, ids, jnp.nan)
    batch = Batch(mask=verl.group_rows(mask, ids), components=components)
    signal = verl.advantage("gdpo", gdpo_reward_weights=(0.3, 2.0))
    got = verl.ungroup_rows(Objective(signal=signal).advantage(batch), ids)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("spread", [0.5, 15.0])
def test_every_kl_against_the_oracle(spread):
    inputs, _ = problem(50, spread, rows=12)
    policy, reference = inputs["policy_logps"], inputs["old_logps"]
    mask = inputs["mask"]
    for name in ("k1", "kl", "abs", "k2", "mse", "k3", "low_var_kl"):
        for estimator in (name, f"{name}+"):

            def total(logps, estimator=estimator):
                return verl.kl_values(logps, reference, mask, estimator).sum()

            def summed(logps, estimator=estimator):
                values = oracle_verl.kl(logps, reference, estimator, policy)
                return (values * mask).sum()

            np.testing.assert_allclose(total(policy), summed(policy), rtol=1e-9)
            want = oracle_verl.gradient(summed, policy)
            np.testing.assert_allclose(jax.grad(total)(policy), want, **KL_TOL)
