"""PPO's critic: its targets, its regression, its place in a step, by other means."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import MEAN, rows_and_batch
from tiny_runs import MODEL

from unipost import Batch, presets
from unipost.adapters import LoRA
from unipost.advantages import GAE
from unipost.loading import Model
from unipost.mixture import Mixture
from unipost.model import Compute, init_params, transformer_policy
from unipost.optimizers import SGD, AdamW
from unipost.scalar.critic import Critic, ValueRegression, open_critic, targets
from unipost.scalar.hf import load_classifier
from unipost.scalar.loading import scalar_of
from unipost.update import Rows, loss_and_grad, minibatch, with_packing
from unipost.verl.advantages import COUNT_EPS

FOLDER = Path(__file__).parent / "fixtures" / "cases"
ARRAYS = np.load(FOLDER / "verl_gae.npz")
CASES = json.loads((FOLDER / "verl_gae.json").read_text())["cases"]
GAMMA, LAM, KL = 0.9, 0.8, 0.3
PPO = presets.ppo(kl=KL, gamma=GAMMA, lam=LAM)
OWN = Model(None, MEAN.policy, MEAN.params, None)
PLAIN = Critic(SGD(0.1, clip_norm=None))


def ppo_batch(seed=0):
    """Rows and a batch of eight groups of four, with values, old and reference."""
    rows, batch = rows_and_batch("grpo", seed)
    rng = np.random.default_rng(seed + 1)
    drawn = {
        name: jnp.asarray(rng.normal(size=batch.mask.shape))
        for name in ("old", "reference", "values")
    }
    rewards = rng.normal(size=batch.mask.shape[:2])
    rewards[2, 1] = np.nan
    return rows, dataclasses.replace(batch, rewards=jnp.asarray(rewards), **drawn)


def by_hand(batch):
    """Returns and advantages before whitening, token by token in numpy; NaN: none."""
    mask, values = np.asarray(batch.mask) > 0, np.asarray(batch.values)
    gap = np.asarray(batch.old) - np.asarray(batch.reference)
    returns, advantages = np.full((2, *mask.shape), np.nan)
    for p, g in np.ndindex(mask.shape[:2]):
        places = np.flatnonzero(mask[p, g])
        reward = float(batch.rewards[p, g])
        ahead = advantage = 0.0
        for t in places[::-1]:
            r = -KL * gap[p, g, t] + (reward if t == places[-1] else 0.0)
            advantage = r + GAMMA * ahead - values[p, g, t] + GAMMA * LAM * advantage
            ahead = values[p, g, t]
            advantages[p, g, t] = advantage
            returns[p, g, t] = advantage + ahead
    return returns, advantages


def test_targets_are_the_returns_of_the_objectives_own_advantages():
    _, batch = ppo_batch()
    want, raw = by_hand(batch)
    known = np.isfinite(want)
    returns, numbers = targets(PPO, batch)
    np.testing.assert_allclose(np.asarray(returns)[known], want[known], rtol=1e-6)
    # the unscored row is no target and has no advantage
    assert np.isnan(np.asarray(returns)[2, 1][np.asarray(batch.mask)[2, 1]]).all()
    assert not np.asarray(returns)[np.asarray(batch.mask) == 0].any()
    signal = np.asarray(PPO.advantage(batch))
    whitened = (raw[known] - raw[known].mean()) / np.sqrt(raw[known].var(ddof=1) + 1e-8)
    np.testing.assert_allclose(signal[known], whitened, rtol=1e-5, atol=1e-6)
    assert not signal[~known].any()
    values = np.asarray(batch.values)[known]
    explained = 1 - (want[known] - values).var() / want[known].var()
    assert float(numbers["explained_variance"]) == pytest.approx(explained, rel=1e-6)
    assert float(numbers["value_mean"]) == pytest.approx(values.mean(), rel=1e-6)
    assert float(numbers["return_mean"]) == pytest.approx(want[known].mean(), rel=1e-6)


@pytest.mark.parametrize(
    "case", [c for c in CASES if "gamma" in c["hyper"]], ids=lambda c: c["case"]
)
def test_golden_returns_and_advantages(case):
    """verl's, from the signal of an objective: outcome rewards at the last token."""
    name, hyper = case["case"], case["hyper"]
    given = {k: jnp.asarray(ARRAYS[f"{name}/in/{k}"])[:, None] for k in case["inputs"]}
    signal = GAE(hyper["gamma"], hyper["lam"], COUNT_EPS)
    objective = dataclasses.replace(presets.ppo(kl=None), signal=signal)
    batch = Batch(
        mask=given["mask"],
        rewards=given["rewards"],
        values=given["values"],
        old=jnp.zeros_like(given["mask"]),
    )
    kept = np.asarray(given["mask"])[:, 0] > 0
    tolerance = {"rtol": 1e-6, "atol": 1e-6}
    for key, got in (
        ("returns", targets(objective, batch)[0]),
        ("advantages", objective.advantage(batch)),
    ):
        want = ARRAYS[f"{name}/out/{key}"]
        np.testing.assert_allclose(np.asarray(got)[:, 0][kept], want[kept], **tolerance)


def test_values_of_constant_returns_explain_nothing():
    _, batch = ppo_batch()
    zero = jnp.zeros_like(batch.old)
    flat = dataclasses.replace(
        batch, old=zero, reference=zero, rewards=jnp.zeros_like(batch.rewards)
    )
    flat = dataclasses.replace(flat, values=zero)
    assert float(targets(PPO, flat)[1]["explained_variance"]) == 0.0


@pytest.mark.parametrize(
    "objective, words",
    [
        (presets.grpo(), "0 terms of the objective read values"),
        (Mixture((PPO, PPO), (1.0, 1.0)), "2 terms of the objective read values"),
    ],
)
def test_targets_need_one_term_with_gae(objective, words):
    with pytest.raises(ValueError, match=words):
        targets(objective, ppo_batch()[1])
    with pytest.raises(ValueError, match="ZScore has no critic; write gae"):
        presets.grpo().returns(ppo_batch()[1])


def mean_states(rows):
    """What the mean model reads before each response token, in numpy: [P, G, T, V]."""
    params = {k: np.asarray(v, np.float64) for k, v in MEAN.params.items()}
    prompt, before, response, mask = (np.asarray(x) for x in rows[:4])
    out = np.zeros((*response.shape, params["head"].shape[1]))
    for p, g, t in np.ndindex(response.shape):
        seen = list(prompt[p, g][before[p, g]])
        seen += list(response[p, g, :t][mask[p, g, :t]])
        mean = params["embed"][seen].mean(0)
        out[p, g, t] = np.tanh(mean @ params["hidden"]) @ params["head"]
    return out


def headed(seed=3):
    """A critic on the mean model whose head is random, and its rows and batch."""
    critic = open_critic(PLAIN, OWN)
    kernel = np.random.default_rng(seed).normal(size=(11, 1))
    head = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray([0.7])}
    state = critic.init()
    state = state._replace(params={**state.params, "score": head})
    return critic, state, *ppo_batch()


@pytest.mark.parametrize("microbatches", [1, 4])
def test_values_are_read_where_the_policy_is(microbatches):
    critic, state, rows, batch = headed()
    kernel = np.asarray(state.params["score"]["kernel"])
    want = (mean_states(rows) @ kernel)[..., 0] + 0.7
    want = np.where(np.asarray(batch.mask) > 0, want, 0.0)
    got = critic.values(state, rows, microbatches)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_new_critic_says_zero_and_leaves_the_policy_alone():
    critic = open_critic(PLAIN, OWN)
    state, (rows, batch) = critic.init(), ppo_batch()
    assert not np.asarray(critic.values(state, rows)).any()
    returns, _ = targets(PPO, batch)
    state, _ = critic.update(state, rows, batch, returns, 1, jnp.asarray(9))
    for kept, now in zip(
        jax.tree.leaves(MEAN.params), jax.tree.leaves(OWN.params), strict=True
    ):
        assert not kept.is_deleted() and kept is now
    assert np.asarray(state.params["score"]["kernel"]).any()


@pytest.mark.parametrize("clip", [math.inf, 0.2])
def test_the_regression_and_its_gradient(clip):
    """The loss in numpy, its gradient in the head by central differences."""
    critic, state, rows, batch = headed()
    returns, _ = targets(PPO, batch)
    known = np.isfinite(np.asarray(returns)) & (np.asarray(batch.mask) > 0)
    states, aim = mean_states(rows)[known], np.asarray(returns)[known]
    old = np.asarray(batch.values)[known]

    def numpy_loss(kernel):
        now = (states @ kernel)[:, 0] + 0.7
        near = np.clip(now, old - clip, old + clip)
        return np.maximum((now - aim) ** 2, (near - aim) ** 2).mean() / 2, now, near

    kernel = np.asarray(state.params["score"]["kernel"])
    objective = ValueRegression(jnp.asarray(clip))
    prepared = objective.prepare(batch, returns)
    (loss, metrics), grad = loss_and_grad(
        critic.model.policy, objective, state.params, rows, prepared
    )
    want, now, near = numpy_loss(kernel)
    assert float(loss) == pytest.approx(want, rel=1e-6)
    share = ((near - aim) ** 2 > (now - aim) ** 2).mean()
    assert float(metrics["value_clip_fraction"]) == pytest.approx(share, abs=1e-7)
    slope = np.zeros_like(kernel)
    for i in range(len(kernel)):
        step = np.zeros_like(kernel)
        step[i] = 1e-6
        ends = numpy_loss(kernel + step)[0], numpy_loss(kernel - step)[0]
        slope[i] = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(grad["score"]["kernel"], slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("packed_length", [None, 12])
@pytest.mark.parametrize("microbatches", [1, 2, 8])
def test_one_denominator_whatever_the_cut(microbatches, packed_length):
    """The step of the whole batch, in pieces and with packed rows."""
    small = Model(MODEL.config, MODEL.policy, MODEL.params, MODEL.tokenizer)
    critic = open_critic(Critic(SGD(0.1, clip_norm=None), clip=0.3), small)
    rows, batch = ppo_batch()
    returns, _ = targets(PPO, batch)
    start = critic.init()
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(16, 1)), jnp.float32)
    head = {**start.params["score"], "kernel": kernel}
    start = start._replace(params={**start.params, "score": head})
    plain = critic.values(start, rows)
    copy = jax.tree.map(jnp.array, start)
    want, numbers = critic.update(copy, rows, batch, returns, 1, jnp.asarray(1))
    if packed_length is not None:
        rows = with_packing(rows, packed_length, microbatches)
    values = critic.values(start, rows, microbatches)
    np.testing.assert_allclose(values, plain, rtol=2e-5, atol=2e-6)
    args = rows, batch, returns, microbatches, jnp.asarray(1)
    got, others = critic.update(start, *args)
    for name, value in numbers.items():
        assert float(others[name]) == pytest.approx(float(value), rel=2e-5, abs=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6),
        got.params,
        want.params,
    )


def test_minibatches_are_slices_of_the_same_targets():
    """Targets of the whole batch, cut: what an update sees of its rows."""
    critic, state, rows, batch = headed()
    returns, _ = targets(PPO, batch)
    part = minibatch((rows, batch, returns), 1, 2)
    assert isinstance(part[0], Rows)
    prepared = ValueRegression(0.2).prepare(part[1], part[2])
    known = np.isfinite(np.asarray(returns)[4:]) & (np.asarray(batch.mask)[4:] > 0)
    weight = np.asarray(prepared.weight)
    np.testing.assert_allclose(weight, known / known.sum(), rtol=1e-12)


def test_values_are_float32_whatever_the_products():
    """In bfloat16 near those in float32, of the same weights."""
    assert MODEL.config is not None
    critic, rows = open_critic(PLAIN, MODEL), ppo_batch()[0]
    half = transformer_policy(MODEL.config, Compute(dtype="bfloat16"))
    other = open_critic(PLAIN, dataclasses.replace(MODEL, policy=half))
    kernel = np.random.default_rng(0).normal(size=(16, 1))
    head = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(1)}
    found = []
    for each in (critic, other):
        state = each.init()
        state = state._replace(params={**state.params, "score": head})
        found.append(each.values(state, rows))
    assert found[0].dtype == found[1].dtype == jnp.float32
    gap = np.abs(np.asarray(found[0] - found[1])).max()
    assert 0 < gap < 0.1 * np.abs(np.asarray(found[0])).max()


def test_a_family_without_token_classification_has_another_layout(tmp_path):
    config = dataclasses.replace(MODEL.config, family="olmo2", norms="after")
    config = dataclasses.replace(config, qk_norm="width")
    policy = transformer_policy(config)
    model = Model(config, policy, init_params(config, 0), MODEL.tokenizer)
    critic = open_critic(PLAIN, model)
    critic.save(tmp_path / "critic", critic.init())
    assert load_classifier(tmp_path / "critic").layout == "sequence"
    again = Critic(SGD(0.1), model=str(tmp_path / "critic"))
    assert open_critic(again, model).model.layout == "sequence"
    with pytest.raises(ValueError, match="has no token classification of olmo2"):
        scalar_of(model, 2, "token")


def test_an_adapter_on_the_trunk_is_trained_with_the_head():
    critic = open_critic(Critic(AdamW(0.05), lora=LoRA(rank=2)), MODEL)
    (rows, batch), state = ppo_batch(), critic.init()
    assert set(state.params) == {"trunk", "score"}
    assert set(state.params["trunk"]) >= {"query", "down"}
    returns, _ = targets(PPO, batch)
    before = critic.params(state)["trunk"].base
    for _ in range(3):
        state, _ = critic.update(state, rows, batch, returns, 1, jnp.asarray(9))
    now = critic.params(state)["trunk"]
    assert now.base is before
    assert float(jnp.abs(now.adapter["query"]["b"]).max()) > 0
    assert np.asarray(critic.values(state, rows)).any()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Critic(SGD(0.1), clip=0.0), "critic.clip: 0 is not positive"),
        (lambda: Critic(SGD(0.1), clip=math.nan), "critic.clip: nan"),
        (
            lambda: ValueRegression().prepare(ppo_batch()[1]),
            "value_regression: no returns",
        ),
        (
            lambda: open_critic(Critic(SGD(0.1), lora=LoRA()), OWN),
            "lora: a model of one's own",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
