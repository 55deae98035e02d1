"""Where objectives meet: on policy, at a limit of a number, or up to a factor."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_batch import random_batch

import unipost
from unipost import DIVERGENCES, presets
from unipost.aggregation import SequenceMean, SequenceSum, TokenMean
from unipost.classical import Chi2KL, ForwardKL, JensenShannon, PearsonChi2
from unipost.corrections import SamplerCorrection
from unipost.links import Clipped, Importance, Linear
from unipost.parametric import (
    Alpha,
    HockeyStick,
    LogOdds,
    SkewJensenShannon,
    unit_curvature,
)
from unipost.parts import Scalar
from unipost.ratios import SequenceToken
from unipost.signals import LeaveOneOut, Mean, Ones, Raw, ZScore
from unipost.weights import Truncate

INF = float("inf")
ROWS, SUMS = SequenceMean(), SequenceSum()


@cache
def data(group):
    """A clean batch without row weights; every response has a token."""
    streams, batch = random_batch(group, text=True, prompts=3)

    def filled(x):
        number = jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.where(jnp.isnan(x), -1.0, x) if number else x

    batch = replace(batch, mask=batch.mask.at[1, 0, 0].set(True), weight=None)
    return filled(streams.policy), jax.tree.map(filled, batch)


def result(objective, group=4, batch=None):
    policy, own = data(group)
    batch = own if batch is None else batch
    loss, grad = jax.value_and_grad(lambda x: objective(x, batch)[0])(policy)
    return float(loss), np.asarray(grad)


def on_policy(group=4):
    """Nothing has moved since the responses were sampled."""
    policy, batch = data(group)
    return replace(batch, old=policy, behavior=policy, reference=policy)


def same(one, other, scale=1.0, tol=1e-12, value=True):
    """Equal gradients, up to a factor, and equal losses if `value`."""
    norm = np.linalg.norm(other[1])
    assert norm > 0
    np.testing.assert_allclose(one[1], scale * other[1], rtol=0, atol=tol * norm)
    if value:
        assert one[0] == pytest.approx(scale * other[0], rel=10 * tol)


def test_the_clip_is_importance_sampling_minus_a_hockey_stick():
    """min(u A, clip(u) A) = u A - |A| (u - (1+high))_+ or ((1-low) - u)_+."""
    rng = np.random.default_rng(0)
    u, advantage = np.exp(rng.normal(size=500)), rng.normal(size=500)
    low, high = 0.1, 0.3
    link = Clipped(low, high).loss(jnp.asarray(u - 1), jnp.asarray(advantage), None)
    plain = -np.minimum(u * advantage, np.clip(u, 1 - low, 1 + high) * advantage)
    np.testing.assert_allclose(link, plain, atol=1e-15)
    upper = np.array(HockeyStick(1 + high).f(jnp.log(u)))
    lower = np.maximum(1 - low - u, 0)
    stick = np.where(advantage > 0, upper, lower)
    np.testing.assert_allclose(
        link, -u * advantage + abs(advantage) * stick, atol=1e-14
    )


def test_the_dual_clip_touches_only_a_bad_token_far_up():
    """A < 0 and u > c: the loss is -A c and has no gradient; elsewhere as without."""
    u = np.exp(np.linspace(-2, 2, 81))
    z = jnp.asarray(u - 1)

    def both(link, advantage):
        step = jax.value_and_grad(lambda z: link.loss(z, jnp.asarray(advantage), None))
        return jax.vmap(step)(z)

    for advantage in (1.5, 0.0, -1.5):
        plain = both(Clipped(0.2, 0.2), advantage)
        dual = both(Clipped(0.2, 0.2, dual=3.0), advantage)
        cut = (u > 3.0) & (advantage < 0)
        want = np.where(cut, -advantage * 3.0, plain[0])
        np.testing.assert_allclose(dual[0], want, atol=1e-14)
        np.testing.assert_allclose(dual[1], np.where(cut, 0, plain[1]), atol=1e-14)
    assert cut.any() and not cut.all()


def test_the_two_sided_cap_bounds_the_ratio_of_either_sign():
    """min(u, cap) before the clip: no gradient above the cap, the clip as before."""
    u = np.exp(np.linspace(-2, 2, 81))
    for advantage in (1.5, -1.5):
        link = Clipped(0.2, 0.2, cap=2.0)
        got = link.loss(jnp.asarray(u - 1), jnp.asarray(advantage), None)
        inside = np.minimum(
            np.minimum(u, 2.0) * advantage, np.clip(u, 0.8, 1.2) * advantage
        )
        np.testing.assert_allclose(got, -inside, atol=1e-14)


def test_a_clip_without_bounds_is_importance_sampling():
    plain = replace(presets.dapo(), link=Importance())
    same(result(replace(presets.dapo(), link=Clipped(INF, INF))), result(plain))


REINFORCE = presets.reinforce(ZScore(), TokenMean())
ON_POLICY = {  # with the token mean of REINFORCE
    "ppo": presets.dapo(0.2, 0.2),
    "grpo": replace(presets.grpo(kl=None), aggregation=TokenMean()),
    "importance": replace(presets.dapo(), link=Importance()),
    "self": replace(presets.dapo(), link=Importance(), anchor="self", clamp=None),
    "cispo": presets.cispo(),
    "sapo": replace(presets.sapo(), aggregation=TokenMean()),
    "vespo": presets.vespo(),
    "tis": presets.tis(),
    "masked_is": presets.masked_is(),
    "decoupled_ppo": presets.decoupled_ppo(),
}


@pytest.mark.parametrize("name", ON_POLICY)
def test_on_policy_the_gradient_is_that_of_reinforce(name):
    batch = on_policy()
    want = result(REINFORCE, batch=batch)
    same(result(ON_POLICY[name], batch=batch), want, value=False)
    moved = np.abs(result(ON_POLICY[name])[1] - want[1]).max() > 1e-3
    assert moved == (name != "self")


def test_on_policy_sequence_ratios_are_reinforce_with_row_means():
    """GSPO, GMPO and GRPO without a KL: A / length per token, mean of rows."""
    batch = on_policy()
    want = result(presets.reinforce(ZScore(), ROWS), batch=batch)
    for objective in (presets.gspo(), presets.gmpo(), presets.grpo(kl=None)):
        same(result(objective, batch=batch), want, value=False)


def test_on_policy_sums_are_the_policy_gradient():
    """RLOO by its ratio, OPMD / tau, TOPR, AsymRE: rows of A sum_t grad log pi."""
    batch = on_policy()
    loo = result(presets.reinforce(LeaveOneOut(), SUMS), batch=batch)
    same(result(presets.rloo(None, "sequence"), batch=batch), loo, value=False)
    mean = result(presets.reinforce(Mean(), SUMS), batch=batch)
    same(result(presets.opmd(0.3), batch=batch), mean, 0.3, value=False)
    raw = result(presets.reinforce(Raw(), SUMS), batch=batch)
    same(result(presets.topr(), batch=batch), raw, value=True)
    same(result(presets.asymre(1e-9), batch=batch), mean, tol=1e-7)


def test_on_policy_regressions_to_the_reference_are_policy_gradients_too():
    """At pi = ref: AGRO = beta (G-1)/G RLOO, CoPG = 2 RLOO, f-TB(KL) = AGRO / tau^2."""
    batch = on_policy()
    loo = result(presets.reinforce(LeaveOneOut(), SUMS), batch=batch)
    same(result(presets.agro(0.3), batch=batch), loo, 0.3 * 3 / 4, value=False)
    same(result(presets.copg(0.3), batch=batch), loo, 2.0, value=False)
    same(result(presets.f_tb(tau=0.3), batch=batch), loo, 3 / 4 / 0.3, value=False)
    # any f: K_f'' = f''(1) at 0; not so far from the solution
    tempered = replace(batch, rewards=1e-6 * batch.rewards)
    smooth = result(presets.f_tb(JensenShannon(), tau=1.0), batch=tempered)
    linear = result(presets.f_tb(tau=1.0), batch=tempered)
    same(smooth, linear, 0.5, tol=1e-5, value=False)


def test_off_policy_identities_of_the_regressions():
    """f_tb(KL) = agro/tau^2 wherever; grad copg = (2/beta) grad agro with ddof 1."""
    agro, copg = result(presets.agro(0.4)), result(presets.copg(0.4))
    same(result(presets.f_tb(tau=0.4)), agro, 1 / 0.16)
    same(copg, agro, 2 / 0.4 * 4 / 3, value=False)
    # a hard pair: beta/2 times the gradient of IPO at tau = beta/2
    policy, batch = data(2)
    chosen = (batch.rewards > batch.rewards.mean(1, keepdims=True)) * 1.0
    hard = replace(batch, rewards=chosen)
    ipo = result(presets.ipo(0.2), 2, hard)
    same(result(presets.copg(0.4), 2, hard), ipo, 0.2, value=False)


def test_psft_is_ppo_on_demonstrations_and_sft_at_the_snapshot():
    demonstrations = replace(presets.dapo(INF, 0.2), signal=Ones())
    same(result(presets.psft(0.2)), result(demonstrations))
    batch = on_policy()
    sft = result(presets.sft(), batch=batch)
    same(result(presets.psft(), batch=batch), sft, value=False)
    # a token that has risen beyond the bound is left alone
    policy, own = data(4)
    risen = np.asarray((policy - own.old > np.log(1.2)) & own.mask)
    assert risen.any() and not result(presets.psft(0.2))[1][risen].any()


def test_weights_and_powers_of_the_probability():
    """alpha_sft: power 1 has DFT's gradient, 0 is SFT; iw-SFT at ref is SFT."""
    same(result(presets.alpha_sft(1.0)), result(presets.dft()), value=False)
    same(result(presets.alpha_sft(1e-8)), result(presets.sft()), tol=1e-6)
    batch = on_policy()
    same(result(presets.iw_sft(), batch=batch), result(presets.sft(), batch=batch))


def box_cox(a):
    """-A (u^a - 1)/a: between REINFORCE at a = 0 and importance sampling at a = 1."""
    return replace(presets.dapo(), divergence=Alpha(-a), link=Linear())


def test_box_cox_goes_from_reinforce_to_importance_sampling():
    plain = replace(presets.dapo(), link=Importance())
    same(result(box_cox(1.0)), result(plain), value=False)
    same(result(box_cox(1e-8)), result(REINFORCE), tol=1e-6, value=False)
    between = result(box_cox(0.5))[1]
    policy, batch = data(4)
    root = np.where(batch.mask, np.exp(0.5 * np.asarray(policy - batch.old)), 0.0)
    np.testing.assert_allclose(between, root * result(REINFORCE)[1], atol=1e-14)


def test_luffy_with_a_large_gamma_is_the_bare_probability():
    """gamma p/(p+gamma)^2 -> p/gamma on the demonstrations of the group."""
    policy, batch = data(4)
    got = result(presets.luffy(9.0, gamma=1e8))[1][:, 3] * 1e8
    advantage = np.asarray(Mean()(batch))
    want = np.where(batch.mask, -advantage * np.exp(policy) / 9.0, 0.0)[:, 3]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_sequence_token_has_the_gradient_of_the_sequence():
    """GSPO-token with one advantage per row: value and gradient of GSPO."""
    gspo = presets.gspo(0.1, 0.1)
    token = replace(gspo, ratio=SequenceToken(), level="token")
    same(result(token), result(gspo))


def test_geometric_means_without_a_clip():
    """GMPO and GSPO are one importance-sampled objective when nothing is clipped."""
    plain = replace(presets.gspo(), link=Importance())
    same(result(presets.gmpo(INF, INF)), result(plain))


def test_corrections_of_a_faithful_sampler_are_nothing():
    policy, batch = data(4)
    faithful = replace(batch, behavior=batch.old)
    ppo = result(presets.dapo(0.2, 0.2), batch=faithful)
    for objective in (presets.tis(), presets.masked_is(), presets.decoupled_ppo()):
        same(result(objective, batch=faithful), ppo)
    # untruncated, on the ratio to old: together the ratio to behavior
    full = (SamplerCorrection(Truncate(INF)),)
    both = replace(presets.dapo(), link=Importance(), corrections=full)
    one = replace(presets.dapo(), link=Importance(), anchor="behavior")
    same(result(both), result(one))


@unipost.part
class Tilted(unipost.Divergence):
    """f + c (u - 1): the same divergence, another generator."""

    divergence: unipost.Divergence
    c: Scalar

    def f(self, log_u):
        return self.divergence.f(log_u) + self.c * jnp.expm1(log_u)

    def f_prime(self, log_u):
        return self.divergence.f_prime(log_u) + self.c


@pytest.mark.parametrize("divergence", [JensenShannon(), ForwardKL(), Chi2KL()])
def test_f_dpo_does_not_see_a_tilt_of_the_generator(divergence):
    """f + c(u-1) has f' + c, which cancels in a margin; the uncentred f is waived."""
    plain = presets.f_dpo(divergence, 0.3)
    with pytest.raises(ValueError, match="whose f'\\(1\\) is not 0"):
        presets.f_dpo(Tilted(divergence, 0.7))
    tilted = replace(
        plain, divergence=Tilted(divergence, 0.7), waived=("uncentred_anchor",)
    )
    same(result(tilted, 2), result(plain, 2), tol=1e-11)


def test_dpo_does_not_see_a_shift_of_the_prompt():
    """log pi + c(x) on both responses, as another normaliser of the prompt would do."""
    policy, batch = data(2)
    first = jnp.zeros(policy.shape).at[:, :, 0].set(1.0)
    shift = policy + jnp.array([1.0, -2.0, 0.5])[:, None, None] * first
    for objective in (presets.dpo(), presets.dpo(anchor="none"), presets.ipo()):
        loss = [float(objective(x, batch)[0]) for x in (policy, shift)]
        assert loss[0] == pytest.approx(loss[1], rel=1e-13)
    simpo = [float(presets.simpo()(x, batch)[0]) for x in (policy, shift)]
    assert abs(simpo[0] - simpo[1]) > 1e-3  # divided by length: it does


ADMISSIBLE = ("reverse_kl", "forward_kl", "jensen_shannon", "squared_hellinger")
ADMISSIBLE += ("neyman_chi2", "jeffreys", "chi2_kl", "skew_jensen_shannon")


@pytest.mark.parametrize("name", ADMISSIBLE)
def test_f_dpo_starts_as_dpo_times_the_curvature(name):
    """At the reference all f agree to first order, with strength f''(1)."""
    f, batch = DIVERGENCES[name](), on_policy(2)
    dpo = result(presets.dpo(0.3), 2, batch)
    same(result(presets.f_dpo(f, 0.3), 2, batch), dpo, float(f.curvature), value=False)
    unit = presets.f_dpo(unit_curvature(f), 0.3)
    same(result(unit, 2, batch), dpo, tol=1e-9, value=True)


def test_alpha_runs_from_dpo_to_forward_kl():
    same(result(presets.f_dpo(Alpha(1e-8)), 2), result(presets.dpo(), 2), tol=1e-6)
    forward = result(presets.f_dpo(ForwardKL()), 2)
    same(result(presets.f_dpo(Alpha(1 - 1e-9)), 2), forward, tol=1e-6)


def test_skewed_jensen_shannon_at_its_ends_and_its_middle():
    """D_w/w -> forward KL as w -> 0, D_w/(1-w) -> reverse KL; w = 1/2: half of ours."""
    same(
        result(presets.f_dpo(SkewJensenShannon(0.5), 0.2), 2),
        result(presets.f_dpo(JensenShannon(), 0.1), 2),
    )
    low = result(presets.f_dpo(SkewJensenShannon(1e-9), 1e8), 2)
    same(low, result(presets.f_dpo(ForwardKL(), 0.1), 2), tol=1e-6)
    high = result(presets.f_dpo(SkewJensenShannon(1 - 1e-9), 1e8), 2)
    same(high, result(presets.dpo(), 2), tol=1e-5)


def test_preferences_at_the_ends_of_their_numbers():
    dpo = result(presets.dpo(0.3), 2)
    same(result(presets.cdpo(0.3, 1e-9), 2), dpo, tol=1e-7)
    same(result(presets.robust_dpo(0.3, 1e-9), 2), dpo, tol=1e-7)
    same(result(presets.ld_dpo(0.3, 1 - 1e-9), 2), dpo, tol=1e-7)
    chi = result(presets.f_dpo(Chi2KL(), 0.3), 2)
    same(result(presets.chi_po(0.3, 1e6), 2), chi)
    free = presets.dpo(0.3, "none")
    mean = replace(free, level="sequence_mean")
    same(result(presets.simpo(0.3, 0.0), 2), result(mean, 2))
    length = replace(presets.dpo(0.3), per="length")
    mean = replace(presets.dpo(0.3), level="sequence_mean")
    same(result(length, 2), result(mean, 2))


def test_orpo_pushes_by_the_odds():
    """log odds = log p - log(1 - p): the gradient of the mean is that over 1 - p."""
    policy, batch = data(2)
    log_p = np.where(batch.mask, policy, 0.0).sum(-1) / np.asarray(batch.mask.sum(-1))
    slope = jax.vmap(jax.vmap(jax.grad(LogOdds().f_prime)))(jnp.asarray(log_p))
    np.testing.assert_allclose(slope, 1 / (1 - np.exp(log_p)), rtol=1e-12)


def test_a_constant_group_has_no_z_score_and_no_nan():
    """eps = 0: 0/0 is 0, with any number of equal rewards."""
    policy, batch = data(4)
    equal = replace(batch, rewards=jnp.full(batch.rewards.shape, 0.3))
    for signal in (ZScore(eps=0.0), ZScore(ddof=0, eps=0.0)):
        loss, grad = result(replace(presets.dapo(), signal=signal), batch=equal)
        assert loss == 0.0 and not grad.any()


def test_dr_grpo_is_the_policy_gradient_short_of_one_in_g():
    """r - mean = (1 - 1/G) (r - mean of the others)."""
    loo = result(presets.reinforce(LeaveOneOut(), SUMS))
    mean = result(presets.reinforce(Mean(), SUMS))
    same(mean, loo, 3 / 4)


def test_pearson_sft_is_one_sided_ipo_per_token():
    """-r + r^2/4 = (beta^2/4) (log u - 2/beta)^2 - 1 below the kink, r = beta log u."""
    policy, batch = data(4)
    beta = 0.3
    objective = presets.f_sft(PearsonChi2(), beta)
    gap = np.where(batch.mask, policy - batch.reference, 0.0)
    assert (beta * gap <= 2).all()
    square = beta**2 / 4 * (gap - 2 / beta) ** 2 - 1
    want = square[np.asarray(batch.mask)].mean()
    assert result(objective)[0] == pytest.approx(want, rel=1e-12)
