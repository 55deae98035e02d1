"""Weights kept in bfloat16: the optimiser against ml_dtypes, and the claims' rules."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from experiments.papers import bf16_claims, bf16_weights
from experiments.papers.rounded import Rounded, is_rounded, rounded
from unipost.optimizers import AdamW

ROOT = Path(__file__).parents[1]
RATE = 3e-3


def nearest(x):
    """The nearest bfloat16 numbers, by ml_dtypes, as float32."""
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def weights(seed, sizes=((5, 7), (40,))):
    rng = np.random.default_rng(seed)
    scales = [10.0 ** rng.uniform(-6, 1, size) for size in sizes]
    return [jnp.asarray(s * rng.normal(size=s.shape), jnp.float32) for s in scales]


def taken(optimizer, params, grads, steps=1):
    """Parameters after `steps` compiled steps with the same gradient."""
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for i in range(steps):
        params, state, _ = step(grads, state, params, jnp.asarray(i), 100)
    return params


def test_rounding_is_to_nearest_and_ties_to_even():
    bits = np.random.default_rng(0).integers(0, 2**16, 4000).astype(np.uint32)
    low = np.resize([0, 1, 2**15 - 1, 2**15, 2**15 + 1, 2**16 - 1], 4000)
    x = ((bits << 16) | low.astype(np.uint32)).view(np.float32)
    normal = (np.abs(x) > 1e-37) & (np.abs(x) < 1e38)
    x = x[normal]
    assert len(x) > 3800 and (rounded(x) != x).any()
    np.testing.assert_array_equal(rounded(x), nearest(x))
    np.testing.assert_array_equal(jax.jit(rounded)(x), nearest(x))


def test_a_step_is_adamws_rounded():
    """After every step a weight is AdamW's, in bfloat16 as ml_dtypes has it."""
    params, own = rounded(weights(1)), Rounded(RATE, weight_decay=0.1)
    plain = AdamW(RATE, weight_decay=0.1)
    state, other = own.init(params), plain.init(params)
    for i in range(5):
        grads = weights(10 + i)
        one, state, _ = jax.jit(own.update)(grads, state, params, i, 100)
        two, other, _ = jax.jit(plain.update)(grads, other, params, i, 100)
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, nearest(b))
        jax.tree.map(np.testing.assert_array_equal, state, other)
        assert is_rounded(one) and not is_rounded(two)
        params = one


def test_it_is_the_librarys_training_of_bfloat16_parameters():
    """The numbers of masters: none, which holds them in arrays of that dtype."""
    params, grads = rounded(weights(2)), weights(3)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    one = taken(Rounded(RATE), params, grads, 4)
    two = taken(AdamW(RATE, masters="none"), half, grads, 4)
    for a, b in zip(one, two, strict=True):
        assert a.dtype == jnp.float32 and b.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, b.astype(jnp.float32))


@pytest.mark.parametrize(("rate", "moves"), [(2.0**-10, False), (2.0**-8, True)])
def test_less_than_half_a_unit_is_lost_however_often(rate, moves):
    """Below 1 bfloat16 numbers are 2^-8 apart; AdamW's first steps are of its rate."""
    ones = {"w": jnp.ones(3)}
    done = taken(Rounded(rate), ones, ones, 50)["w"]
    assert (done < 1).all() == moves and (done == 1).all() != moves
    assert (taken(AdamW(rate), ones, ones, 50)["w"] < 1 - 40 * rate).all()


def test_what_is_compared():
    """A change below half a unit is one in float32 and none in a bfloat16 copy."""
    start = {"w": np.ones((2, 4), np.float32)}
    kept = bf16_weights.Unchanged(start, [])
    kept({"w": jnp.asarray(start["w"]).at[0].add(2.0**-10)}, 1)
    kept({"w": jnp.asarray(start["w"]).at[0, 0].add(2.0**-7)}, 2)
    assert kept.found == [(1, 50.0, 100.0), (2, 87.5, 87.5)]


def test_the_formats_differ_in_the_optimiser_alone():
    place = str(ROOT / "experiments" / "papers" / "base")
    one, other = (
        bf16_weights.experiment("grpo", form, 1e-6, 0, place)
        for form in bf16_weights.FORMATS
    )
    assert type(one.optimizer) is AdamW and type(other.optimizer) is Rounded
    assert vars(one.optimizer) == vars(other.optimizer)
    kept = {**vars(one), "optimizer": None}
    assert kept == {**vars(other), "optimizer": None}


def made_up(sparse, dense, gap):
    """Results with these shares, and bfloat16 `gap` points better than float32."""
    rng = np.random.default_rng(4)
    right = rng.integers(1, 6, (3, 200))
    better = right + (np.arange(200) % 100 < gap * bf16_claims.SAMPLES)
    runs = {bf16_claims.BASE: {"correct": (right - 1).tolist()}}
    for rate in ("1e-06", "1e-05", "0.0001"):
        for method in ("grpo", "sft"):
            for form, share in (("bfloat16", sparse), ("float32", dense)):
                own: dict[str, Any] = {"unchanged": [share] * 3}
                own |= {"copied": [sparse] * 3}
                own["correct"] = better if form == "bfloat16" else right
                runs[f"{method}/{form}@{rate}"] = own
    return {"runs": runs}


@pytest.mark.parametrize(
    ("made", "failing"),
    [
        ((80.0, 0.1, 1), set()),
        ((40.0, 0.1, 1), {"bf16_sparse", "sft_sparse", "copy_sparse"}),
        ((80.0, 1.5, 1), {"fp32_dense", "sft_dense"}),
        ((80.0, 0.1, 8), {"same_accuracy", "same_learned"}),
    ],
)
def test_verdicts_follow_from_the_numbers(made, failing):
    claims = bf16_claims.judged(made_up(*made))
    words = {name: claim["found"]["verdict"] for name, claim in claims.items()}
    assert {n for n, word in words.items() if word == "not supported"} == failing
    assert set(words.values()) <= {"supported", "not supported"}


def test_the_stored_verdicts_are_those_of_the_stored_runs():
    file = ROOT / "paper_figs" / "data" / "bf16_weights.json"
    stored = json.loads(file.read_text())
    again = json.loads(json.dumps(bf16_claims.judged(stored)))
    assert again == stored["claims"]
    for arm, own in stored["runs"].items():
        if "/bfloat16@" in arm:
            assert own["copied"] == own["unchanged"]
