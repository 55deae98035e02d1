"""TRL's preference and supervised aliases beside the recorded cases.

Lists of all losses against numpy oracles, whose gradients are central differences; the
sum over microbatches.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle_trl
import pytest
from oracle_trl_dpo import length_desensitised, masked
from trl_inputs import BUILD, computed

from unipost import Batch, trl
from unipost.trl.legacy import DPO_OLD_LOSSES, OF_THE_MARGIN, REFERENCE_FREE
from unipost.trl.preferences import DPO_LOSSES, NOT_WEIGHTED, TAKE_A_DIVERGENCE

PAIRS, TOKENS = 6, 7
RNG = np.random.default_rng(7)


def logps(scale=1.0):
    return -scale * RNG.gamma(1.0, size=(2 * PAIRS, TOKENS))


def masks(empty):
    """Ragged rows with holes; one rejected row without a token, or none."""
    mask = (RNG.random((2 * PAIRS, TOKENS)) < 0.7).astype(int)
    mask[:, 2] = 1
    if empty:
        mask[PAIRS + 1] = 0
    return mask


FULL = {"policy_logps": logps(), "ref_logps": logps(), "mask": masks(False)}
SOME = FULL | {"mask": masks(True), "log_sum_sq_probs": logps()}


def weights(names):
    """Different for every member, so that no two of them can be exchanged."""
    return [0.3 + 0.2 * k for k in range(len(names))]


def agrees(family, options, inputs, hyper=None, grad_in=1.0):
    """Loss and gradient of the alias and of the oracle (given `hyper`, or the same)."""
    objective = getattr(trl, family)(**options)
    hyper = options if hyper is None else hyper
    (loss, _), gradient = computed(family, objective, inputs)
    with np.errstate(all="ignore"):
        want = oracle_trl.ORACLES[family](hyper, inputs)
        slope = oracle_trl.gradient(family, hyper, inputs)
    np.testing.assert_allclose(loss, want, rtol=2e-7)
    np.testing.assert_allclose(gradient, slope * grad_in, rtol=2e-5, atol=1e-7)
    assert np.abs(slope).max() > 1e-4


def without(names, *left_out):
    return [name for name in names if name not in left_out]


DIVERGENCES = [
    ("forward_kl", {}),
    ("js_divergence", {}),
    *(("alpha_divergence", {"f_alpha_divergence_coef": a}) for a in (0.0, 0.3, 1.7)),
]


@pytest.mark.parametrize("kind, coef", DIVERGENCES)
def test_every_loss_that_takes_a_divergence(kind, coef):
    options = {
        "loss_type": TAKE_A_DIVERGENCE,
        "loss_weights": weights(TAKE_A_DIVERGENCE),
        "f_divergence_type": kind,
        "label_smoothing": 0.2,
        "beta": 0.4,
    }
    agrees("dpo", options | coef, SOME)


SHORT = ["ipo", "nca_pair", "aot", "aot_unpaired"]


@pytest.mark.parametrize(
    "names, options",
    [
        (DPO_LOSSES, {"label_smoothing": 0.3, "beta": 0.7, "discopop_tau": 0.5}),
        (SHORT, {"ld_alpha": 0.4}),
        (
            without(DPO_LOSSES, *NOT_WEIGHTED),
            {"label_smoothing": 0.1, "ld_alpha": 0.6, "use_weighting": True},
        ),
        (
            without(TAKE_A_DIVERGENCE, *NOT_WEIGHTED),
            {
                "label_smoothing": 0.1,
                "f_divergence_type": "js_divergence",
                "ld_alpha": 0.4,
                "use_weighting": True,
            },
        ),
    ],
)
def test_lists_of_losses(names, options):
    listed = {"loss_type": names, "loss_weights": weights(names)}
    agrees("dpo", listed | options, SOME)


def test_a_list_of_one_has_its_weight():
    agrees("dpo", {"loss_type": ["sigmoid_norm"], "loss_weights": [0.25]}, SOME)


UNSORTED = ["sigmoid", "bco_pair", "nca_pair", "apo_down"]


@pytest.mark.parametrize(
    "names, options, inputs",
    [
        (["ipo", "sigmoid", "bco_pair", "aot_pair", "sppo_hard"], {}, FULL),
        (["hinge", "discopop"], {"logps": "average", "discopop_tau": 0.5}, FULL),
        (DPO_OLD_LOSSES, {"logps": "sum", "label_smoothing": 0.3, "beta": 0.6}, SOME),
        (OF_THE_MARGIN, {"f_divergence_type": "js_divergence"}, FULL),
        *(
            (
                OF_THE_MARGIN,
                {
                    "f_divergence_type": "alpha_divergence",
                    "f_alpha_divergence_coef": a,
                    "logps": how,
                },
                FULL,
            )
            for a, how in ((1.0, "sum"), (0.5, "trainer"), (-0.7, "sum"))
        ),
        (REFERENCE_FREE, {"reference_free": True, "rpo_alpha": 0.5}, FULL),
        (
            OF_THE_MARGIN,
            {
                "reference_free": True,
                "f_divergence_type": "js_divergence",
                "label_smoothing": 0.2,
            },
            FULL,
        ),
        (UNSORTED, {"use_weighting": True, "label_smoothing": 0.2}, FULL | SOME),
        (["sigmoid", "exo_pair", "aot"], {}, SOME),
    ],
)
def test_the_old_trainer(names, options, inputs):
    if options.get("use_weighting"):
        inputs = inputs | {"mask": FULL["mask"]}
    listed = {"loss_type": names, "loss_weights": weights(names), **options}
    hyper = {k: v for k, v in listed.items() if k != "logps"}
    if listed.get("logps", "trainer") != "trainer":
        hyper["average"] = listed["logps"] == "average"
    agrees("dpo_old", listed, inputs, hyper)


def test_the_old_discount_is_the_policys_alone():
    """The oracle is given log-probs that carry the discount already."""
    options = {"loss_type": UNSORTED, "loss_weights": weights(UNSORTED), "beta": 0.3}
    options["label_smoothing"] = 0.1
    share = length_desensitised(SOME["mask"], 0.4)
    tokens = masked(SOME["policy_logps"], SOME["mask"])
    gap = tokens * share - masked(SOME["ref_logps"], SOME["mask"])
    delta = (0.2 + 0.3 * gap.sum(1).mean()) / 2
    objective = trl.dpo_old(**options, ld_alpha=0.4, bco_delta=delta)
    hyper, inputs = (
        {**options, "running": [0.2]},
        SOME | {"policy_logps": tokens * share},
    )
    (loss, _), gradient = computed("dpo_old", objective, SOME)
    want = oracle_trl.ORACLES["dpo_old"](hyper, inputs)
    slope = oracle_trl.gradient("dpo_old", hyper, inputs) * share
    np.testing.assert_allclose(loss, want, rtol=2e-7)
    np.testing.assert_allclose(gradient, slope, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    "family, alpha, log_u",
    [("dpo", 1.7, 300.0), ("dpo", 0.5, -300.0), ("dpo_old", 1.0, -3000.0)],
)
def test_the_exponent_is_capped(family, alpha, log_u):
    """Beyond the cap the reward of a response is a constant: no gradient."""
    side = int(log_u < 0)
    gap = np.full((2, 3), [[0.1], [-0.2]])
    gap[1 - side] = log_u / 3
    inputs = {
        "policy_logps": gap,
        "ref_logps": np.zeros((2, 3)),
        "mask": np.ones((2, 3)),
    }
    options = {"loss_type": ["sigmoid", "hinge"], "beta": 0.2}
    options |= {"f_divergence_type": "alpha_divergence"}
    options |= {"f_alpha_divergence_coef": alpha}
    (loss, _), gradient = computed(family, getattr(trl, family)(**options), inputs)
    want = oracle_trl.ORACLES[family](options, inputs)
    assert 1e30 < want < np.inf
    np.testing.assert_allclose(loss, want, rtol=1e-9)
    assert not gradient[1 - side].any() and gradient[side].any()


CPO = [
    {"loss_type": "sigmoid", "alpha": 0.25, "label_smoothing": 0.2},
    {"loss_type": "hinge", "alpha": -0.5, "beta": 0.5},
    {"loss_type": "ipo", "alpha": 1.0, "beta": 0.6},
    {"loss_type": "simpo", "alpha": 1.0, "label_smoothing": 0.1, "simpo_gamma": 0.2},
    {"loss_type": "alphapo", "alpha": 0.3, "beta": 2.0, "simpo_gamma": 0.1},
]


@pytest.mark.parametrize("options", CPO)
def test_cpo(options):
    options = {"beta": 0.3, "cpo_alpha": 0.0, **options}
    filled = {"simpo_gamma": 0.5, **options}
    agrees("cpo", options, FULL, filled)


@pytest.mark.parametrize("kind", ["kto", "apo_zero_unpaired"])
def test_kto_counts_rows_and_mismatched_rows_without_a_token(kind):
    inputs = SOME | {"labels": RNG.random(2 * PAIRS) < 0.5}
    del inputs["log_sum_sq_probs"]
    if kind == "kto":
        inputs |= {
            "kl_policy_logps": logps(0.2),
            "kl_ref_logps": logps(0.6),
            "kl_mask": masks(True),
        }
    options = {"loss_type": kind, "beta": 0.4}
    options |= {"desirable_weight": 2.0, "undesirable_weight": 0.7}
    agrees("kto", options, inputs)


@pytest.mark.parametrize("options", [{}, {"num_items_in_batch": 19}])
def test_label_smoothing_over_the_vocabulary(options):
    labels = RNG.integers(0, 6, (3, 5))
    labels[0, :3], labels[2] = -100, -100
    inputs = {"logits": RNG.normal(size=(3, 5, 6)), "labels": labels}
    options = {"num_items_in_batch": None, "label_smoothing_factor": 0.3} | options
    agrees("sft", options, inputs)


@pytest.mark.parametrize(
    "beta, options",
    [
        (0.0, {"temperature": 2.0}),
        (1.0, {"temperature": 2.0}),
        (0.3, {"temperature": 2.0}),
        (0.7, {"reduction": "sum"}),
        (0.3, {"reduction": "mean", "temperature": 0.9}),
        (0.0, {"reduction": "mean"}),
        (0.3, {"num_items_in_batch": 11}),
        (0.3, {"labels": "none"}),
    ],
)
def test_gkd(beta, options):
    student, teacher = 2 * RNG.normal(size=(2, 3, 4, 6))
    inputs = {"student_logits": student, "teacher_logits": teacher}
    if options.get("labels") != "none":
        labels = RNG.integers(0, 6, (3, 4))
        labels[0, :2], labels[1] = -100, -100
        inputs["labels"] = labels
    hyper = {k: v for k, v in options.items() if k != "labels"} | {"beta": beta}
    agrees("gkd", {"beta": beta, **options}, inputs, hyper)


def test_reward_without_a_margin():
    scores = RNG.normal(size=(8, 1))
    options = {"center_rewards_coefficient": 0.2}
    loss, _ = trl.reward(**options)(jnp.asarray(scores))
    want = oracle_trl.ORACLES["reward_model"](options, {"scores": scores})
    np.testing.assert_allclose(loss, want, rtol=1e-12)


def test_pairs_put_chosen_rows_first():
    rows = jnp.arange(12).reshape(6, 2)
    np.testing.assert_array_equal(trl.pairs(rows)[1], [[2, 3], [8, 9]])
    np.testing.assert_array_equal(trl.pairs(rows[:, 0]), [[0, 6], [2, 8], [4, 10]])
    with pytest.raises(ValueError, match=r"pairs: shape \(5, 2\); write \[2 \* pairs"):
        trl.pairs(rows[:5])


MICRO = {
    "list": ("dpo", trl.dpo(["ipo", "sft", "aot", "aot_unpaired"], ld_alpha=0.5)),
    "weighted": ("dpo", trl.dpo(["apo_down", "ipo"], use_weighting=True)),
    "old": ("dpo_old", trl.dpo_old(["bco_pair", "aot_pair"], rpo_alpha=0.5)),
    "kto": ("kto", trl.kto()),
    "cpo": ("cpo", trl.cpo()),
    "orpo": ("orpo", trl.orpo()),
}


@pytest.mark.parametrize("name", MICRO)
def test_microbatches_of_a_prepared_batch_add_up(name):
    family, objective = MICRO[name]
    inputs = dict(SOME)
    if family == "kto":
        kl = {"kl_policy_logps": logps(0.2), "kl_ref_logps": logps(0.6)}
        inputs |= kl | {"labels": np.arange(2 * PAIRS) % 3 == 0, "kl_mask": masks(True)}
    streams, batch = BUILD[family](inputs)
    if family == "orpo":
        batch = Batch(mask=batch.mask, text=jnp.ones_like(batch.mask))
    # training fills in what the policy says over the logical batch
    whole = dataclasses.replace(batch, current=streams.policy)
    everything = streams, jax.jit(objective.prepare)(whole)
    graded = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    (_, total), gradient = graded(*everything)
    cut = len(batch.mask) // 2
    pieces = [
        graded(*jax.tree.map(lambda x, rows=rows: x[rows], everything))
        for rows in (slice(0, cut), slice(cut, None))
    ]
    exact = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)
    for key, value in total.items():
        added = sum(numbers[key] for (_, numbers), _ in pieces)
        exact(added, value, err_msg=key)
    added = np.concatenate([grad.policy for _, grad in pieces])
    exact(added, gradient.policy)
    assert np.abs(added).max() > 1e-4


def test_options_may_be_traced():
    """One compilation serves a sweep over the numbers of an alias."""

    traced = []

    @jax.jit
    def loss(beta, smoothing, alpha):
        traced.append(beta)
        objective = trl.dpo(
            ["sigmoid", "robust"],
            [1.0, beta],
            beta,
            "alpha_divergence",
            alpha,
            smoothing,
        )
        return objective(*BUILD["dpo"](FULL))[0]

    for numbers in ((0.1, 0.2, 0.5), (0.3, 0.1, 0.8)):
        beta, smoothing, alpha = numbers
        hyper = {"loss_type": ["sigmoid", "robust"], "loss_weights": [1.0, beta]}
        hyper |= {"beta": beta, "label_smoothing": smoothing}
        hyper |= {"f_divergence_type": "alpha_divergence"}
        hyper |= {"f_alpha_divergence_coef": alpha}
        want = oracle_trl.ORACLES["dpo"](hyper, FULL)
        np.testing.assert_allclose(loss(*numbers), want, rtol=1e-9)
    assert len(traced) == 1


def test_the_recorded_data_cases_are_those_of_the_packing_tests():
    folder = Path(__file__).parent
    cases = json.loads((folder / "fixtures/cases/data.json").read_text())["cases"]
    tested = (folder / "test_packing.py").read_text()
    assert all(f'"{case["case"]}"' in tested for case in cases)


def test_one_empty_row_of_a_pair_counts_at_log_ratio_zero():
    """Half of a pair: its loss is that of the other half's reward alone."""
    batch = Batch(mask=jnp.array([[[1.0], [0.0]]]), reference=jnp.zeros((1, 2, 1)))
    policy = jnp.full((1, 2, 1), -0.8)
    loss, _ = jax.jit(trl.dpo(beta=0.5))(policy, batch)
    np.testing.assert_allclose(loss, np.log1p(np.exp(0.4)), rtol=1e-12)
