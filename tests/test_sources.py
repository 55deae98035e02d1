"""Sources against the file they read and an independent grading of their text."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_rewards import constant, failing, length
from tiny_runs import (
    MODEL,
    SETTING,
    demonstrations,
    params_of,
    rollouts,
    write_sums,
)

from unipost import presets
from unipost.data import DataError
from unipost.rewards import exact, numeric
from unipost.rollouts import Demonstration, Replay, SampledPreferences
from unipost.sampling import Sampling, compiled_sample
from unipost.scoring import score
from unipost.sources import Preferences, Setting
from unipost.train import load_model
from unipost.update import with_streams

BASE = Path(__file__).parents[1] / "experiments"
OTHER = params_of(5)


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("sums"))


def array(x) -> np.ndarray:
    assert x is not None
    return np.asarray(x)


def prompt_of(rows, p: int, g: int) -> str:
    return MODEL.tokenizer.decode(rows.prompt[p, g][rows.prompt_mask[p, g]].tolist())


def response_of(rows, p: int, g: int) -> str:
    tokens = rows.response[p, g][rows.response_mask[p, g]]
    return MODEL.tokenizer.decode(tokens.tolist())


def answer_to(prompt: str) -> str:
    a, b = prompt.removesuffix("=").split("+")
    return str(int(a) + int(b))


def test_demonstrations_cover_every_row_once_an_epoch(sums):
    stream = demonstrations(sums).open(SETTING)
    assert stream.size == 10
    seen = []
    for step in range(5):  # 20 rows of 10: two epochs, across batch boundaries
        rows, batch, metrics = stream.batch(step, MODEL.params)[:3]
        assert rows.prompt.shape == (4, 1, 4) and rows.response.shape == (4, 1, 3)
        np.testing.assert_array_equal(batch.mask, rows.response_mask)
        assert metrics == {} and batch.rewards is None
        for p in range(4):
            prompt = prompt_of(rows, p, 0)
            assert response_of(rows, p, 0) == answer_to(prompt)
            # the end token is learned as well
            end = int(rows.response_mask[p, 0].sum()) - 1
            assert rows.response[p, 0, end] == MODEL.tokenizer.eos_token
            seen.append(prompt)
    assert len(set(seen[:10])) == len(set(seen[10:])) == 10
    assert seen[:10] != seen[10:]


def test_preferences_are_groups_of_two_chosen_first(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "1+1=", "chosen": "2", "rejected": "11"}\n')
    rows, batch, _ = Preferences(str(file), 3, 4, 3).open(SETTING).batch(0, None)[:3]
    assert rows.response.shape == (3, 2, 3)
    assert [response_of(rows, 2, g) for g in (0, 1)] == ["2", "11"]
    np.testing.assert_array_equal(batch.mask, rows.response_mask)


def check_rewards(rows, batch, own: int):
    """Rewards against a grading by hand of the decoded text."""
    for p, g in np.ndindex(*array(batch.rewards).shape):
        text = response_of(rows, p, g)
        assert float(array(batch.rewards)[p, g]) == len(text) / 2, (p, g, text)
        assert prompt_of(rows, p, g) == prompt_of(rows, p, 0)
    off = np.arange(array(batch.rewards).shape[1]) >= own
    np.testing.assert_array_equal(
        array(batch.off_policy), np.broadcast_to(off, (4, len(off)))
    )


def test_rollouts_are_graded_as_their_text_reads(sums):
    rows, batch, metrics = rollouts(sums).open(SETTING).batch(0, OTHER)[:3]
    assert rows.response.shape == (4, 4, 3) and rows.prompt.shape == (4, 4, 4)
    check_rewards(rows, batch, own=4)
    assert len(np.unique(array(batch.rewards))) > 1
    assert metrics["reward"] == pytest.approx(float(array(batch.rewards).mean()))
    lengths = rows.response_mask.sum(-1)
    assert metrics["length"] == pytest.approx(float(lengths.mean()))
    ended = (rows.response == MODEL.tokenizer.eos_token) & rows.response_mask
    assert metrics["finished"] == pytest.approx(float(ended.any(-1).mean()))
    assert metrics["unscored"] == 0.0


def test_the_union_group_ends_with_the_demonstration(sums):
    union = rollouts(sums, guidance=(Demonstration(),)).open(SETTING)
    rows, batch, metrics = union.batch(2, OTHER)[:3]
    assert rows.response.shape == (4, 4, 3)
    check_rewards(rows, batch, own=3)
    for p in range(4):
        assert response_of(rows, p, 3) == answer_to(prompt_of(rows, p, 3))
    behavior, kept = array(batch.behavior), array(rows.response_mask)
    # nobody knows at which log-probs a demonstration was written
    assert (np.isnan(behavior) == kept & (np.arange(4) == 3)[:, None]).all()
    assert (behavior[:, :3] != 0).any((1, 2)).all()
    assert metrics["reward"] == pytest.approx(float(array(batch.rewards)[:, :3].mean()))


def test_behavior_is_the_samplers_own_distribution(sums):
    """At temperature 1 that of `score`; a draw at 0.5 is that of halved logits."""
    source = rollouts(sums)
    rows, batch, _ = source.open(SETTING).batch(1, OTHER)[:3]
    flat = [x.reshape(16, -1) for x in rows[:4]]
    want = score(MODEL.policy, OTHER, *flat).logps.reshape(4, 4, 3)
    np.testing.assert_allclose(array(batch.behavior), want, atol=1e-5)
    cold = replace(source, sampling=Sampling(3, temperature=0.5))
    rows, batch, _ = cold.open(SETTING).batch(1, OTHER)[:3]
    flat = [x.reshape(16, -1) for x in rows[:4]]
    vocab = score(MODEL.policy, OTHER, *flat, extras=("vocab",)).vocab
    halved = jax.nn.log_softmax(jnp.asarray(vocab) / 0.5, -1)
    chosen = jnp.take_along_axis(halved, flat[2][..., None], -1)[..., 0]
    want = jnp.where(flat[3], chosen, 0.0).reshape(4, 4, 3)
    np.testing.assert_allclose(array(batch.behavior), want, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_sampler_correction_answers_for_the_temperature(sums, temperature):
    """The weight is pi/pi_T of each token as it was drawn, 1 at temperature 1."""
    objective = presets.tis(cap=50.0)
    source = rollouts(sums, sampling=Sampling(3, temperature=temperature))
    rows, batch, _ = source.open(SETTING).batch(1, OTHER)[:3]
    batch = with_streams(objective, MODEL.policy, rows, batch, OTHER, None)
    flat = [x.reshape(16, -1) for x in rows[:4]]
    vocab = np.asarray(score(MODEL.policy, OTHER, *flat, extras=("vocab",)).vocab)
    drawn = vocab / temperature
    drawn = drawn - np.log(np.exp(drawn).sum(-1, keepdims=True))
    ratio = np.take_along_axis(vocab - drawn, np.asarray(flat[2])[..., None], -1)
    kept = np.asarray(rows.response_mask)
    got = np.asarray(objective.prepare(batch).correction)[kept]
    np.testing.assert_allclose(got, np.exp(ratio.reshape(kept.shape))[kept], rtol=1e-4)
    assert (np.abs(got - 1) > 1e-2).any() == (temperature != 1.0)


def test_a_batch_is_a_function_of_seed_step_and_parameters(sums):
    source = rollouts(sums)
    # an epoch of one batch: every step asks the same questions
    source = replace(source, prompts=10)
    first = source.open(SETTING).batch(3, OTHER)
    again = source.open(SETTING).batch(3, OTHER)
    jax.tree.map(np.testing.assert_array_equal, first, again)

    def answers(rows):
        return {
            prompt_of(rows, p, 0): [response_of(rows, p, g) for g in range(4)]
            for p in range(10)
        }

    seeded = Setting(MODEL.policy, MODEL.params, MODEL.tokenizer, 1)
    others = [
        source.open(SETTING).batch(4, OTHER),
        source.open(seeded).batch(3, OTHER),
        source.open(SETTING).batch(3, params_of(6)),
    ]
    mine = answers(first.rows)
    for other, least in zip(others, (8, 8, 1), strict=True):
        theirs = answers(other.rows)
        assert theirs.keys() == mine.keys()
        assert sum(theirs[q] != mine[q] for q in mine) >= least


def test_shuffled_rewards_are_a_permutation_of_the_graded(sums):
    graded = rollouts(sums).open(SETTING)
    control = rollouts(sums, rewards="shuffled").open(SETTING)
    moved = 0
    for step in range(3):
        right, wrong = graded.batch(step, OTHER), control.batch(step, OTHER)
        jax.tree.map(np.testing.assert_array_equal, right.rows, wrong.rows)
        a, b = (array(x.batch.rewards) for x in (right, wrong))
        np.testing.assert_array_equal(np.sort(a, None), np.sort(b, None))
        moved += not np.array_equal(a, b)
    assert moved == 3


def test_a_failing_reward_leaves_its_samples_unscored(sums):
    stream = rollouts(sums, reward=failing).open(SETTING)
    rows, batch, metrics = stream.batch(0, OTHER)[:3]
    missing = np.isnan(array(batch.rewards))
    texts = [[response_of(rows, p, g) for g in range(4)] for p in range(4)]
    np.testing.assert_array_equal(missing, [[len(t) > 1 for t in ts] for ts in texts])
    assert metrics["unscored"] == missing.sum() > 0


def test_sampled_preferences_put_the_demonstration_over_a_mistake(sums):
    source = SampledPreferences(sums, 4, 4, 3, Sampling(max_tokens=3), exact)
    stream = source.open(SETTING)
    assert stream.size == 10  # no random text is right, and no question comes twice
    seen = set()
    for step in range(5):
        rows, batch, _ = stream.batch(step, OTHER)[:3]
        assert rows.response.shape == (4, 2, 3) and rows.prompt.shape == (4, 2, 4)
        np.testing.assert_array_equal(batch.mask, rows.response_mask)
        for p in range(4):
            prompt = prompt_of(rows, p, 0)
            assert prompt_of(rows, p, 1) == prompt
            assert response_of(rows, p, 0) == answer_to(prompt)
            assert response_of(rows, p, 1) != answer_to(prompt)
            seen.add((prompt, response_of(rows, p, 1)))
    assert len(seen) == 10


def test_sampled_preferences_keep_to_their_limit(sums):
    """Six questions in batches of four: the last batch counts in part."""
    source = SampledPreferences(sums, 4, 4, 3, Sampling(max_tokens=3), exact, limit=6)
    assert source.open(SETTING).size == 6
    better = replace(source, reward=length)
    # the longest demonstration earns a point, which a longer sample beats
    rows, _, _ = better.open(SETTING).batch(0, None)[:3]
    for p in range(4):
        assert len(response_of(rows, p, 1)) < len(response_of(rows, p, 0))


def test_no_mistake_means_no_pair(sums):
    source = SampledPreferences(sums, 4, 4, 2, Sampling(max_tokens=3), constant)
    with pytest.raises(ValueError, match="no sampled response is worse than its"):
        source.open(SETTING)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"group": 1, "guidance": (Demonstration(),)}, "group: 1 leaves no row to s"),
        ({"group": 3, "guidance": 2 * (Demonstration(),) + (Replay(),)}, "write 4 or"),
        ({"time_limit": 0.0}, "time_limit: 0.0; write seconds > 0"),
        ({"supervision": "process"}, "supervision: process, but the reward gives one"),
        ({"group": 0}, "group: 0 leaves no row to sample"),
    ],
)
def test_refused_rollouts(sums, changes, message):
    with pytest.raises(ValueError, match=message):
        rollouts(sums, **changes)


@pytest.mark.parametrize("name", ["group", "limit"])
def test_refused_sampled_preferences(sums, name):
    arguments = {"group": 2, "limit": None, name: 0}
    with pytest.raises(ValueError, match=f"{name}: 0; write 1 or more"):
        SampledPreferences(sums, 4, 4, sampling=Sampling(3), **arguments)


@pytest.mark.parametrize("make", [demonstrations, rollouts])
def test_a_missing_file_is_named(make, tmp_path):
    with pytest.raises(DataError, match="nothing.jsonl") as caught:
        make(str(tmp_path / "nothing.jsonl")).open(SETTING)
    assert "\n" not in str(caught.value)


def test_a_row_that_does_not_fit_is_named(sums):
    with pytest.raises(DataError, match=r"sums.jsonl.*response_length is 2"):
        replace(demonstrations(sums), response_length=2).open(SETTING)


def test_sixteen_prompts_by_eight_of_the_shipped_base():
    """Groups on a real cache: the prompt is read once, the cache repeated."""
    base = load_model(str(BASE / "base"), 0)
    setting = Setting(base.policy, base.params, base.tokenizer, 0)
    path = str(BASE / "data" / "equations_train.jsonl")
    source = rollouts(path, prompts=16, prompt_length=16, group=8, reward=numeric)
    source = replace(source, sampling=Sampling(max_tokens=12))
    stream = source.open(setting)
    rows, batch, metrics = stream.batch(0, base.params)[:3]
    assert rows.response.shape == (16, 8, 12)
    # the base is sometimes right, sometimes wrong, and ends its answers
    assert 0.02 < metrics["reward"] < 0.98 and metrics["finished"] > 0.9
    flat = [x.reshape(128, -1) for x in rows[:4]]
    want = score(base.policy, base.params, *flat).logps.reshape(16, 8, 12)
    np.testing.assert_allclose(array(batch.behavior), want, atol=1e-4)
    # the same rows of a group, each with its prompt read for itself
    greedy = Sampling(max_tokens=12, temperature=0.0)
    key, tokens = jax.random.key(0), base.tokenizer
    ends = {"stop_tokens": (tokens.eos_token,), "pad_token": tokens.pad_token}
    texts = [
        compiled_sample(
            base.policy, base.params, *prompt, key, greedy, group=group, **ends
        ).tokens
        for prompt, group in (
            ((rows.prompt[:, 0], rows.prompt_mask[:, 0]), 8),
            ((flat[0], flat[1]), 1),
        )
    ]
    np.testing.assert_array_equal(texts[0].reshape(128, 12), texts[1][:, 0])
