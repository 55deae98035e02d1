"""Every preset against the paper's formula written out in numpy: loss and gradient.

The oracles are independent of the library (`oracle_papers`, `oracle_preferences`);
their gradients come from complex steps. Batches are ragged random ones in float64.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle_papers as papers
import oracle_preferences as preferences
import pytest
from oracle_papers import Data

from unipost import PRESETS, Batch, Streams, presets
from unipost.classical import ForwardKL, ReverseKL, SquaredHellinger
from unipost.signals import BatchZScore, Mean, ZScore

EXACT = ZScore(eps=0.0)


def random_data(seed, group, full=False, spread=0.4, tokens=5):
    """Ragged random streams; with `full` every row has all its tokens."""
    rng = np.random.default_rng(seed)
    shape = (4, group, tokens)
    lengths = rng.integers(1, tokens + 1, shape[:2])
    if full:
        lengths[:] = tokens
    base = -rng.gamma(2.0, 0.6, shape) - 0.02

    def near():
        return np.minimum(base + spread * rng.normal(size=shape), -0.01)

    return Data(
        logp=near(),
        mask=(np.arange(tokens) < lengths[..., None]).astype(float),
        rewards=rng.normal(size=shape[:2]),
        old=near(),
        ref=near(),
        behavior=near(),
    )


def batch_of(data, rewards=None, **more):
    dirty = np.where(data.mask > 0, 0.0, np.nan)
    return Batch(
        mask=jnp.asarray(data.mask),
        rewards=rewards,
        old=jnp.asarray(data.old + dirty),
        reference=jnp.asarray(data.ref + dirty),
        behavior=jnp.asarray(data.behavior + dirty),
        **more,
    )


def value_and_grad(objective, data, batch, collision=None):
    def loss(policy):
        return objective(Streams(policy=policy, collision=collision), batch)[0]

    value, grad = jax.value_and_grad(loss)(jnp.asarray(data.logp))
    return float(value), np.where(data.mask > 0, np.asarray(grad), 0.0)


def agrees(objective, data, batch, oracle, collision=None, **hyper):
    """Loss and gradient to 1e-11 of the gradient's norm."""
    loss, grad = value_and_grad(objective, data, batch, collision)
    want = papers.gradient(oracle, data, **hyper)
    assert loss == pytest.approx(float(np.real(oracle(data, **hyper))), rel=1e-11)
    norm = np.linalg.norm(want)
    assert norm > 0
    np.testing.assert_allclose(grad, want, rtol=0, atol=1e-11 * norm)


def z(name, **arguments):
    """A preset whose z-score has no epsilon, as the oracles'."""
    objective = PRESETS[name](**arguments)
    return dataclasses.replace(objective, signal=EXACT)


DEMONSTRATIONS = {
    "sft": (presets.sft(), papers.alpha_sft, {"a": 0}),
    "alpha_sft": (presets.alpha_sft(0.5), papers.alpha_sft, {"a": 0.5}),
    "alpha_sft-3": (presets.alpha_sft(3.0), papers.alpha_sft, {"a": 3.0}),
    "dft": (presets.dft(), papers.dft, {}),
    "psft": (presets.psft(), papers.psft, {}),
    "iw_sft": (presets.iw_sft(), papers.iw_sft, {}),
    "iw_sft-cap": (
        presets.iw_sft(3.0, 0.7),
        papers.iw_sft,
        {"temperature": 3.0, "cap": 0.7},
    ),
}
REWARDS = {
    "awr": (presets.awr(cap=1.5), papers.awr, {"cap": 1.5}),
    "dapo": (z("dapo"), papers.ppo, {"high": 0.28}),
    "gspo": (z("gspo", low=0.05, high=0.1), papers.gspo, {"low": 0.05, "high": 0.1}),
    "cispo": (z("cispo", cap=1.1), papers.cispo, {"high": 0.1}),
    "sapo": (z("sapo", tau_pos=2.0), papers.sapo, {"tau_pos": 2.0}),
    "gmpo": (z("gmpo", low=0.1, high=0.2), papers.gmpo, {"low": 0.1, "high": 0.2}),
    "vespo": (z("vespo"), papers.vespo, {}),
    "opmd": (presets.opmd(0.7), papers.opmd, {"tau": 0.7}),
    "agro": (presets.agro(0.3), papers.agro, {"beta": 0.3}),
    "topr": (presets.topr(), papers.topr, {}),
    "asymre": (presets.asymre(), papers.asymre, {}),
    "f_tb": (presets.f_tb(ReverseKL(), 2.0), papers.f_tb, {"beta": 2.0}),
    "f_tb-forward": (
        presets.f_tb(ForwardKL(), 2.0),
        papers.f_tb,
        {"beta": 2.0, "divergence": "forward_kl"},
    ),
    "f_tb-hellinger": (
        presets.f_tb(SquaredHellinger(), 2.0),
        papers.f_tb,
        {"beta": 2.0, "divergence": "squared_hellinger"},
    ),
    "reinforce_pp": (presets.reinforce_pp(), papers.reinforce_pp, {}),
    "tis": (z("tis", cap=1.2), papers.corrected_ppo, {"cap": 1.2}),
    "tis-sequence": (
        z("tis", level="sequence", cap=1.5),
        papers.corrected_ppo,
        {"level": "sequence", "cap": 1.5},
    ),
    "masked_is": (
        z("masked_is", cap=2.0, floor=0.5),
        papers.corrected_ppo,
        {"level": "sequence", "rule": "mask", "cap": 2.0, "floor": 0.5},
    ),
    "decoupled_ppo": (z("decoupled_ppo"), papers.corrected_ppo, {"rule": "none"}),
}
PAIRS = {
    "dpo": (presets.dpo(0.3), preferences.dpo, {"beta": 0.3}),
    "cdpo": (presets.cdpo(0.3, 0.2), preferences.cdpo, {"beta": 0.3, "smoothing": 0.2}),
    "robust_dpo": (
        presets.robust_dpo(0.3, 0.2),
        preferences.robust_dpo,
        {"beta": 0.3, "smoothing": 0.2},
    ),
    "hinge": (presets.hinge(0.9), preferences.hinge, {"beta": 0.9}),
    "ipo": (presets.ipo(0.4), preferences.ipo, {"tau": 0.4}),
    "ipo-mean": (
        presets.ipo(0.4, "sequence_mean"),
        preferences.ipo,
        {"tau": 0.4, "length": "sequence_mean"},
    ),
    "exo": (
        presets.exo(0.5, 0.05),
        preferences.exo_pair,
        {"beta": 0.5, "smoothing": 0.05},
    ),
    "chi_po": (presets.chi_po(0.4), preferences.chi_po, {"beta": 0.4}),
    "chi_po-clip": (
        presets.chi_po(0.9, 0.4),
        preferences.chi_po,
        {"beta": 0.9, "r_max": 0.4},
    ),
    "simpo": (presets.simpo(), preferences.simpo, {}),
    "nca": (presets.nca(0.4), preferences.nca_pair, {"beta": 0.4}),
    "apo": (presets.apo(0.4), preferences.apo_zero, {"beta": 0.4}),
    "apo-down": (presets.apo(0.4, "down"), preferences.apo_down, {"beta": 0.4}),
    "ld_dpo": (
        presets.ld_dpo(0.4, 0.3),
        preferences.ld_dpo,
        {"beta": 0.4, "alpha": 0.3},
    ),
}


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_demonstrations(name):
    objective, oracle, hyper = DEMONSTRATIONS[name]
    data = random_data(1, 1)
    agrees(objective, data, batch_of(data), oracle, **hyper)


@pytest.mark.parametrize("name", REWARDS)
def test_rewards(name):
    objective, oracle, hyper = REWARDS[name]
    data = random_data(2, 4)
    batch = batch_of(data, rewards=jnp.asarray(data.rewards))
    agrees(objective, data, batch, oracle, **hyper)


def test_copg():
    data = random_data(3, 4, full=True)
    batch = batch_of(data, rewards=jnp.asarray(data.rewards))
    agrees(presets.copg(0.3), data, batch, papers.copg, beta=0.3)


@pytest.mark.parametrize("name", PAIRS)
def test_preferences(name):
    objective, oracle, hyper = PAIRS[name]
    data = random_data(4, 2)
    agrees(objective, data, batch_of(data), oracle, **hyper)


def test_discopop_rises_around_the_reference():
    """The ends that the preset names, and the slope at 0 by hand: tau 0.05.

    d/dz (1-g) log(1+e^-z) + g e^-z at 0, g' = 1/(4 tau): g' (1 - log 2) - 3/4.
    """
    link = presets.discopop(beta=1.0).link
    slope = jax.vmap(jax.grad(link.of_margin))
    z = jnp.linspace(-1.0, 1.0, 2001)
    rising = np.asarray(z)[np.asarray(slope(z)) > 0]
    assert rising[0] == pytest.approx(-0.118) and rising[-1] == pytest.approx(0.072)
    assert len(rising) == 191  # one stretch of steps of 0.001
    by_hand = (1 - np.log(2)) / (4 * 0.05) - 0.75
    assert slope(jnp.zeros(1))[0] == pytest.approx(by_hand, rel=1e-12)


def test_sppo_is_twice_the_papers():
    """The paper's mean is over rows, TRL's sum over the pair; eta is 1/beta."""
    data = random_data(5, 2)

    def doubled(data):
        return 2.0 * preferences.sppo(data, eta=1 / 0.2)

    agrees(presets.sppo(0.2), data, batch_of(data), doubled)


def test_wpo():
    data = random_data(6, 2)
    collision = np.log(np.random.default_rng(0).uniform(0.1, 0.9, data.logp.shape))

    def oracle(data):
        weight = preferences.wpo_weights(data, collision).prod(-1)
        z = preferences.margin(data, 0.1)
        return (weight * -preferences.log_sigmoid(z)).mean()

    batch = batch_of(data)
    agrees(presets.wpo(), data, batch, oracle, collision=jnp.asarray(collision))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_kto_and_its_reference_point(sign):
    """z0 is the mean over mismatched pairs, and 0 where that is negative."""
    data, other = random_data(7, 2), random_data(8, 2)
    mismatched = sign * np.abs(other.delta("ref").sum(-1))
    labels = data.rewards > 0
    point = max(0.0, mismatched.mean())

    def oracle(data):
        return preferences.kto(data, labels, point, 0.3, 1.0, 1.5)

    batch = batch_of(
        data,
        rewards=jnp.asarray(data.rewards),
        mismatched=jnp.asarray(mismatched),
    )
    assert (point > 0) == (sign > 0)
    agrees(presets.kto(0.3, 1.0, 1.5), data, batch, oracle)


def test_orpo():
    """The paper's NLL is a mean over rows; rows of equal length have one mean."""
    data = random_data(9, 2, full=True)
    agrees(presets.orpo(0.4), data, batch_of(data), preferences.orpo, weight=0.4)


def test_cpo_is_reference_free_dpo_and_sft_of_the_chosen():
    data = random_data(10, 2, full=True)

    def oracle(data):
        free = dataclasses.replace(data, ref=np.zeros_like(data.ref))
        chosen = -papers.row_mean(data.log_pi, data)[:, 0].mean()
        return preferences.dpo(free, 0.3) + 0.5 * chosen

    agrees(presets.cpo(0.3, 0.5), data, batch_of(data), oracle)


def test_aot_compares_quantiles():
    data = random_data(11, 2)
    rank = np.argsort(np.argsort((data.log_pi.sum(-1) * [1, -1]).sum(-1)))

    def oracle(data):
        kept = np.where(data.mask > 0, data.ref, 0.0).sum(-1)
        policy = data.log_pi.sum(-1)
        margin = policy[:, 0] - policy[:, 1]
        reference = np.sort(kept[:, 0] - kept[:, 1])[rank]
        return -preferences.log_sigmoid(0.2 * (margin - reference)).mean()

    agrees(presets.aot(0.2), data, batch_of(data), oracle)


@pytest.mark.parametrize("h", ["linear", "log_sigmoid"])
def test_gem(h):
    rng = np.random.default_rng(12)
    logits, mask = rng.normal(size=(3, 1, 4, 6)), np.ones((3, 1, 4))
    mask[1, 0, 2:] = 0
    labels = rng.integers(0, 6, mask.shape)

    def loss(logits):
        vocab = jax.nn.log_softmax(logits)
        policy = jnp.take_along_axis(vocab, labels[..., None], -1)[..., 0]
        streams = Streams(policy=policy, vocab=vocab)
        return presets.gem(0.6, h)(streams, Batch(mask=jnp.asarray(mask)))[0]

    value, grad = jax.value_and_grad(loss)(jnp.asarray(logits))
    assert float(value) == pytest.approx(
        papers.gem(logits, labels, mask, 0.6, h), rel=1e-12
    )
    want = np.zeros_like(logits)
    for index in np.ndindex(*want.shape):
        moved = logits.astype(complex)
        moved[index] += 1e-30j
        step = papers.gem(moved, labels, mask, 0.6, h, fixed=logits)
        want[index] = np.imag(step) / 1e-30
    np.testing.assert_allclose(grad, want, atol=1e-13)


def test_identities_between_papers():
    """f_tb(KL) = agro / tau^2; grad copg = (2/beta) grad agro with ddof 1."""
    data = random_data(13, 4, full=True)
    batch = batch_of(data, rewards=jnp.asarray(data.rewards))
    balance = value_and_grad(presets.f_tb(tau=0.4), data, batch)
    residual = value_and_grad(presets.agro(0.4), data, batch)
    assert balance[0] == pytest.approx(residual[0] / 0.16, rel=1e-12)
    np.testing.assert_allclose(balance[1], residual[1] / 0.16, rtol=1e-11)
    contrast = value_and_grad(presets.copg(0.4), data, batch)
    unbiased = 4 / 3 * residual[1]  # ddof 1 in a group of four
    np.testing.assert_allclose(contrast[1], 2 / 0.4 * unbiased, rtol=1e-11)


def test_whitening_over_the_batch_centres_either_way():
    """REINFORCE++ without a KL whitens per token what BatchZScore does per row."""
    data = random_data(14, 4, full=True)
    batch = batch_of(data, rewards=jnp.asarray(data.rewards))
    tokens = presets.reinforce_pp(kl=None).advantage(batch)
    rows = BatchZScore(ddof=1, eps=0.0)(batch)
    ratio = np.asarray(tokens / rows)
    n, m = data.mask.size, data.rewards.size  # ddof counts tokens here, rows there
    np.testing.assert_allclose(ratio, np.sqrt((n - 1) / n * m / (m - 1)), rtol=1e-7)


def test_every_preset_is_here_or_in_the_golden_numbers():
    """The rest have rows in formulation.json or families of recorded cases."""
    here = {name.split("-")[0] for name in (*DEMONSTRATIONS, *REWARDS, *PAIRS)}
    here |= {"copg", "sppo", "wpo", "kto", "orpo", "cpo", "aot", "gem"}
    golden = {"f_sft", "f_dpo", "reinforce", "rloo", "grpo", "dr_grpo", "luffy"}
    recorded = {"discopop", "bco", "gkd"}  # dpo and gkd families, TRL
    mixing = set(presets.FAMILIES["mixing"])  # in `test_mixing`
    assert here | golden | recorded | mixing | {"ppo"} == set(PRESETS)


def test_ppo_follows_the_critic():
    """GAE by its double sum, k1 in the token rewards, whitened, then clipped."""
    data = random_data(15, 2)
    rng = np.random.default_rng(1)
    values = rng.normal(size=data.logp.shape)
    kl, gamma, lam = 0.1, 0.9, 0.8
    length = data.length.astype(int)
    reward = np.where(data.mask > 0, -kl * (data.old - data.ref), 0.0)
    advantage = np.zeros_like(values)
    for row in np.ndindex(*length.shape):
        n = length[row]
        reward[row][n - 1] += data.rewards[row]
        following = np.append(values[row][1:n], 0.0)
        delta = reward[row][:n] + gamma * following - values[row][:n]
        for t in range(n):
            discount = (gamma * lam) ** np.arange(n - t)
            advantage[row][t] = (discount * delta[t:]).sum()
    kept = advantage[data.mask > 0]
    white = (advantage - kept.mean()) / np.sqrt(kept.var(ddof=1) + 1e-8)
    objective = presets.ppo(kl=kl, gamma=gamma, lam=lam)
    batch = batch_of(
        data, rewards=jnp.asarray(data.rewards), values=jnp.asarray(values)
    )
    got = np.asarray(objective.advantage(batch))
    np.testing.assert_allclose(
        got[data.mask > 0], white[data.mask > 0], rtol=1e-7, atol=1e-9
    )
    exact = papers.ppo(data, got)
    loss, _ = value_and_grad(objective, data, batch)
    assert loss == pytest.approx(float(exact), rel=1e-11)


def test_dr_grpo_and_rloo_have_one_direction():
    """r - mean is (1 - 1/G) times leave-one-out."""
    data = random_data(16, 4, full=True)
    batch = batch_of(data, rewards=jnp.asarray(data.rewards))
    mean = np.asarray(Mean()(batch))
    loo = np.asarray(presets.rloo(kl=None).advantage(batch))
    np.testing.assert_allclose(mean, 0.75 * loo, rtol=1e-12)
