"""What a step of rollouts reports and hands over, counted by hand from its texts."""

from dataclasses import replace

import numpy as np
import pytest
from scripted import Scripted, half, right, wrong
from tiny_rewards import failing, short
from tiny_runs import (
    MODEL,
    SETTING,
    experiment,
    lines,
    params_of,
    rollouts,
    write_sums,
)
from tiny_steps import Pieces

from unipost import presets
from unipost.components import NormaliseThenSum, SumThenNormalise
from unipost.data_needs import check_data
from unipost.rewards import StepRewards, Weighted, WeightedSum, exact
from unipost.rollouts import Demonstration, Replay
from unipost.sampling import Sampling
from unipost.signals import ZScore
from unipost.train import train

OTHER = params_of(5)
EOS = MODEL.tokenizer.eos_token


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("sums"))


def array(x) -> np.ndarray:
    assert x is not None
    return np.asarray(x)


def texts_of(experience) -> list[list[str]]:
    tokens, mask = (array(x) for x in experience.rows[2:4])
    decode = MODEL.tokenizer.decode
    return [
        [decode(t[m].tolist()) for t, m in zip(*group, strict=True)]
        for group in zip(tokens, mask, strict=True)
    ]


def prompts_of(experience) -> list[str]:
    prompt, mask = (array(x)[:, 0] for x in experience.rows[:2])
    pairs = zip(prompt, mask, strict=True)
    return [MODEL.tokenizer.decode(p[m].tolist()) for p, m in pairs]


def mixed_lengths(prompt: str, i: int) -> str:
    """Right and short, wrong and long, or without an end."""
    return [right(prompt, i), "1+1", "11", "12345"][i % 4]


def test_lengths_and_shares_are_those_of_the_own_rows(sums):
    source = rollouts(sums, reward=exact, sampler=Scripted(mixed_lengths), group=5)
    source = replace(source, sampling=Sampling(4), guidance=(Demonstration(),))
    drawn = source.open(SETTING).batch(0, OTHER)
    texts, lengths = texts_of(drawn), array(drawn.rows.response_mask).sum(-1)
    answers = [right(p, 0) for p in prompts_of(drawn)]
    good = np.array(
        [[t == a for t in own] for own, a in zip(texts, answers, strict=True)]
    )[:, :4]
    own, told = lengths[:, :4], drawn.metrics
    assert told["reward"] == good.mean() and told["reward_guidance"] == 1.0
    assert told["length"] == own.mean()
    assert told["length_correct"] == own[good].mean()
    assert told["length_wrong"] == own[~good].mean()
    # 12345 has no end within four tokens
    assert told["truncated"] == 0.25 and told["finished"] == 0.75
    assert told["unscored"] == told["unscored_share"] == told["zero_variance"] == 0.0


def test_a_mean_over_no_rows_is_zero(sums):
    source = rollouts(sums, reward=exact, sampler=Scripted(wrong))
    told = source.open(SETTING).batch(0, OTHER).metrics
    assert told["length_correct"] == 0.0 and told["length_wrong"] == 3.0
    assert told["zero_variance"] == 1.0
    nobody = rollouts(sums, reward=failing, sampler=Scripted(wrong)).open(SETTING)
    with pytest.warns(UserWarning, match="no sample is scored; sample 0: .*no verdict"):
        told = nobody.batch(0, OTHER).metrics
    assert told["unscored"] == 16 and told["unscored_share"] == 1.0
    assert told["reward"] == told["length_wrong"] == 0.0 and told["length"] == 3.0


def test_masked_truncation_takes_the_loss_alone(sums):
    """As TRL's: the reward stays in the group, the tokens in the denominator."""
    source = rollouts(sums, reward=exact, sampler=Scripted(mixed_lengths))
    source = replace(source, sampling=Sampling(4))
    kept = source.open(SETTING).batch(0, OTHER)
    assert kept.batch.weight is None
    masked = replace(source, truncated="masked").open(SETTING).batch(0, OTHER)
    ended = (array(masked.rows.response) == EOS).any(-1)
    np.testing.assert_array_equal(array(masked.batch.weight), ended)
    assert 0 < ended.sum() < ended.size
    objective = presets.dapo()
    logps = array(kept.batch.behavior)
    batches = [replace(x.batch, old=logps) for x in (kept, masked)]
    whole, part = (objective.prepare(batch) for batch in batches)
    np.testing.assert_array_equal(whole.signal, part.signal)
    want = array(whole.weight) * ended[..., None]
    np.testing.assert_array_equal(array(part.weight), want)


# composed rewards


BOTH = WeightedSum({"short": Weighted(short, 0.5), "accuracy": Weighted(exact, 2.0)})


def test_parts_of_a_reward_are_the_batchs_components(sums):
    source = rollouts(sums, reward=BOTH, sampler=Scripted(half))
    assert "components" in source.fields and source.components == ("short", "accuracy")
    drawn = source.open(SETTING).batch(0, OTHER)
    assert drawn.components == ("short", "accuracy")
    values, texts = array(drawn.batch.components), texts_of(drawn)
    answers = [right(p, 0) for p in prompts_of(drawn)]
    for p, g in np.ndindex(4, 4):
        want = [len(texts[p][g]) == 1, texts[p][g] == answers[p]]
        np.testing.assert_array_equal(values[p, g], want)
    total = values @ [0.5, 2.0]
    np.testing.assert_allclose(array(drawn.batch.rewards), total)
    told = drawn.metrics
    assert told["reward/short"] == values[..., 0].mean()
    assert told["reward/accuracy"] == values[..., 1].mean()
    assert told["reward"] == pytest.approx(total.mean())
    # correct is what the part accuracy says, not the first part
    lengths, good = array(drawn.rows.response_mask).sum(-1), values[..., 1] == 1
    assert told["length_correct"] == lengths[good].mean()


def test_shuffled_rewards_take_their_parts_along(sums):
    source = rollouts(sums, reward=BOTH, sampler=Scripted(half), rewards="shuffled")
    drawn = source.open(SETTING).batch(0, OTHER)
    total = array(drawn.batch.components) @ [0.5, 2.0]
    np.testing.assert_allclose(array(drawn.batch.rewards), total)
    plain = replace(source, rewards="graded").open(SETTING).batch(0, OTHER)
    assert (array(plain.batch.rewards) != array(drawn.batch.rewards)).any()


@pytest.mark.parametrize("signal", [SumThenNormalise, NormaliseThenSum])
def test_signals_of_several_rewards_train(signal, sums, tmp_path):
    objective = replace(presets.grpo(kl=None), signal=signal(weights=(0.5, 2.0)))
    data = rollouts(sums, reward=BOTH, sampler=Scripted(half))
    run = experiment("grpo", sums, data=data, objective=objective, steps=2)
    run = replace(run, evaluation=None, checkpoints=None)
    train(run, tmp_path / "run", model=MODEL)
    told = lines(tmp_path / "run")
    assert all(np.isfinite(x["loss"]) for x in told) and "reward/short" in told[0]
    plain = rollouts(sums, reward=exact)
    with pytest.raises(ValueError, match="batch.components.*reward: {name: sum, parts"):
        check_data(objective, plain)


# rewards of steps


def pieces(prompt: str, i: int) -> str:
    return ["1+2+3", "12+3+", "777", "++"][i % 4]


def stepwise(sums, **changes):
    source = rollouts(sums, reward=Pieces(), sampler=Scripted(pieces), **changes)
    return replace(source, sampling=Sampling(8), supervision="process")


def test_rewards_of_steps_stand_on_the_tokens_that_end_them(sums):
    drawn = stepwise(sums).open(SETTING).batch(0, OTHER)
    steps, rewards = array(drawn.batch.steps), array(drawn.batch.rewards)
    plus = MODEL.tokenizer.encode("+")[0]
    np.testing.assert_array_equal(steps, array(drawn.rows.response) == plus)
    first = (np.cumsum(steps, -1) == 1) & (steps > 0)
    np.testing.assert_array_equal(rewards, first)
    # what is reported is the total: two, two, none and two steps
    assert drawn.metrics["reward"] == 1.5


def test_process_supervision_trains(sums, tmp_path):
    objective = replace(presets.grpo(kl=None), signal=ZScore(supervision="process"))
    data = stepwise(sums, guidance=(Replay(),))
    run = experiment("grpo", sums, data=data, objective=objective, steps=2)
    run = replace(run, evaluation=None, checkpoints=None)
    train(run, tmp_path / "run", model=MODEL)
    assert all(np.isfinite(x["loss"]) for x in lines(tmp_path / "run"))
    outcome = replace(data, supervision="outcome")
    with pytest.raises(ValueError, match="batch.steps.*data.supervision: process"):
        check_data(objective, outcome)
    with pytest.raises(ValueError, match="data.supervision: process gives rewards"):
        check_data(presets.grpo(kl=None), data)


def test_a_reward_without_steps_is_refused(sums):
    plain = rollouts(sums, reward=BOTH, supervision="process").open(SETTING)
    with pytest.raises(ValueError, match="reward: it gives no steps; write data"):
        plain.batch(0, OTHER)


def test_steps_of_the_librarys_own_reward(sums):
    """A step per line: none here, so one that ends with the text."""
    source = rollouts(sums, reward=StepRewards(), sampler=Scripted(right))
    source = replace(source, supervision="process")
    drawn = source.open(SETTING).batch(0, OTHER)
    lengths = array(drawn.rows.response_mask).sum(-1)
    ends = np.arange(3) == (lengths - 2)[..., None]
    np.testing.assert_array_equal(array(drawn.batch.steps) > 0, ends)
