"""Why a loss or its gradient is 0: in words for any batch, with numbers for one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from preset_examples import EXAMPLES, streams_and_batch

from unipost import Batch, Mixture, Penalty, presets
from unipost.explain import explain, why_zero
from unipost.explain.zero import zero_lines

DPO = presets.dpo()


def penalised(estimator):
    return replace(presets.grpo(), penalty=Penalty(0.1, estimator=estimator))


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


def at_the_start(name):
    """(value, gradient) of an example where policy, old and reference are one."""
    streams, batch = jax.tree.map(lambda x: x[2:], streams_and_batch(name))
    policy = streams.policy
    same = {k: policy for k in ("old", "behavior", "reference")}
    batch = replace(batch, weight=None, off_policy=0.0 * batch.off_policy, **same)
    objective = EXAMPLES[name]
    loss, grad = jax.value_and_grad(lambda x: objective(x, batch)[0])(policy)
    return float(loss), np.asarray(grad), batch, objective


ZEROS = ("psft", "f_dpo", "ipo", "exo", "discopop", "bco", "apo-down", "aot", "opmd")
ZEROS += ("reinforce", "grpo", "dapo", "gspo", "cispo", "tis", "luffy", "asymre")
ZEROS += ("reinforce-batch", "reinforce-group")


@pytest.mark.parametrize("name", ZEROS)
def test_the_lines_about_zero_hold(name):
    value, grad, batch, objective = at_the_start(name)
    lines = zero_lines(objective)
    first = lines[0] if lines else ""
    signal = np.asarray(objective.advantage(batch))[..., 0]
    if "not 0" in first:
        number = first.removeprefix("log 2 = ").split()[0]
        assert f"{value:.4g}" == number
    elif first.startswith("-mean A = 0"):
        assert value == pytest.approx(0.0, abs=1e-14) and np.abs(grad).max() > 0
    elif first.startswith("-mean A where"):
        assert abs(value) > 1e-3
    elif first.startswith("mean A^2/2"):
        assert value == pytest.approx((signal**2).mean() / 2)
    elif first.startswith("-1"):
        assert value == pytest.approx(-1.0)
    if len(signal[0]) > 2 and name != "opmd":  # the first group's rewards are equal
        flat = any("groups of equal rewards" in line for line in lines)
        assert flat == (np.abs(np.nan_to_num(grad[0])).max() == 0.0)


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
