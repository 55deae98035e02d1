"""Presets without an oracle of one paper: their formulas in numpy, on ragged rows.

Loss and gradient to 1e-11; the gradient of the oracle by complex steps. What is held
under a stop-gradient takes `held`, the log-probs at which the gradient is taken.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracle_papers as papers
import oracle_preferences as preferences
import pytest
from oracle_preferences import log_sigmoid, sigmoid
from oracle_trl_rewards import log_softmax
from random_batch import random_batch
from test_papers import DEMONSTRATIONS, PAIRS, REWARDS, agrees, batch_of, random_data

from unipost import PRESETS, Batch, Streams, presets
from unipost import divergences as d
from unipost.aggregation import TokenMean


def pearson(x):
    return np.where(np.real(x) <= 2, x - x**2 / 4, 1.0)


PHI = {  # phi(x) = -f*(-x) and f'(u), written in x and in h = log u
    "pearson": (d.PearsonChi2(), pearson, None),
    "hellinger": (
        d.SquaredHellinger(),
        lambda x: x / (1 + x),
        lambda h: -np.exp(-h / 2),
    ),
    "reverse_kl": (d.ReverseKL(), lambda x: 1 - np.exp(-x), lambda h: h),
    "forward_kl": (d.ForwardKL(), lambda x: np.log(1 + x), lambda h: -np.exp(-h)),
    "jensen_shannon": (
        d.JensenShannon(),
        lambda x: np.log(2 - np.exp(-x)),
        lambda h: h - np.log(1 + np.exp(h)),
    ),
    "neyman": (
        d.NeymanChi2(),
        lambda x: 2 * np.sqrt(1 + x) - 2,
        lambda h: -np.exp(-2 * h),
    ),
    "alpha": (
        d.Alpha(0.3),
        lambda x: (1 - (1 + 0.3 * x) ** (-7 / 3)) / 0.7,
        lambda h: (1 - np.exp(-0.3 * h)) / 0.3,
    ),
    "chi2_kl": (d.Chi2KL(), None, lambda h: np.exp(h) + h),
    "jeffreys": (d.Jeffreys(), None, lambda h: h - np.exp(-h)),
    "skew": (
        d.SkewJensenShannon(0.3),
        None,
        lambda h: 0.7 * (h - np.log(0.3 + 0.7 * np.exp(h))),
    ),
}


@pytest.mark.parametrize("name", [name for name in PHI if PHI[name][1]])
def test_f_sft(name):
    """Mean over tokens of -phi(beta log pi/ref), beyond Pearson's kink too."""
    divergence, phi, _ = PHI[name]
    beta = 4.0 if name == "pearson" else 0.3
    data = random_data(21, 3, spread=0.5)

    def oracle(data):
        return papers.token_mean(-phi(beta * data.delta("ref")), data)

    if name == "pearson":
        assert (beta * data.delta("ref") > 2).any()
    agrees(presets.f_sft(divergence, beta), data, batch_of(data), oracle)


@pytest.mark.parametrize("gauge", ["lse", "lsediff"])
def test_f_sft_with_a_value_of_the_state(gauge):
    """-phi(r_t) + V_t - V_next, r_t = beta log u_t + V_t - V_next over kept tokens."""
    streams, batch = random_batch(4, prompts=3)
    mask, beta, total = np.asarray(batch.mask), 0.3, 0.0
    value = np.asarray(streams.lse)
    if gauge == "lsediff":
        value = value - np.asarray(batch.reference_lse)
    delta = np.asarray(streams.policy) - np.asarray(batch.reference)
    for row in np.argwhere(mask.any(-1)):
        kept = np.flatnonzero(mask[tuple(row)])
        own = beta * value[tuple(row)][kept]
        fall = own - np.append(own[1:], 0.0)
        reward = beta * delta[tuple(row)][kept] + fall
        loss = fall - pearson(reward)
        total += float(batch.weight[tuple(row)]) * loss.sum()
    objective = presets.f_sft(d.PearsonChi2(), beta, gauge)
    got = float(objective(streams, batch)[0])
    assert got == pytest.approx(total / mask.sum(), rel=1e-12)


@pytest.mark.parametrize("name", [name for name in PHI if PHI[name][2]])
def test_f_dpo(name):
    """-log sigmoid(beta (f'(u_w) - f'(u_l))), u the ratio of whole responses."""
    divergence, _, slope = PHI[name]
    data = random_data(22, 2)

    def oracle(data):
        reward = 0.3 * slope(data.delta("ref").sum(-1))
        return -log_sigmoid(reward[:, 0] - reward[:, 1]).mean()

    agrees(presets.f_dpo(divergence, 0.3), data, batch_of(data), oracle)


def free(data):
    """The same rows without a reference."""
    return replace(data, ref=np.zeros_like(data.ref))


def chosen_nll(data):
    """Mean over the tokens of the chosen rows."""
    return -data.log_pi[:, 0].sum() / data.mask[:, 0].sum()


def discopop(data, beta, tau):
    z = preferences.margin(data, beta)
    gate = sigmoid(z / tau)
    return (-(1 - gate) * log_sigmoid(z) + gate * np.exp(-z)).mean()


def bco(data, beta, shift):
    chosen, rejected = preferences.rewards(data, beta)
    return -(log_sigmoid(chosen - shift) + log_sigmoid(shift - rejected)).mean()


def orpo(data, weight):
    log_p = papers.row_mean(data.log_pi, data)
    odds = log_p - np.log(1 - np.exp(log_p))
    return chosen_nll(data) - weight * log_sigmoid(odds[:, 0] - odds[:, 1]).mean()


def cpo(data, beta, nll):
    return preferences.dpo(free(data), beta) + nll * chosen_nll(data)


PREFERENCES = {
    "dpo-free": (presets.dpo(0.3, "none"), lambda x: preferences.dpo(free(x), 0.3)),
    "discopop": (presets.discopop(0.3, 0.2), lambda x: discopop(x, 0.3, 0.2)),
    "bco": (presets.bco(0.3, 0.1), lambda x: bco(x, 0.3, 0.1)),
    "orpo": (presets.orpo(0.4), lambda x: orpo(x, 0.4)),
    "cpo": (presets.cpo(0.3, 0.5), lambda x: cpo(x, 0.3, 0.5)),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences(name):
    objective, oracle = PREFERENCES[name]
    data = random_data(23, 2)
    agrees(objective, data, batch_of(data), oracle)


def test_orpo_with_the_prompt_in_its_likelihood():
    """TRL's: the NLL of the chosen over prompt and response, the odds not."""
    whole = random_data(24, 2)
    response = whole.mask * (np.arange(whole.mask.shape[-1]) >= 2)
    response[whole.length <= 2] = whole.mask[whole.length <= 2]
    data = replace(whole, mask=response)
    batch = Batch(mask=jnp.asarray(response), text=jnp.asarray(whole.mask))

    def oracle(data):
        text = replace(data, mask=whole.mask)
        odds_of_the_response = orpo(data, 0.4) - chosen_nll(data)
        return chosen_nll(text) + odds_of_the_response

    loss, grad = jax.value_and_grad(lambda x: presets.orpo(0.4, "text")(x, batch)[0])(
        jnp.asarray(data.logp)
    )
    assert float(loss) == pytest.approx(oracle(data), rel=1e-12)
    want = papers.gradient(oracle, data)
    np.testing.assert_allclose(grad, want, atol=1e-12)


def k3(data):
    delta = data.delta("ref")
    return np.exp(-delta) - 1 + delta


def clipped(data, adv, low=0.2, high=0.2):
    return papers.surrogate(np.exp(data.delta("old")), adv[..., None], low, high)


def grpo(data, penalty=k3, kl=0.3):
    adv = papers.advantages(data, eps=1e-6)
    return papers.sequence_mean(clipped(data, adv) + kl * penalty(data), data)


def importance_k3(data):
    return np.exp(data.delta("old")) * k3(data)


def dr_grpo(data, length=9.0):
    total = (clipped(data, papers.advantages(data, "mean")) * data.mask).sum()
    return total / (data.rows * length)


def reinforce(data, adv):
    return papers.mean_of_rows(-adv * data.log_pi.sum(-1), data)


def rloo(data, kl):
    """k1 of the whole response in the reward: old is what sampled it."""
    gap = np.where(data.mask > 0, data.old - data.ref, 0.0).sum(-1)
    regular = replace(data, rewards=data.rewards - kl * gap)
    return papers.advantages(regular, "loo")


def rloo_ratio(data, kl=0.05):
    ratio = np.exp(data.delta("old").sum(-1))
    return papers.mean_of_rows(-rloo(data, kl) * ratio, data)


def luffy(data, clip=None, length=9.0):
    """Row 3 is a demonstration: f(p) = p/(p + 0.1); the others -A u, or clipped."""
    adv = papers.advantages(data, "mean")
    ratio = np.exp(data.delta("old"))
    x = clipped(data, adv, clip, clip) if clip else -adv[..., None] * ratio
    p = np.exp(data.log_pi)
    x[:, 3] = (-adv[..., None] * p / (p + 0.1))[:, 3]
    return (x * data.mask).sum() / (length or data.mask.sum())


GROUPS = {
    "reinforce": (
        presets.reinforce(),
        lambda x: reinforce(x, papers.advantages(x, "raw")),
    ),
    "rloo": (presets.rloo(), lambda x: reinforce(x, rloo(x, 0.05))),
    "rloo-none": (
        presets.rloo(None),
        lambda x: reinforce(x, papers.advantages(x, "loo")),
    ),
    "rloo-sequence": (presets.rloo(level="sequence"), rloo_ratio),
    "grpo": (presets.grpo(kl=0.3), grpo),
    "grpo-rho": (
        presets.grpo(kl=0.3, estimator="importance_k3"),
        lambda x: grpo(x, importance_k3),
    ),
    "grpo-k2": (
        presets.grpo(kl=0.3, estimator="k2"),
        lambda x: grpo(x, lambda y: y.delta("ref") ** 2 / 2),
    ),
    "dr_grpo": (presets.dr_grpo(9.0), dr_grpo),
    "luffy": (presets.luffy(9.0), luffy),
    "luffy-paper": (
        presets.luffy(clip=0.2, aggregation=TokenMean()),
        lambda x: luffy(x, 0.2, None),
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_rewards(name):
    objective, oracle = GROUPS[name]
    data = random_data(25, 4)
    off = jnp.zeros((4, 4)).at[:, 3].set(1.0)
    batch = batch_of(data, rewards=jnp.asarray(data.rewards), off_policy=off)
    agrees(objective, data, batch, oracle)


def test_ppo_has_the_clipped_gradient_of_its_advantages():
    data = random_data(26, 2)
    values = jnp.asarray(np.random.default_rng(1).normal(size=data.logp.shape))
    objective = presets.ppo(kl=0.1, gamma=0.9, lam=0.8)
    batch = batch_of(data, rewards=jnp.asarray(data.rewards), values=values)
    advantage = np.asarray(objective.advantage(batch))
    agrees(objective, data, batch, papers.ppo, adv=advantage)


def divergence_at_states(policy, teacher, beta):
    """KL both ways to the mixture m = beta teacher + (1 - beta) policy, per state."""
    if beta == 0.0:
        return (np.exp(teacher) * (teacher - policy)).sum(-1)
    if beta == 1.0:
        return (np.exp(policy) * (policy - teacher)).sum(-1)
    mixture = np.log(beta * np.exp(teacher) + (1 - beta) * np.exp(policy))
    forward = (np.exp(teacher) * (teacher - mixture)).sum(-1)
    return beta * forward + (1 - beta) * (np.exp(policy) * (policy - mixture)).sum(-1)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_gkd(beta):
    """Both tempered, mean over tokens; the gradient in the student's logits."""
    rng = np.random.default_rng(27)
    shape = (3, 2, 4, 6)
    logits, other = rng.normal(size=shape), log_softmax(rng.normal(size=shape))
    data = random_data(27, 2, tokens=4)
    mask = data.mask[:3]
    batch = Batch(mask=jnp.asarray(mask), reference_vocab=jnp.asarray(other))
    teacher = log_softmax(other / 1.5)

    def loss(z):
        vocab = jax.nn.log_softmax(z)
        return presets.gkd(beta, 1.5)(Streams(vocab[..., 0], vocab=vocab), batch)[0]

    def oracle(z):
        scaled = z / 1.5
        policy = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
        return (divergence_at_states(policy, teacher, beta) * mask).sum() / mask.sum()

    value, grad = jax.value_and_grad(loss)(jnp.asarray(logits))
    assert float(value) == pytest.approx(oracle(logits), rel=1e-11)
    want = np.zeros(shape)
    for index in np.ndindex(*shape):
        moved = logits.astype(complex)
        moved[index] += 1e-30j
        want[index] = np.imag(oracle(moved)) / 1e-30
    np.testing.assert_allclose(grad, want, atol=1e-13)


def test_every_preset_has_a_formula():
    """Here, in `test_papers` (those of a few lines are named) or `test_mixing`."""
    named = {"copg", "sppo", "wpo", "kto", "aot", "gem"}
    here = {*DEMONSTRATIONS, *PAIRS, *REWARDS, *PREFERENCES, *GROUPS, *named}
    here |= {"f_sft", "f_dpo", "ppo", "gkd", *presets.FAMILIES["mixing"]}
    assert {name.split("-")[0] for name in here} == set(PRESETS)
