"""TRL's options in combinations that no recorded case has, against numpy oracles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle_trl
import pytest
from trl_rows import CLIPPED, advantages_of, batch_of, computed, options_of, streams_of

from unipost import presets, trl
from unipost.advantages import Given
from unipost.signals import ZScore

EXACT = {"rtol": 1e-9, "atol": 1e-11}

VALUES = {
    "loss_type": [*CLIPPED, "cispo", "sapo", "vespo"],
    "importance_sampling_level": ["token", "sequence"],
    "beta": [0.0, 0.04],
    "epsilon_low": [0.1, 0.2],
    "epsilon_high": [0.2, 0.28, 1.5],
    "delta": [None, 1.4],
    "use_bias_correction_kl": [True, False],
    "max_completion_length": [7],
    "num_items_in_batch": [0, 33],
    "gradient_accumulation_steps": [1, 3],
    "steps_per_generation": [1, 4],
    "mode": ["train", "eval"],
    "top_entropy_quantile": [1.0, 0.3, 0.5],
    "entropy_coef": [0.0, 0.05],
    "off_policy_mask_threshold": [None, 0.02],
    "on_policy": [False, False, True],
    "sapo_temperature_pos": [0.7, 2.0],
    "sapo_temperature_neg": [1.05, 3.0],
    "vespo": [(2.0, 3.0, 3.0, 2.0), (0.7, 0.3, 2.2, 0.0)],
}


def drawn(seed, per_token=True):
    """Random options of GRPO; rows [8, 6], one empty, with garbage outside the mask."""
    rng = np.random.default_rng(seed)
    hyper = {name: v[rng.integers(len(v))] for name, v in VALUES.items()}
    shape = (8, 6)
    mask = np.arange(6) < rng.integers(1, 7, 8)[:, None]
    mask[rng.integers(8)] = False
    policy = -rng.exponential(1.0, shape)
    drift = [policy + 0.3 * rng.normal(size=shape) for _ in range(3)]
    inputs = dict(zip(("old_logps", "ref_logps", "sampling_logps"), drift, strict=True))
    whole = not per_token or hyper["importance_sampling_level"] == "sequence"
    advantages = rng.normal(size=(8,) if whole or seed % 2 else shape)
    inputs |= {"policy_logps": policy, "advantages": advantages}
    inputs["entropies"] = rng.exponential(1.0, shape)
    inputs = {
        k: np.where(mask, v, 1e3 * rng.normal()) if v.ndim == 2 else v
        for k, v in inputs.items()
    }
    if hyper["on_policy"]:
        del inputs["old_logps"]
    return hyper, inputs | {"mask": mask.astype(float)}


def check_against_oracle(family, hyper, inputs, tol=EXACT):
    loss, metrics, grad = computed(family, hyper, inputs)
    want = oracle_trl.ORACLES[family](hyper, inputs)
    np.testing.assert_allclose(loss, want, **tol)
    slope = oracle_trl.gradient(family, hyper, inputs)
    np.testing.assert_allclose(grad.policy, slope, rtol=1e-6, atol=2e-8)
    return metrics, grad


@pytest.mark.parametrize("seed", range(40))
def test_random_options_of_grpo(seed):
    """Options meet that no recorded case combines; some with the sampler's weight."""
    hyper, inputs = drawn(seed)
    sampled = inputs.pop("sampling_logps")
    if seed % 3 == 0 and not hyper["on_policy"]:
        hyper["off_policy_mask_threshold"] = None
        mode = ("token_truncate", "sequence_mask")[seed % 2]
        mode = "token_mask" if hyper["loss_type"] == "vespo" else mode
        limits = {"mode": mode, "clip_max": 1.5, "clip_min": 0.4}
        held = inputs | {"sampling_logps": sampled}
        inputs["importance_sampling_ratio"] = oracle_trl.is_correction(limits, held)
    elif hyper["off_policy_mask_threshold"] is not None:
        inputs["sampling_logps"] = sampled
    sapo = hyper["loss_type"] == "sapo"  # TRL holds its temperatures in float32
    tol = {"rtol": 1e-6, "atol": 1e-7} if sapo else EXACT
    _, grad = check_against_oracle("grpo", hyper, inputs, tol)
    steps = hyper["gradient_accumulation_steps"] if hyper["mode"] == "train" else 1
    bonus = np.sum(grad.entropy)
    assert bonus == pytest.approx(-hyper["entropy_coef"] / steps, abs=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_random_options_of_gmpo(seed):
    hyper, inputs = drawn(seed, per_token=False)
    check_against_oracle("gmpo", hyper, inputs)


@pytest.mark.parametrize("seed", range(6))
def test_random_rloo_and_a2po(seed):
    hyper, inputs = drawn(seed, per_token=False)
    inputs.setdefault("old_logps", inputs["policy_logps"] + 0.1)
    bounds = {k: hyper[k] for k in ("epsilon_low", "epsilon_high")}
    check_against_oracle("rloo", bounds, inputs)
    rng = np.random.default_rng(seed)
    rewards = {"rewards": rng.normal(size=8), "value_rewards": rng.normal(size=(8, 5))}
    check_against_oracle("a2po", {"beta1": 0.4, "beta2": 0.3}, inputs | rewards)


@pytest.mark.parametrize("over", ["stale", "weighted"])
def test_tokens_that_the_sampler_did_not_report(over):
    """NaN of the sampler: ratio 1 in the weight, 0 in the off-policy mask."""
    hyper, inputs = drawn(3, per_token=False)
    hyper |= {"loss_type": "bnpo", "on_policy": False, "entropy_coef": 0.0}
    inputs["old_logps"] = inputs["policy_logps"] - 0.1
    inputs["sampling_logps"] = inputs["policy_logps"] + 0.2
    inputs["sampling_logps"][::2, 1] = np.nan
    if over == "stale":
        hyper["off_policy_mask_threshold"] = 0.05
        check_against_oracle("grpo", hyper, inputs)
        return
    hyper["off_policy_mask_threshold"] = None
    limits = {"mode": "sequence_mask", "clip_max": 3.0, "clip_min": None}
    ratio = oracle_trl.is_correction(limits, inputs)
    options = options_of(hyper, inputs) | {"vllm_importance_sampling_correction": True}
    objective = trl.grpo(signal=Given(), **options)
    loss, _ = objective(streams_of(inputs), batch_of(inputs))
    want = oracle_trl.grpo(hyper, inputs | {"importance_sampling_ratio": ratio})
    np.testing.assert_allclose(loss, want, **EXACT)


@pytest.mark.parametrize("seed", range(16))
def test_random_advantages(seed):
    """Three rewards, some not given, some rows and one group without any."""
    rng = np.random.default_rng(seed)
    rewards = rng.integers(0, 5, (12, 3)) / 4.0
    rewards[rng.random((12, 3)) < 0.3] = np.nan
    rewards[4:8] = np.nan if seed % 4 else 0.5
    orders, scales = ("sum_then_normalize", "normalize_then_sum"), ("group", "batch")
    hyper = {
        "num_generations": (2, 4, 12)[seed % 3],
        "aggregation": orders[seed % 2],
        "scale_rewards": (*scales, "none")[seed // 2 % 3],
        "reward_weights": (1.0, 0.25, -0.5),
        "beta": 0.1 * (seed % 3),
        "normalize_advantages": bool(seed % 2),
        "reward_clip_range": None if seed % 4 else (-0.5, 1.0),
    }
    shape = (12, 5)
    inputs = {"rewards": rewards, "mask": np.arange(5) < rng.integers(0, 6, (12, 1))}
    inputs |= {name: rng.normal(size=shape) for name in ("old_logps", "ref_logps")}
    for family, oracle in (("grpo_advantages",) * 2, ("rloo", "rloo_advantages")):
        found, _, _ = advantages_of(family, hyper, inputs)
        want = oracle_trl.ORACLES[oracle](hyper, inputs)
        np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-11)


PIECES = {
    "top entropy": trl.grpo(top_entropy_quantile=0.4, signal=Given()),
    "bonus on top entropy": trl.grpo(
        "bnpo", top_entropy_quantile=0.4, entropy_coef=0.1, signal=Given()
    ),
    "top entropy in gmpo": trl.gmpo(0.1, top_entropy_quantile=0.4, signal=Given()),
    "batch scale": trl.grpo("grpo", beta=0.1, scale_rewards="batch"),
    "gdpo": trl.grpo("luspo", multi_objective_aggregation="normalize_then_sum"),
    "rloo": trl.rloo(normalize_advantages=True, reward_weights=(1.0, 0.5)),
    "vespo": trl.grpo(
        "vespo",
        use_vllm=True,
        off_policy_mask_threshold=0.1,
        vllm_importance_sampling_mode="token_mask",
    ),
}


@pytest.mark.parametrize("name", PIECES)
def test_pieces_add_up(name):
    """Statistics are those of the whole batch: slices along P sum to its numbers."""
    objective = PIECES[name]
    _, inputs = drawn(2, per_token=False)
    inputs.setdefault("old_logps", inputs["policy_logps"] + 0.1)
    components = np.random.default_rng(0).normal(size=(4, 2, 2))
    batch = dataclasses.replace(
        batch_of(inputs, 2),
        components=components,
        rewards=components.sum(-1),
        current_entropy=trl.groups(inputs["entropies"], 2),
    )
    streams = streams_of(inputs, 2)
    prepared = jax.jit(lambda o, b: o.prepare(b))(objective, batch)
    call = jax.value_and_grad(lambda s, o, p: o.loss(s, p), has_aux=True)
    call = jax.jit(call)
    (loss, metrics), grad = call(streams, objective, prepared)
    cut = [
        jax.tree.map(lambda x, i=i: x[i : i + 1], (streams, prepared)) for i in range(4)
    ]
    parts = [call(piece, objective, held) for piece, held in cut]
    np.testing.assert_allclose(sum(part[0][0] for part in parts), loss, **EXACT)
    for key in metrics:
        total = sum(part[0][1][key] for part in parts)
        np.testing.assert_allclose(total, metrics[key], **EXACT)
    pieces = jax.tree.map(lambda *x: jnp.concatenate(x), *[part[1] for part in parts])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **EXACT), pieces, grad)


@pytest.mark.parametrize(
    "alias, options, name",
    [
        (trl.grpo, {"loss_type": "sapo", "epsilon": 0.1}, "epsilon"),
        (trl.grpo, {"loss_type": "vespo", "delta": 2.0}, "delta"),
        (trl.grpo, {"loss_type": "cispo", "sapo_temperature_pos": 2.0}, "sapo"),
        (trl.grpo, {"loss_type": "grpo", "num_items_in_batch": 9}, "num_items"),
        (trl.grpo, {"loss_type": "bnpo", "steps_per_generation": 2}, "steps_per"),
        (trl.grpo, {"loss_type": "dr_grpo"}, "max_completion_length"),
        (trl.grpo, {"max_completion_length": 9}, "max_completion_length"),
        (trl.grpo, {"use_bias_correction_kl": False}, "use_bias_correction_kl"),
        (trl.grpo, {"mode": "eval", "gradient_accumulation_steps": 2}, "gradient_acc"),
        (trl.grpo, {"use_vllm": True, "loss_type": "vespo"}, "sequence_mask"),
        (trl.grpo, {"vllm_importance_sampling_clip_max": 2.0}, "clip_max"),
        (trl.grpo, {"signal": Given(), "scale_rewards": "none"}, "scale_rewards"),
        (trl.grpo, {"loss_type": "ppo"}, "loss_type"),
        (trl.gmpo, {"mode": "eval", "gradient_accumulation_steps": 2}, "gradient_acc"),
        (trl.rloo, {"signal": Given(), "beta": 0.1}, "beta"),
        (trl.is_correction, {"mode": "token_truncate", "clip_max": None}, "clip_max"),
        (trl.is_correction, {"clip_max": 0.9, "clip_min": 1.1}, "floor"),
    ],
)
def test_options_that_would_be_ignored_are_refused(alias, options, name):
    with pytest.raises(ValueError, match=name):
        alias(**options)


def test_rows_make_groups():
    rows = np.arange(12).reshape(6, 2)
    np.testing.assert_array_equal(trl.groups(rows, 3)[1, 0], rows[3])
    with pytest.raises(ValueError, match="groups of 4"):
        trl.groups(rows, 4)


SAME = {
    "dapo": (trl.grpo(epsilon_high=0.28), presets.dapo(eps=1e-4)),
    "gspo": (
        trl.grpo("grpo", "sequence", epsilon=3e-4, epsilon_high=4e-4),
        presets.gspo(eps=1e-4),
    ),
    "cispo": (
        trl.grpo("cispo", epsilon_high=1.28),
        presets.cispo(signal=ZScore(eps=1e-4)),
    ),
    "sapo": (trl.grpo("sapo"), presets.sapo(signal=ZScore(eps=1e-4))),
    "vespo": (trl.grpo("vespo"), presets.vespo(signal=ZScore(eps=1e-4))),
    "gmpo": (trl.gmpo(), presets.gmpo(signal=ZScore(eps=1e-4))),
}


@pytest.mark.parametrize("name", SAME)
def test_an_alias_is_the_preset_with_its_conventions(name):
    """Without empty rows and far from every clamp the two are one loss."""
    _, inputs = drawn(1, per_token=False)
    inputs["mask"][:, 0] = 1.0
    inputs["old_logps"] = inputs["policy_logps"] + 0.1
    rewards = np.random.default_rng(0).normal(size=(2, 4))
    batch = dataclasses.replace(batch_of(inputs), rewards=rewards)
    policy = streams_of(inputs).policy
    alias, preset = (jax.value_and_grad(o, has_aux=True) for o in SAME[name])
    ((loss, _), grad), ((want, _), slope) = alias(policy, batch), preset(policy, batch)
    np.testing.assert_allclose(loss, want, rtol=1e-12)
    np.testing.assert_allclose(grad, slope, rtol=1e-9, atol=1e-12)
