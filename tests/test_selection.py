"""Which questions are asked and which groups stay, against what was asked and drawn."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scripted import Scripted, half, right, steps, wrong
from tiny_rewards import only_digits
from tiny_runs import MODEL, SETTING, params_of, rollouts, write_sums

from unipost import presets
from unipost.data import DataError
from unipost.rewards import exact
from unipost.rollouts import Curriculum, Drop, Prioritised, Resample
from unipost.rollouts.draws import uniform, without_replacement
from unipost.signals import BatchZScore

OTHER = params_of(5)


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("sums"))


def array(x) -> np.ndarray:
    assert x is not None
    return np.asarray(x)


def prompts_of(experience) -> list[str]:
    prompts = array(experience.rows.prompt)[:, 0]
    masks = array(experience.rows.prompt_mask)[:, 0]
    pairs = zip(prompts, masks, strict=True)
    return [MODEL.tokenizer.decode(p[m].tolist()) for p, m in pairs]


def graded(sums, **changes):
    """Rollouts with a right and a wrong answer where the first digit is even."""
    return rollouts(sums, reward=exact, sampler=Scripted(half), **changes)


def even(prompt: str) -> bool:
    return int(prompt[0]) % 2 == 0


# groups


def test_dropped_groups_leave_the_loss_of_the_others(sums):
    plain = graded(sums).open(SETTING).batch(0, OTHER)
    drawn = graded(sums, groups=Drop()).open(SETTING).batch(0, OTHER)
    good = np.array([even(p) for p in prompts_of(plain)])
    assert 0 < good.sum() < 4
    there = array(drawn.batch.mask).any((1, 2))
    np.testing.assert_array_equal(there, good)
    assert np.isnan(array(drawn.batch.rewards)[~good]).all()
    assert not array(drawn.rows.response_mask)[~good].any()
    assert drawn.metrics["dropped_groups"] == (~good).sum()
    assert drawn.metrics["zero_variance"] == pytest.approx((~good).mean())
    # what is reported is of all that was sampled
    assert drawn.metrics["reward"] == plain.metrics["reward"]


def test_statistics_see_no_dropped_group(sums):
    """The batch's standard deviation is that of the groups that stay."""
    drawn = graded(sums, groups=Drop()).open(SETTING).batch(0, OTHER)
    there = array(drawn.batch.mask).any((1, 2))
    objective = replace(presets.grpo(kl=None), signal=BatchZScore(center="group"))
    filled = replace(drawn.batch, old=drawn.batch.behavior)
    alone = jax.tree.map(lambda x: x[there], filled)
    signal = objective.advantage(filled)
    np.testing.assert_allclose(signal[there], objective.advantage(alone), atol=1e-12)
    logps = array(drawn.batch.behavior)
    whole, part = objective(logps, filled)[0], objective(logps[there], alone)[0]
    assert float(whole) == pytest.approx(float(part), rel=1e-12)


def test_a_group_with_one_scored_row_of_its_own_is_dropped(sums):
    def once(prompt, i):
        return right(prompt, i) if i % 4 == 0 else "=" + wrong(prompt, i)

    source = rollouts(sums, reward=only_digits, sampler=Scripted(once), groups=Drop())
    drawn = source.open(SETTING).batch(0, OTHER)
    assert drawn.metrics["unscored"] == 12 and drawn.metrics["unscored_share"] == 0.75
    assert drawn.metrics["dropped_groups"] == 4
    assert not array(drawn.batch.mask).any()


def test_resampling_fills_the_batch_with_mixed_groups(sums):
    source = graded(sums, groups=Resample(rounds=5))
    for x in steps(source.open(SETTING), OTHER, 8):
        assert all(map(even, prompts_of(x)))
        assert array(x.batch.mask).any(-1).all()
        assert x.metrics["absent_groups"] == 0.0
        drawn, rounds = x.metrics["prompts_drawn"], x.metrics["rounds"]
        assert drawn == 4 * rounds and 2 <= rounds <= 5
        rewards = array(x.batch.rewards)
        assert (rewards.max(-1) > rewards.min(-1)).all()


def test_no_question_is_skipped_and_none_is_used_twice(sums):
    """Every epoch of ten questions, five of them mixed, gives these five, once each."""
    source = graded(sums, groups=Resample(rounds=9))
    drawn = steps(source.open(SETTING), OTHER, 10)
    # the walk is that of a run without resampling
    plain = graded(sums, prompts=10).open(SETTING)
    walk = [p for t in range(8) for p in prompts_of(plain.batch(t, OTHER))]
    good = [prompt for prompt in walk if even(prompt)]
    assert len(good) == 40
    for t, x in enumerate(drawn):
        assert sorted(prompts_of(x)) == sorted(good[4 * t : 4 * t + 4])
    positions = [int(x.memory["order/position"]) for x in drawn]
    assert positions == sorted(positions) and 72 <= positions[-1] <= 80


def test_places_left_over_are_empty(sums):
    source = rollouts(sums, reward=exact, sampler=Scripted(wrong), groups=Resample(3))
    drawn = source.open(SETTING).batch(0, OTHER)
    assert not array(drawn.batch.mask).any() and not array(drawn.rows[3]).any()
    assert np.isnan(array(drawn.batch.rewards)).all()
    told = {"rounds": 3, "prompts_drawn": 12, "dropped_groups": 12, "absent_groups": 4}
    assert {k: drawn.metrics[k] for k in told} == told
    assert int(drawn.memory["order/position"]) == 12
    # nothing to learn from is no error: a loss of 0 with a gradient of 0
    objective = replace(presets.grpo(kl=None), waived=())
    batch = replace(drawn.batch, old=drawn.batch.behavior)
    loss, grad = jax.value_and_grad(lambda x: objective(x, batch)[0])(
        array(drawn.batch.behavior)
    )
    assert float(loss) == 0.0 and not np.asarray(grad).any()


def test_one_round_is_no_resampling():
    with pytest.raises(ValueError, match="groups.rounds: 1; write 2 or more, or group"):
        Resample(1)


# orders


def test_draws_without_replacement_follow_their_weights():
    """First places against the weights, and all items before any comes twice."""
    weights, count = np.array([4.0, 3.0, 2.0, 1.0, 0.0]), np.zeros(5)
    trials = 20000
    for i in range(trials):
        drawn = without_replacement(weights, 5, uniform(5, 0, 9, i))
        assert sorted(drawn) == [0, 1, 2, 3, 4] and drawn[4] == 4
        count[drawn[0]] += 1
    share = weights / weights.sum()
    error = np.sqrt(share * (1 - share) / trials)
    assert (np.abs(count / trials - share) <= 4 * error).all()
    late = without_replacement(weights, 7, uniform(5, 0, 9, 1), last=[0, 2])
    assert set(late[3:5]) == {0, 2} and late[5] == late[0]


def test_questions_that_are_solved_come_less_often(sums):
    source = graded(sums, prompts=2, order=Prioritised(floor=0.1, rate=1.0))
    source = replace(source, sampler=Scripted(sometimes))
    drawn = steps(source.open(SETTING), OTHER, 300)
    asked = [p for x in drawn[20:] for p in prompts_of(x)]
    share = np.mean([even(p) for p in asked])
    # weights 0.1 against 1, five questions each, two of ten without replacement
    assert 0.06 < share < 0.16
    success = drawn[-1].memory["order/success"]
    assert sorted(success[np.isfinite(success)]) == [0.0] * 5 + [1.0] * 5


def sometimes(prompt, i):
    return right(prompt, i) if even(prompt) else wrong(prompt, i)


def test_success_is_a_running_mean(sums):
    source = graded(sums, prompts=10, order=Prioritised(rate=0.25))
    stream = source.open(SETTING)
    first = stream.batch(0, OTHER)
    success = first.memory["order/success"]
    assert sorted(success) == [0.0] * 5 + [0.5] * 5
    known = {"order/success": np.where(success > 0, np.float32(0.9), np.float32(0.2))}
    after = stream.batch(1, OTHER, known).memory["order/success"]
    want = np.where(success > 0, 0.9 + 0.25 * (0.5 - 0.9), 0.2 - 0.25 * 0.2)
    np.testing.assert_allclose(after, want, rtol=1e-6)


@pytest.mark.parametrize("first", ["lowest", "highest"])
def test_a_curriculum_goes_from_easy_to_hard(tmp_path, first):
    path = tmp_path / "levels.jsonl"
    lines = [
        f'{{"prompt": "{i}+{i}=", "answer": "{2 * i}", "level": {i + 0.5}}}'
        for i in range(10)
    ]
    path.write_text("\n".join(lines))
    order = Curriculum("level", steps=8, start=0.2, shape="linear", first=first)
    source = graded(str(path), prompts=2, order=order)
    for step in (0, 2, 4, 8, 20):
        seen = set()
        for seed in range(30):
            other = source.open(replace(SETTING, seed=seed))
            asked = [int(p[0]) for p in prompts_of(other.batch(step, OTHER))]
            assert len(set(asked)) == 2
            seen.update(asked)
        most = {0: 2, 2: 4, 4: 6, 8: 10, 20: 10}[step]
        easy = range(most) if first == "lowest" else range(10 - most, 10)
        assert seen <= set(easy) and len(seen) >= min(most, 8)


def test_the_share_of_a_curriculum_by_shape():
    linear = Curriculum("x", 10, 0.2, "linear")
    root = Curriculum("x", 10, 0.2, "root")
    times = (0, 5, 10, 99)
    np.testing.assert_allclose([linear.share(t) for t in times], [0.2, 0.6, 1, 1])
    np.testing.assert_allclose([root.share(t) for t in times], [0.2, 0.52**0.5, 1, 1])


def test_a_curriculum_needs_numbers(sums, tmp_path):
    with pytest.raises(DataError, match="sums.jsonl:1: order.column: 'level' is None"):
        rollouts(sums, order=Curriculum("level", 5)).open(SETTING)
    for values, message in (
        ({"column": "x", "steps": 0}, "order.steps: 0"),
        ({"column": "x", "steps": 1, "start": 0.0}, "order.start: 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            Curriculum(**values)
    with pytest.raises(ValueError, match="order.floor: 0.0; write a number in"):
        Prioritised(floor=0.0)
