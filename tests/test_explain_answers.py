"""The status of an objective, and why a loss or its gradient is 0."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from preset_examples import EXAMPLES, streams_and_batch

from unipost import Batch, Mixture, Penalty, presets
from unipost.classical import (
    ForwardKL,
    JensenShannon,
    PearsonChi2,
    TotalVariation,
)
from unipost.explain import explain, status, why_zero
from unipost.presets import PRESETS

GRPO, DPO = presets.grpo(), presets.dpo()


def penalised(estimator, divergence=None, **settings):
    known = {} if divergence is None else {"divergence": divergence}
    penalty = Penalty(0.1, estimator=estimator, **known, **settings)
    return replace(GRPO, penalty=penalty)


# label, what it is about, and a word of the line: section 9.1 of the formulation
STATUS = {
    "sft": (presets.sft(), [("exact", "fit", "KL(expert || policy)")]),
    "f_sft": (
        presets.f_sft(PearsonChi2()),
        [("conditional", "fit", "several demonstrations per prompt")],
    ),
    "f_sft-tv": (
        presets.f_sft(TotalVariation()),
        [("conditional", "fit", "never for one demonstration")],
    ),
    "alpha_sft": (presets.alpha_sft(), [("exact", "fit", "alpha-divergence")]),
    "alpha_sft-1": (presets.alpha_sft(1.0), [("exact", "fit", "total variation")]),
    "alpha_sft-10": (presets.alpha_sft(10.0), [("surrogate", "fit", "power above 1")]),
    "dft": (presets.dft(), [("gradient", "fit", "1 - pi")]),
    "psft": (presets.psft(), [("exact", "clip", "hockey stick")]),
    "iw_sft": (presets.iw_sft(), [("gradient", "fit", "potential")]),
    "dpo": (
        DPO,
        [
            ("conditional", "reward", "KL-regularised RL, per sequence, where ref > 0"),
            ("conditional", "link", "Bradley-Terry"),
        ],
    ),
    "f_dpo": (
        presets.f_dpo(JensenShannon()),
        [("conditional", "reward", "JensenShannon-regularised RL")],
    ),
    "f_dpo-waived": (
        replace(
            DPO,
            divergence=PearsonChi2(),
            clamp=20.0,
            waived=("pair_divergence",),
        ),
        [("biased", "reward", "f'(0+) is finite")],
    ),
    "ipo": (presets.ipo(), [("exact", "link", "PsiPO")]),
    "ipo-mean": (
        presets.ipo(length="sequence_mean"),
        [("surrogate", "reward", "lengths")],
    ),
    "chi_po": (presets.chi_po(r_max=1.0), [("biased", "clip", "no likelihood")]),
    "simpo": (presets.simpo(), [("surrogate", "reward", "no reference")]),
    "nca": (presets.nca(), [("conditional", "reward", "log Z(x)")]),
    "wpo": (presets.wpo(), [("biased", "correction", "other pairs")]),
    "ld_dpo": (presets.ld_dpo(), [("biased", "ratio", "no ratio")]),
    "kto": (presets.kto(), [("surrogate", "fit", "z_0 estimates KL")]),
    "reinforce": (
        presets.reinforce(),
        [
            ("conditional", "fit", "fresh samples"),
            ("exact", "advantage", "unbiased"),
            ("exact", "aggregation", "policy gradient"),
        ],
    ),
    "rloo": (presets.rloo(), [("exact", "penalty gradient", "through the advantage")]),
    "grpo": (
        GRPO,
        [
            ("exact", "clip", "hockey stick"),
            ("biased", "ratio", "exact only at pi = old"),
            ("biased", "advantage", "1/std"),
            ("biased", "aggregation", "1/length"),
            ("biased", "penalty gradient", "forward KL(ref || pi)"),
            ("exact", "penalty value", "unbiased"),
        ],
    ),
    "dr_grpo": (
        presets.dr_grpo(9.0),
        [("exact", "advantage", "1 - 1/G"), ("exact", "aggregation", "constant")],
    ),
    "dapo": (presets.dapo(), [("biased", "aggregation", "random number of tokens")]),
    "gspo": (presets.gspo(), [("biased", "ratio", "geometric mean")]),
    "rloo-sequence": (
        presets.rloo(level="sequence"),
        [("exact", "ratio", "unbiased off policy")],
    ),
    "cispo": (
        presets.cispo(),
        [("gradient", "fit", "potential"), ("biased", "ratio", "a token's ratio")],
    ),
    "ppo": (presets.ppo(), [("conditional", "advantage", "critic")]),
    "on policy": (
        EXAMPLES["dapo-self"],
        [("gradient", "ratio", "that of REINFORCE at u = 1")],
    ),
    "gspo-token": (EXAMPLES["gspo-token"], [("gradient", "ratio", "geometric mean")]),
    "awr": (presets.awr(), [("conditional", "fit", "where e^(A/tau) <= 20")]),
    "awr-uncapped": (presets.awr(cap=np.inf), [("exact", "fit", "KL(pi* || pi)")]),
    "opmd": (presets.opmd(), [("exact", "fit", "beta log Z")]),
    "agro": (presets.agro(), [("exact", "fit", "log Z cancels")]),
    "f_tb": (presets.f_tb(), [("gradient", "fit", "same minimiser")]),
    "tis": (presets.tis(), [("biased", "correction", "bounded variance")]),
    "luffy": (
        presets.luffy(9.0),
        [("biased", "off-policy rows", "as if behavior were 1")],
    ),
    "gem": (presets.gem(), [("gradient", "fit", "tempered pi^(1/beta)")]),
    "gkd": (presets.gkd(), [("exact", "fit", "states held fixed")]),
    "cpo": (
        presets.cpo(),
        [
            ("surrogate", "term 0 reward", "no reference"),
            ("exact", "term 1 fit", "KL(expert"),
            ("surrogate", "sum", "optimum of neither"),
        ],
    ),
    "k1": (penalised("k1"), [("biased", "penalty gradient", "regularises nothing")]),
    "k2": (
        penalised("k2"),
        [
            ("exact", "penalty gradient", "states held fixed"),
            ("gradient", "penalty value", "another number"),
        ],
    ),
    "k3 of f": (
        penalised("k3", JensenShannon()),
        [("biased", "penalty gradient", "D_h with h' = f' - f/u")],
    ),
    "rho k3": (
        penalised("importance_k3"),
        [
            ("exact", "penalty gradient", "samples of old included"),
            ("exact", "penalty value", "samples of old included"),
        ],
    ),
    "k3+": (
        penalised("k3", gradient="k2"),
        [
            ("exact", "penalty gradient", "KL(pi || ref)"),
            ("exact", "penalty value", ""),
        ],
    ),
    "to go": (
        penalised("k3", gradient="to_go"),
        [("exact", "penalty gradient", "states moving with pi")],
    ),
    "vocabulary": (
        penalised("exact", ForwardKL()),
        [("exact", "penalty gradient", "ForwardKL(pi || ref)")],
    ),
    "abs": (penalised("abs"), [("biased", "penalty gradient", "no divergence")]),
    "bounded": (
        penalised("k3", bound=10.0),
        [("gradient", "penalty value", "a bounded estimate")],
    ),
}


@pytest.mark.parametrize("name", STATUS)
def test_status_follows_from_the_parts(name):
    objective, wanted = STATUS[name]
    lines = status(objective)
    for label, about, words in wanted:
        assert any(
            (one.label, one.about) == (label, about) and words in one.line
            for one in lines
        ), lines
    text = " ".join(explain(objective).split())
    assert all(f"{one.label} {one.about}: {one.line}" in text for one in lines)


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_is_without_a_status(name):
    assert status(next(o for k, o in EXAMPLES.items() if k.split("-")[0] == name))


def rewarded(rewards, shift=0.0):
    """(logps, batch) of responses of three tokens, log(policy/old) = shift."""
    rewards = jnp.asarray(rewards)
    logps = jnp.full((*rewards.shape, 3), -1.0)
    old = logps - shift
    batch = Batch(jnp.ones(logps.shape), rewards, old=old, reference=logps)
    return logps, batch


def reasons(objective, logps, batch):
    return why_zero(objective, batch, logps)


PLAIN = presets.grpo(kl=None)


def test_grpo_at_step_zero_has_a_value_of_zero_and_a_gradient():
    head, *lines = reasons(PLAIN, *rewarded([[1.0, 0.0], [0.0, 1.0]]))
    assert head == "loss 0, largest |dL/dlog pi| 0.05893"  # 0.7071 / (4 rows, 3 tokens)
    assert lines == ["the value -mean A u cancels, with mean |A| 0.7071"]
    assert "-mean A = 0 where policy = old" in explain(PLAIN)


def test_groups_without_spread_have_no_gradient():
    head, *lines = reasons(PLAIN, *rewarded([[1.0, 1.0], [0.0, 0.0]]))
    assert head == "loss 0, largest |dL/dlog pi| 0"
    assert lines == ["2 of 2 groups have A = 0 on every token"]
    _, *lines = reasons(PLAIN, *rewarded([[1.0, 1.0], [0.0, 1.0]]))
    assert "1 of 2 groups have A = 0 on every token" in lines
    _, *lines = reasons(PLAIN, *rewarded([[2.0, 1.0, 0.0]]))
    assert "1 of 3 rows have A = 0 in a group that has others" in lines


def test_clipped_and_clamped_tokens_have_no_gradient():
    logps, batch = rewarded([[1.0, 0.0]])
    up = jnp.where(jnp.array([[[True], [False]]]), 1.0, -1.0)
    head, *lines = reasons(PLAIN, logps, replace(batch, old=logps - up))
    assert head.endswith("|dL/dlog pi| 0") and not head.startswith("loss 0,")
    assert (
        "100 % of the units are clipped the way A pushes: no gradient from the link"
        in lines
    )
    assert "6 of 6 tokens have A != 0 and no gradient" in lines
    far = replace(presets.rloo(None, "sequence"), clamp=2.0)
    _, *lines = reasons(far, *rewarded([[1.0, 0.0]], shift=1.0))
    assert any(
        line.startswith("100 % of the units are beyond the clamp") for line in lines
    )


def test_dpo_starts_at_log_two_and_leaves_ties_out():
    head, *lines = reasons(DPO, *rewarded([[1.0, 0.0], [1.0, 1.0]]))
    assert head.startswith("loss 0.6931,")
    assert "1 of 2 pairs are ties or half empty: left out" in lines
    assert "mean margin z_w - z_l 0" in lines
    assert "log 2 = 0.6931 at policy = reference, not 0" in explain(DPO)
    head, *_ = reasons(presets.hinge(1.0), *rewarded([[1.0, 0.0]]))
    assert head.startswith("loss 1,")
    logps, batch = rewarded([[1.0, 0.0]])
    pushed = logps.at[:, 0].add(0.5)
    head, *lines = reasons(presets.hinge(1.0), pushed, batch)
    assert head == "loss 0, largest |dL/dlog pi| 0"
    assert "6 of 6 tokens have A != 0 and no gradient" in lines


def test_a_penalty_is_zero_at_the_reference():
    for estimator in ("k2", "k3"):
        objective = penalised(estimator)
        head, *lines = reasons(objective, *rewarded([[1.0, 1.0]]))
        assert head == "loss 0, largest |dL/dlog pi| 0"
        assert "the penalty is 0: the policy is the reference on these tokens" in lines
    assert "the penalty is 0 where policy = reference, with zero gradient" in explain(
        penalised("k2")
    )
    assert "the penalty is 0 where policy = reference, not its gradient" in explain(
        penalised("k1")
    )


def test_what_is_missing_is_counted():
    logps, batch = rewarded([[1.0, 0.0], [0.0, 1.0]])
    empty = replace(batch, mask=jnp.zeros_like(batch.mask))
    head, line = reasons(PLAIN, logps, empty)
    assert (
        head.startswith("loss 0,")
        and line == "the batch is empty: no token in its mask"
    )
    gone = replace(batch, mask=batch.mask.at[0, 1].set(0.0))
    assert "1 of 4 rows are empty" in reasons(PLAIN, logps, gone)
    unscored = replace(batch, rewards=batch.rewards.at[0].set(jnp.nan))
    assert "2 of 4 rows are unscored (NaN): A = 0" in reasons(PLAIN, logps, unscored)
    unweighted = replace(batch, weight=jnp.zeros((2, 2)))
    head, *lines = reasons(PLAIN, logps, unweighted)
    assert head == "loss 0, largest |dL/dlog pi| 0"
    assert "row weights are 0 on 12 of 12 tokens" in lines
    both = Mixture((PLAIN, presets.grpo(kl=0.1)), (1.0, 0.5))
    lines = reasons(both, logps, unscored)
    assert "term 0: 2 of 4 rows are unscored (NaN): A = 0" in lines
    assert any(line.startswith("term 1: the penalty is 0") for line in lines)


@pytest.mark.parametrize(
    "name", ["kto", "luffy", "gem", "f_sft-lse", "wpo", "grpo-two"]
)
def test_every_kind_of_objective_is_measured(name):
    streams, batch = streams_and_batch(name)
    loss = EXAMPLES[name](streams, batch)[0]
    head, *lines = why_zero(EXAMPLES[name], batch, streams)
    assert head.startswith(f"loss {float(loss):.4g}, largest |dL/dlog pi| ")
    assert name == "gem" or "empty" in " ".join(lines)
