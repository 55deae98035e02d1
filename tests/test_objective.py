"""Invariances, step-0 identities and refusals, for every preset."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from preset_examples import EXAMPLES, GROWS, group, streams_and_batch

from unipost import PRESETS, Batch, Objective, Penalty, Score, Streams, presets
from unipost.aggregation import Constant, SequenceMean, SequenceSum, TokenMean
from unipost.classical import (
    ForwardKL,
    JensenShannon,
    PearsonChi2,
    ReverseKL,
    SquaredHellinger,
    TotalVariation,
)
from unipost.explain import explain, gradient_coefficient
from unipost.links import Clipped, Importance, Linear, Matching, Weighted
from unipost.pair_links import Logistic, Squared
from unipost.parametric import Alpha, HockeyStick, Shaping, unit_curvature
from unipost.signals import (
    BatchZScore,
    LeaveOneOut,
    Mean,
    Ones,
    Preference,
    Raw,
    ZScore,
)
from unipost.weights import Truncate


def value_and_grad(objective, streams, batch):
    """Loss and the gradient of all streams, NaN-free outside the mask too."""

    def loss(policy, lse, vocab, entropy):
        return objective(Streams(policy, entropy, lse, vocab), batch)[0]

    args = (streams.policy, streams.lse, streams.vocab, streams.entropy)
    value, grads = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(*args)
    return float(value), Streams(grads[0], grads[3], grads[1], grads[2])


def close(a, b, tol=1e-12):
    """Same loss and gradient, relative to the gradient's norm."""
    assert a[0] == pytest.approx(b[0], rel=tol, abs=1e-15)
    norm = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(b[1])))
    assert norm > 0
    for x, y in zip(jax.tree.leaves(a[1]), jax.tree.leaves(b[1]), strict=True):
        assert float(jnp.abs(x - y).max()) <= tol * norm


def test_every_preset_has_an_example():
    assert {name.split("-")[0] for name in EXAMPLES} == set(PRESETS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_values_outside_the_mask_are_never_read(name):
    streams, batch = streams_and_batch(name)
    kept = np.array(batch.mask)

    def filled(x):
        x = np.array(x)
        if x.shape[:3] != kept.shape:
            return jnp.asarray(x)
        mask = kept[..., None] if x.ndim == 4 else kept
        return jnp.asarray(np.where(mask, x, -3.7))

    clean = value_and_grad(EXAMPLES[name], *jax.tree.map(filled, (streams, batch)))
    dirty = value_and_grad(EXAMPLES[name], streams, batch)
    close(dirty, clean)
    assert float(jnp.abs(jnp.where(kept, 0.0, dirty[1].policy)).max()) == 0.0


@pytest.mark.parametrize("name", EXAMPLES)
def test_permuting_rows_changes_nothing(name):
    streams, batch = streams_and_batch(name)
    rng = np.random.default_rng(1)
    prompts, rows = rng.permutation(6), rng.permutation(group(name))

    def permute(x):
        return x[prompts][:, rows]

    moved = jax.tree.map(permute, (streams, batch))
    value, grads = value_and_grad(EXAMPLES[name], streams, batch)
    close(value_and_grad(EXAMPLES[name], *moved), (value, jax.tree.map(permute, grads)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_padding_and_empty_rows_change_nothing(name):
    streams, batch = streams_and_batch(name)
    rows = 0 if group(name) == 2 else 2  # a preference stays a group of two

    def pad(x):
        widths = [(0, 3), (0, rows)] + [(0, 4)] * (x.ndim > 2) + [(0, 0)] * (x.ndim > 3)
        fill = 0 if x.dtype == bool else 9.9
        return jnp.pad(x, widths, constant_values=fill)

    value, grads = value_and_grad(EXAMPLES[name], streams, batch)
    padded = value_and_grad(EXAMPLES[name], *jax.tree.map(pad, (streams, batch)))
    g, t = grads.policy.shape[1:]
    close((padded[0], jax.tree.map(lambda x: x[:6, :g, :t], padded[1])), (value, grads))


@pytest.mark.parametrize("name", EXAMPLES)
def test_microbatches_add_up(name):
    """Loss, metrics and gradient of uneven slices sum to those of the whole."""
    objective = EXAMPLES[name]
    streams, batch = streams_and_batch(name)
    whole = value_and_grad(objective, streams, batch)
    metrics = objective(streams, batch)[1]
    prepared = objective.prepare(batch)
    total, parts, sums = 0.0, [], {}
    for cut in (slice(0, 1), slice(1, 4), slice(4, 6)):
        piece = jax.tree.map(lambda x, cut=cut: x[cut], prepared)

        def loss(s, piece=piece):
            return objective.loss(s, piece)

        piece_streams = jax.tree.map(lambda x, cut=cut: x[cut], streams)
        (value, numbers), grad = jax.value_and_grad(loss, has_aux=True)(piece_streams)
        total, parts = total + float(value), [*parts, grad]
        sums = {k: sums.get(k, 0.0) + float(v) for k, v in numbers.items()}
    close((total, jax.tree.map(lambda *x: jnp.concatenate(x), *parts)), whole)
    for key, value in metrics.items():
        assert sums[key] == pytest.approx(float(value), rel=1e-12, abs=1e-14), key


@pytest.mark.parametrize("name", EXAMPLES)
def test_eight_devices_equal_one(name):
    streams, batch = streams_and_batch(name, prompts=8)
    whole = value_and_grad(EXAMPLES[name], streams, batch)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(
        (streams, batch), NamedSharding(mesh, PartitionSpec("data"))
    )

    @jax.jit
    def run(streams, batch):
        loss = lambda s: EXAMPLES[name](s, batch)[0]  # noqa: E731
        return jax.value_and_grad(loss)(streams)

    value, grads = run(*sharded)
    assert len(grads.policy.sharding.device_set) == 8
    close((float(value), grads), whole)


@pytest.mark.parametrize("name", EXAMPLES)
def test_float32_agrees_with_float64(name):
    streams, batch = streams_and_batch(name)

    def single(x):
        return x.astype(jnp.float32) if x.dtype == jnp.float64 else x

    want = value_and_grad(EXAMPLES[name], streams, batch)
    got = value_and_grad(EXAMPLES[name], *jax.tree.map(single, (streams, batch)))
    assert got[0] == pytest.approx(want[0], rel=1e-5, abs=1e-6)
    norm = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(want[1])))
    for x, y in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        assert float(jnp.abs(x - y).max()) < 1e-5 * norm


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_empty_batch_gives_zero(name):
    streams, batch = streams_and_batch(name)
    empty = replace(batch, mask=jnp.zeros_like(batch.mask))
    value, grads = value_and_grad(EXAMPLES[name], streams, empty)
    assert value == 0.0
    assert all(float(jnp.abs(x).max()) == 0.0 for x in jax.tree.leaves(grads))


COEFFICIENT = [
    name
    for name, o in EXAMPLES.items()
    if o.gauge == "zero"
    and o.entropy_bonus is None
    and (o.penalty is None or o.penalty.estimator != "exact")
]


@pytest.mark.parametrize("name", COEFFICIENT)
def test_gradient_by_central_differences(name):
    """The gradient in every token's log-prob is the slope of the loss.

    DFT and other detached weights are left out: their loss is not the potential.
    """
    objective = EXAMPLES[name]
    if isinstance(objective.link, Weighted):
        return
    streams, batch = streams_and_batch(name, prompts=2, tokens=3)
    _, grads = value_and_grad(objective, streams, batch)
    h = 1e-6
    for index in map(tuple, np.argwhere(np.array(batch.mask))):
        up, down = (
            objective(replace(streams, policy=streams.policy.at[index].add(s)), batch)
            for s in (h, -h)
        )
        slope = (float(up[0]) - float(down[0])) / (2 * h)
        assert float(grads.policy[index]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def closed_coefficient(name, streams, batch):
    """The gradient coefficients of the papers, written out."""
    p = jnp.where(batch.mask, streams.policy, 0.0)
    ref = jnp.where(batch.mask, batch.reference, 0.0)
    u = jnp.exp(p - jnp.where(batch.mask, batch.old, 0.0))
    r = np.array(batch.rewards)
    kept = np.array(batch.mask.any(-1))
    mean = np.array([x[k].mean() for x, k in zip(r, kept, strict=True)])[:, None]
    count = kept.sum(1, keepdims=True)
    centred = np.where(kept, r - mean, 0.0)
    delta = p - ref
    match name:
        case "sft":
            return jnp.ones_like(p)
        case "f_sft":  # Pearson at beta 1/2: beta max(1 - r/2, 0)
            return 0.5 * jnp.maximum(1 - 0.5 * delta / 2, 0)
        case "dft":
            return jnp.exp(p)
        case "dpo":
            d = 0.1 * delta.sum(-1)
            sign = np.sign(r[:, :1] - r[:, 1:])
            margin = sign * (d[:, :1] - d[:, 1:])
            signs = np.concatenate([sign, -sign], 1)
            return (0.1 * jax.nn.sigmoid(-margin) * signs)[..., None]
        case "rloo":
            return (centred * count / np.maximum(count - 1, 1))[..., None]
        case "dapo":
            std = np.array([x[k].std(ddof=1) for x, k in zip(r, kept, strict=True)])
            a = (centred / (std[:, None] + 1e-6))[..., None]
            clipped = ((a > 0) & (u > 1.28)) | ((a < 0) & (u < 0.8))
            return jnp.where(clipped, 0.0, a * u)
        case "luffy":
            off = jnp.asarray(batch.off_policy)[..., None]
            shaped = 0.1 * jnp.exp(p) / (jnp.exp(p) + 0.1) ** 2
            return centred[..., None] * jnp.where(off, shaped, u)
        case "rloo-sequence":
            whole = jnp.exp((p - jnp.where(batch.mask, batch.old, 0.0)).sum(-1))
            return ((centred * count / np.maximum(count - 1, 1)) * whole)[..., None]


CLOSED = ["sft", "f_sft", "dft", "dpo", "rloo", "dapo", "luffy", "rloo-sequence"]


@pytest.mark.parametrize("name", CLOSED)
def test_gradient_coefficient_is_the_papers(name):
    streams, batch = streams_and_batch(name)
    batch = replace(batch, weight=None)
    objective = EXAMPLES[name]
    if name.startswith("rloo"):  # its penalty is inside the reward: look without it
        clamp = objective.clamp if objective.anchor == "old" else None
        objective = replace(objective, penalty=None, clamp=clamp)
    got = gradient_coefficient(objective, streams, batch)
    kept = batch.mask
    if objective.signal == Preference():  # a pair with an empty response is dropped
        kept = kept & batch.mask.any(-1).all(-1)[:, None, None]
    want = jnp.where(kept, closed_coefficient(name, streams, batch), 0.0)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["f_sft-lse", "grpo-exact", "grpo-entropy"])
def test_no_coefficient_where_the_gradient_is_not_one_per_token(name):
    streams, batch = streams_and_batch(name)
    with pytest.raises(ValueError, match="goes through the whole vocabulary"):
        gradient_coefficient(EXAMPLES[name], streams, batch)


def at_step_zero(name):
    """The batch when policy, old and reference are still one model."""
    streams, batch = streams_and_batch(name)
    same = replace(
        batch,
        weight=None,
        old=streams.policy,
        reference=streams.policy,
        reference_lse=streams.lse,
        reference_vocab=streams.vocab,
    )
    return streams, same


@pytest.mark.parametrize("name", EXAMPLES)
def test_step_zero(name):
    """Ratio 1, implicit reward 0, KL 0, nothing clipped; DPO's loss is log 2."""
    objective = EXAMPLES[name]
    _, metrics = objective(*at_step_zero(name))
    if objective.anchor != "none" and objective.gauge != "lse":
        assert float(metrics["implicit_reward"]) == 0.0
    if "penalty" in metrics:
        assert float(metrics["penalty"]) == 0.0
    for share in ("clip_share", "clamp_share"):
        assert float(metrics.get(share, 0.0)) == 0.0
    if isinstance(objective.link, Logistic):
        assert float(metrics["loss"]) == pytest.approx(np.log(2.0), rel=1e-15)


@pytest.mark.parametrize("name", EXAMPLES)
def test_equal_rewards_give_no_gradient(name):
    objective = EXAMPLES[name]
    if isinstance(objective.signal, (Ones, Preference, Raw)) or "exact" in name:
        return
    clamp = None if objective.anchor == "none" else objective.clamp
    objective = replace(objective, penalty=None, entropy_bonus=None, clamp=clamp)
    streams, batch = streams_and_batch(name)
    equal = replace(batch, rewards=jnp.full(batch.rewards.shape, 0.1))
    _, grads = value_and_grad(objective, streams, equal)
    assert float(jnp.abs(grads.policy).max()) == 0.0


def test_advantages_by_hand():
    """Every baseline on one group with an empty and an unscored row."""
    mask = jnp.array([[[1, 1], [1, 0], [1, 1], [0, 0], [1, 1]]])
    batch = Batch(mask=mask, rewards=jnp.array([[1.0, 0.0, 0.5, 7.0, jnp.nan]]))
    kept = np.array([1.0, 0.0, 0.5])
    want = {
        Raw(): kept,
        Mean(): kept - 0.5,
        LeaveOneOut(): kept - np.array([0.25, 0.75, 0.5]),
        ZScore(eps=0.25): (kept - 0.5) / (np.std(kept, ddof=1) + 0.25),
        ZScore(ddof=0, eps=0.0): (kept - 0.5) / np.std(kept),
    }
    for signal, advantage in want.items():
        got = Objective(signal=signal).prepare(batch).signal[0, :, 0]
        np.testing.assert_allclose(got, [*advantage, 0.0, 0.0], atol=1e-15)


def test_batch_z_score_by_hand():
    rewards = np.array([[1.0, 0.0], [1.0, 1.0]])
    batch = Batch(mask=jnp.ones((2, 2, 1)), rewards=jnp.asarray(rewards))
    std = np.std(rewards, ddof=1)
    for center, mean in {"batch": 0.75, "group": rewards.mean(1)[:, None]}.items():
        signal = BatchZScore(center, eps=0.0)
        got = Objective(signal=signal).prepare(batch).signal[..., 0]
        np.testing.assert_allclose(got, (rewards - mean) / std, rtol=1e-12)


def test_process_supervision_by_hand():
    """Pooled z-score of step rewards, then the sum over the steps still to end."""
    steps = jnp.array([[[0, 1, 0, 1], [1, 0, 0, 0]]])
    rewards = jnp.array([[[0, 1.0, 0, 0.0], [0.5, 0, 0, 0]]])
    batch = Batch(mask=jnp.ones((1, 2, 4)), rewards=rewards, steps=steps)
    pool = np.array([1.0, 0.0, 0.5])
    z = (pool - 0.5) / (np.std(pool, ddof=1) + 1e-6)
    signal = Objective(signal=ZScore(supervision="process")).prepare(batch).signal[0]
    want = [[z[0] + z[1], z[0] + z[1], z[1], z[1]], [z[2], 0, 0, 0]]
    np.testing.assert_allclose(signal, want, atol=1e-12)


def test_a_tie_compares_nothing():
    streams, batch = streams_and_batch("dpo")
    tied = replace(batch, rewards=batch.rewards.at[2].set(0.5))
    dropped = replace(batch, mask=batch.mask.at[2].set(False))
    close(
        value_and_grad(presets.dpo(), streams, tied),
        value_and_grad(presets.dpo(), streams, dropped),
    )


def test_ppo_is_importance_sampling_minus_a_hockey_stick():
    """min(u A, clip(u) A) = u A - |A| (u - (1+high))_+ or ((1-low) - u)_+."""
    rng = np.random.default_rng(0)
    u, advantage = np.exp(rng.normal(size=500)), rng.normal(size=500)
    low, high = 0.1, 0.3
    link = Clipped(low, high).loss(jnp.asarray(u - 1), jnp.asarray(advantage), _no)
    plain = -np.minimum(u * advantage, np.clip(u, 1 - low, 1 + high) * advantage)
    np.testing.assert_allclose(link, plain, atol=1e-15)
    upper = np.array(HockeyStick(1 + high).f(jnp.log(u)))
    lower = np.maximum(1 - low - u, 0)
    stick = np.where(advantage > 0, upper, lower)
    np.testing.assert_allclose(
        link, -u * advantage + abs(advantage) * stick, atol=1e-14
    )


def _no(anchor):
    raise AssertionError("this link reads no ratio of its own")


def test_on_policy_clip_importance_and_reinforce_have_one_gradient():
    streams, batch = at_step_zero("grpo")
    ratio = presets.dapo()
    plain = replace(presets.reinforce(ZScore()), aggregation=TokenMean())
    want = value_and_grad(plain, streams, batch)[1].policy
    for objective in (
        ratio,
        replace(ratio, link=Importance(), anchor="self", clamp=None),
    ):
        got = value_and_grad(objective, streams, batch)[1].policy
        np.testing.assert_allclose(got, want, atol=1e-15)


def test_f_sft_with_total_variation_is_sft():
    """Inside |r| < 1/2: beta times the gradient of SFT, in every gauge."""
    streams, batch = streams_and_batch("f_sft", spread=0.05)
    want = value_and_grad(presets.sft(), streams, batch)[1].policy
    for gauge in ("zero", "lsediff"):
        objective = presets.f_sft(TotalVariation(), 0.1, gauge)
        got = value_and_grad(objective, streams, batch)[1].policy
        np.testing.assert_allclose(got, 0.1 * want, atol=1e-15)


def test_f_sft_tends_to_sft_as_beta_vanishes():
    streams, batch = streams_and_batch("f_sft")
    want = value_and_grad(presets.sft(), streams, batch)[1].policy
    for divergence in (PearsonChi2(), SquaredHellinger(), ReverseKL()):
        got = value_and_grad(presets.f_sft(divergence, 1e-6), streams, batch)[1].policy
        np.testing.assert_allclose(got / 1e-6, want, rtol=1e-5)


@pytest.mark.parametrize("divergence", [SquaredHellinger(), TotalVariation()])
def test_no_token_is_dead_outside_the_dual_domain(divergence):
    """Below the domain phi goes on along its tangent, capped; the share is told."""
    batch = Batch(mask=jnp.ones((1, 1, 3)), reference=jnp.array([[[-1.0, -1.0, -1.0]]]))
    logps = jnp.array([[[-1.0, -4.0, -9.0]]])
    objective = presets.f_sft(divergence, cap=50.0)
    (_, metrics), grad = jax.value_and_grad(objective, has_aux=True)(logps, batch)
    assert float(metrics["dual_capped_share"]) == pytest.approx(2 / 3)
    slope = 1.0 if divergence == TotalVariation() else 50.0
    np.testing.assert_allclose(-3 * grad[0, 0], [1.0, slope, slope], rtol=1e-9)


def test_clamp_reports_its_share_and_is_off_for_the_linear_reward():
    streams, batch = streams_and_batch("dpo")
    far = replace(batch, reference=batch.reference - 30.0)
    _, metrics = presets.f_dpo(JensenShannon())(streams, far)
    assert float(metrics["clamp_share"]) == pytest.approx(1.0)
    assert "clamp_share" not in presets.dpo()(streams, far)[1]


def test_a_sweep_over_numbers_compiles_once_and_vmaps():
    streams, batch = streams_and_batch("grpo")
    traces = []

    @jax.jit
    def loss(objective):
        traces.append(1)
        return objective(streams, batch)[0]

    settings = [(0.2, 0.3, 0.01), (0.1, 0.2, 0.4)]
    got = [float(loss(presets.grpo(low, high, kl))) for low, high, kl in settings]
    assert len(traces) == 1
    low, high, kl = jnp.array(settings).T
    swept = jax.vmap(lambda *a: loss(presets.grpo(*a)))(low, high, kl)
    np.testing.assert_allclose(swept, got, rtol=1e-12)
    assert got[0] != got[1]


def test_needs_names_just_what_is_read():
    needs = {
        "sft": {"policy"},
        "f_sft": {"policy", "reference"},
        "f_sft-lse": {"policy", "reference", "lse"},
        "dpo": {"policy", "reference"},
        "rloo": {"policy", "rewards", "old", "reference"},
        "grpo": {"policy", "rewards", "old", "reference"},
        "grpo-exact": {"policy", "rewards", "old", "vocab", "reference_vocab"},
        "dapo": {"policy", "rewards", "old"},
        "luffy": {"policy", "rewards", "old", "off_policy"},
    }
    for name, want in needs.items():
        assert EXAMPLES[name].needs == want


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_missing_stream_is_named_and_an_unneeded_one_is_not_read(name):
    objective = EXAMPLES[name]
    streams, batch = streams_and_batch(name)
    optional = {f.name for f in fields(Batch)} - {"mask", "weight"}
    rewards_order_pairs = {"rewards"} if group(name) == 2 else set()
    for field in sorted(optional - rewards_order_pairs):
        without = replace(batch, **{field: None})
        if field in objective.needs:
            with pytest.raises(ValueError, match=f"batch.{field}: missing"):
                objective(streams, without)
        else:
            assert objective(streams, without)[0] == objective(streams, batch)[0]


def test_shapes_are_checked_by_name():
    good = jnp.ones((2, 1, 3))
    with pytest.raises(ValueError, match=r"batch.mask: shape \(2, 3\)"):
        presets.sft()(good, Batch(mask=jnp.ones((2, 3))))
    with pytest.raises(ValueError, match=r"batch.reference: shape \(2, 1, 4\)"):
        presets.dpo()(good, Batch(mask=good, reference=jnp.ones((2, 1, 4))))
    with pytest.raises(ValueError, match=r"logps: shape \(2, 1, 2\)"):
        presets.sft()(good[..., :2], Batch(mask=good))
    with pytest.raises(ValueError, match="signal.preference: groups of 1"):
        presets.dpo()(good, Batch(mask=good, reference=good))


@pytest.mark.parametrize("name", EXAMPLES)
def test_explain_says_ratio_loss_and_coefficient(name):
    text = explain(EXAMPLES[name])
    lines = dict(line.split("  ", 1) for line in text.splitlines())
    assert {"ratio", "loss", "signal", "aggregation", "GC", "reads"} <= {
        k.strip() for k in lines
    }
    assert all(stream in text for stream in EXAMPLES[name].needs)
    assert max(map(len, text.splitlines())) < 100


PAIR = {"link": Logistic(), "signal": Preference(), "anchor": "reference"}
PAIR |= {"level": "sequence", "aggregation": SequenceMean()}
RATIO = {"divergence": unit_curvature(PearsonChi2()), "anchor": "old"}
REFUSED = {
    "divergence: PearsonChi2 as a preference link has finite f'(0+) = -2": lambda: (
        presets.f_dpo(PearsonChi2())
    ),
    "divergence: TotalVariation as a preference link": lambda: presets.f_dpo(
        TotalVariation()
    ),
    "divergence: Alpha as a preference link": lambda: presets.f_dpo(Alpha(-1.0)),
    "level: token with JensenShannon needs the vocabulary correction": lambda: (
        Objective(JensenShannon(), **(PAIR | {"level": "token"}))
    ),
    "level: token sums to the sequence for reverse_kl": lambda: Objective(
        **(PAIR | {"level": "token"})
    ),
    "level: sequence_mean with ForwardKL": lambda: Objective(
        ForwardKL(), **(PAIR | {"level": "sequence_mean"})
    ),
    "anchor: self makes every margin 0": lambda: Objective(
        **(PAIR | {"anchor": "self"})
    ),
    "anchor: none with JensenShannon": lambda: Objective(
        JensenShannon(), **(PAIR | {"anchor": "none"})
    ),
    "aggregation: TokenMean on pairs": lambda: Objective(
        **(PAIR | {"aggregation": TokenMean()})
    ),
    "signal: Ones with a pair link": lambda: Objective(**(PAIR | {"signal": Ones()})),
    "link: Linear on preferences": lambda: Objective(signal=Preference()),
    "divergence: TotalVariation as a score": lambda: Objective(TotalVariation()),
    "beta f''(1) = 2 with link clipped": lambda: Objective(
        PearsonChi2(), anchor="old", link=Clipped(), signal=Mean()
    ),
    "beta f''(1) = 0.5 with link importance": lambda: Objective(
        **RATIO, beta=0.5, link=Importance(), signal=Mean()
    ),
    "anchor: none with link clipped": lambda: Objective(
        **(RATIO | {"anchor": "none"}), link=Clipped(), signal=Mean()
    ),
    "anchor: old with Shaping": lambda: Objective(
        Shaping(), anchor="old", signal=Mean()
    ),
    "lambda(x) does not cancel": lambda: Objective(
        ForwardKL(), anchor="reference", signal=Mean()
    ),
    "link.over: self makes the weight constant": lambda: Objective(
        link=Weighted(Truncate(1.0), "self")
    ),
    "link.weight.cap: a probability never exceeds": lambda: Objective(
        link=Weighted(Truncate(2.0), "none")
    ),
    "clamp: has no effect with anchor none": lambda: Objective(clamp=20.0),
    "divergence: ForwardKL with link matching": lambda: Objective(
        ForwardKL(), anchor="reference", link=Matching(PearsonChi2())
    ),
    "anchor: none with link matching": lambda: Objective(link=Matching(PearsonChi2())),
    "level: sequence with link matching": lambda: Objective(
        anchor="reference", level="sequence", link=Matching(PearsonChi2())
    ),
    "signal: Mean with link matching": lambda: Objective(
        anchor="reference", link=Matching(PearsonChi2()), signal=Mean()
    ),
    "link.divergence: HockeyStick has phi'(0) != 1": lambda: presets.f_sft(
        HockeyStick(1.5)
    ),
    "link.divergence: Shaping has phi'(0) != 1": lambda: presets.f_sft(Shaping()),
    "gauge: lse without link matching": lambda: Objective(gauge="lse"),
    "level: sequence with process supervision": lambda: Objective(
        level="sequence",
        signal=ZScore(supervision="process"),
        aggregation=SequenceMean(),
    ),
    "leave_one_out.supervision": lambda: LeaveOneOut("process"),
    "aggregation: SequenceSum would multiply": lambda: Objective(
        level="sequence", signal=Mean(), aggregation=SequenceSum()
    ),
    "aggregation: Constant would multiply": lambda: Objective(
        level="sequence_mean", signal=Mean(), aggregation=Constant(8.0)
    ),
    "penalty.estimator: in_reward with signal Ones": lambda: Objective(
        penalty=Penalty(0.1, estimator="in_reward")
    ),
    "penalty.estimator: in_reward is one number per sequence": lambda: Objective(
        signal=ZScore(supervision="process"),
        penalty=Penalty(0.1, estimator="in_reward"),
    ),
    "penalty.divergence": lambda: Penalty(0.1, Shaping()),
    "penalty.estimator: k1 of TotalVariation": lambda: Penalty(
        0.1, TotalVariation(), "k1"
    ),
    "kl: 0 changes nothing; write kl: null": lambda: presets.grpo(kl=0.0),
    "estimator: k2 without a KL": lambda: presets.grpo(kl=None, estimator="k2"),
    "penalty.weight: 0 is not positive": lambda: Penalty(0.0),
    "off_policy: with signal Ones": lambda: Objective(off_policy=Score(Shaping())),
    "off_policy.link: Logistic in a mixed group": lambda: Objective(
        signal=Mean(), off_policy=Score(link=Logistic())
    ),
    "off_policy.level: sequence; write token": lambda: Objective(
        signal=Mean(), off_policy=Score(level="sequence")
    ),
    "off_policy.anchor: none with link clipped": lambda: Objective(
        signal=Mean(), off_policy=Score(unit_curvature(PearsonChi2()), link=Clipped())
    ),
    "entropy_bonus: 0; write a number, or null": lambda: Objective(entropy_bonus=0.0),
    "beta: -1 is not positive": lambda: presets.dpo(-1.0),
    "clipped.low: 0 is not positive": lambda: presets.grpo(0.0),
    "squared.tau: 0 is not positive": lambda: Squared(0.0),
    "matching.cap: 1 is not above 1": lambda: presets.f_sft(PearsonChi2(), cap=1.0),
    "z_score.ddof: 2 is not 0 or 1": lambda: presets.grpo(ddof=2),
    "z_score.eps: -1 is negative": lambda: presets.grpo(eps=-1.0),
    "constant.length: 0 is not positive": lambda: presets.dr_grpo(0.0),
    "luffy: the loss is divided by max_length or": lambda: presets.luffy(),
    "luffy: the loss is divided by max_length": lambda: presets.luffy(
        8.0, aggregation=TokenMean()
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_in_one_line(message):
    with pytest.raises(ValueError) as error:
        REFUSED[message]()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


CHANGES = {
    "sft": [{"aggregation": SequenceMean()}],
    "f_sft": [
        {"divergence": SquaredHellinger()},
        {"beta": 0.3},
        {"gauge": "lse"},
        {"cap": 1.01},
        {"aggregation": SequenceMean()},
    ],
    "dft": [{"aggregation": SequenceMean()}],
    "dpo": [{"beta": 0.2}],
    "f_dpo": [{"divergence": ForwardKL()}, {"beta": 0.2}],
    "ipo": [{"tau": 0.2}, {"length": "sequence_mean"}],
    "reinforce": [{"signal": Mean()}, {"aggregation": TokenMean()}],
    "rloo": [{"kl": None}, {"kl": 0.2}, {"level": "sequence"}],
    "grpo": [
        {"low": 0.05},
        {"high": 0.05},
        {"kl": 0.4},
        {"kl": None},
        {"estimator": "k2"},
        {"ddof": 0},
        {"eps": 0.1},
    ],
    "dr_grpo": [{"max_length": 3.0}, {"low": 0.05}, {"high": 0.05}, {"kl": 0.1}],
    "dapo": [{"low": 0.05}, {"high": 0.05}, {"ddof": 0}, {"eps": 0.1}],
    "luffy": [
        {"max_length": 3.0},
        {"gamma": 0.3},
        {"clip": 0.05},
        {"signal": ZScore()},
        {"max_length": None, "aggregation": TokenMean()},
    ],
}
BASE = {
    "f_sft": {"divergence": PearsonChi2()},
    "f_dpo": {"divergence": JensenShannon()},
    "dr_grpo": {"max_length": 9.0},
    "luffy": {"max_length": 9.0},
}


@pytest.mark.parametrize("name", PRESETS)
def test_every_argument_of_every_preset_changes_the_loss(name):
    import inspect

    streams, batch = streams_and_batch(name, spread=0.6)
    base = BASE.get(name, {})
    before = float(PRESETS[name](**base)(streams, batch)[0])
    for change in CHANGES[name]:
        after = float(PRESETS[name](**(base | change))(streams, batch)[0])
        assert after != before, change
    changed = set().union(*CHANGES[name])
    assert changed == set(inspect.signature(PRESETS[name]).parameters)


def test_docstrings_carry_formula_and_source():
    for preset in PRESETS.values():
        doc = preset.__doc__ or ""
        assert "L = " in doc or "-A u" in doc, preset
        assert doc.count("\n") >= 3


def test_grows_lists_the_recipe_that_is_no_mean():
    """LUFFY's released normaliser: twice the batch, twice the loss."""
    for name in ("luffy", "grpo"):
        streams, batch = streams_and_batch(name)
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), (streams, batch))
        ratio = EXAMPLES[name](*twice)[0] / EXAMPLES[name](streams, batch)[0]
        assert float(ratio) == pytest.approx(2.0 if name in GROWS else 1.0)


def test_linear_of_a_custom_link_is_the_default():
    assert Objective().link == Linear()
    assert presets.sft() == Objective()
