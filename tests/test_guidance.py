"""Rows of guidance against what was sampled, written and recorded before."""

from dataclasses import replace

import numpy as np
import pytest
from scripted import Scripted, half, right, steps, wrong
from test_remote import serving, vllm
from tiny_runs import (
    MODEL,
    SETTING,
    TINY,
    experiment,
    lines,
    params_of,
    rollouts,
    write_sums,
)

from unipost import presets
from unipost.hf import save_pretrained
from unipost.loading import load_model
from unipost.rewards import exact
from unipost.rollouts import (
    BufferedDemonstrations,
    Demonstration,
    Prefix,
    Replay,
)
from unipost.runs import RunError
from unipost.sampling import ContinuousSampler, RemoteSampler, Sampling
from unipost.scoring import score
from unipost.train import train

OTHER = params_of(5)
EOS = MODEL.tokenizer.eos_token


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("sums"))


def array(x) -> np.ndarray:
    assert x is not None
    return np.asarray(x)


def rows_of(experience, g: int) -> list[tuple]:
    """The tokens of row g of every group."""
    tokens, mask = (array(x)[:, g] for x in experience.rows[2:4])
    return [tuple(t[m].tolist()) for t, m in zip(tokens, mask, strict=True)]


def prompts_of(experience) -> list[tuple]:
    return [tuple(x.tolist()) for x in array(experience.rows.prompt)[:, 0]]


# demonstrations


def test_a_teachers_log_probs_are_those_of_its_demonstrations(sums, tmp_path):
    teacher = params_of(9)
    save_pretrained(tmp_path, MODEL.config, teacher, MODEL.tokenizer)
    guide = Demonstration(str(tmp_path))
    source = rollouts(sums, guidance=(guide,))
    assert source.paths == (sums, str(tmp_path))
    rows, batch = source.open(SETTING).batch(0, OTHER)[:2]
    alone = [array(x)[:, 3] for x in rows[:4]]
    want = score(MODEL.policy, teacher, *alone).logps
    np.testing.assert_allclose(array(batch.behavior)[:, 3], want, atol=1e-5)
    plain = rollouts(sums, guidance=(Demonstration(),)).open(SETTING).batch(0, OTHER)
    own = array(batch.behavior)[:, :3]
    np.testing.assert_array_equal(array(plain.batch.behavior)[:, :3], own)


def test_a_teacher_with_other_tokens_is_refused(sums, tmp_path):
    other = load_model(replace(TINY, characters="0123456789+=x"), 0)
    save_pretrained(tmp_path, other.config, other.params, other.tokenizer)
    source = rollouts(sums, guidance=(Demonstration(str(tmp_path)),))
    with pytest.raises(RunError, match="its tokenizer is not the model's"):
        source.open(SETTING)


# replay


@pytest.mark.parametrize("rows", [1, 2])
def test_replayed_rows_are_earlier_ones_as_they_were_recorded(sums, rows):
    guide = Replay(rows=rows, capacity=64)
    source = rollouts(sums, prompts=10, group=3 + rows, guidance=(guide,))
    drawn = steps(source.open(SETTING), OTHER, 4)
    first = array(drawn[0].batch.mask)
    assert first[:, :3].any(-1).all() and not first[:, 3:].any()
    assert np.isnan(array(drawn[0].batch.rewards)[:, 3:]).all()
    assert drawn[0].metrics["replay_rows"] == drawn[0].metrics["replay_age"] == 0.0
    for before, now in zip(drawn, drawn[1:], strict=False):
        assert now.metrics["replay_age"] == 1.0 and now.metrics["replay_rows"] == 1.0
        off = np.broadcast_to(np.arange(3 + rows) >= 3, (10, 3 + rows))
        np.testing.assert_array_equal(array(now.batch.off_policy), off)
        places = {prompt: p for p, prompt in enumerate(prompts_of(before))}
        for p, prompt in enumerate(prompts_of(now)):
            told = {
                (rows_of(before, g)[places[prompt]], tuple(behavior.tolist()))
                for g, behavior in enumerate(
                    array(before.batch.behavior)[places[prompt], :3]
                )
            }
            for g in range(3, 3 + rows):
                behavior = tuple(array(now.batch.behavior)[p, g].tolist())
                assert (rows_of(now, g)[p], behavior) in told


def test_the_age_of_a_replayed_row_counts_its_steps(sums):
    """An epoch of ten questions in steps of two: each comes back after five steps."""
    source = rollouts(sums, prompts=2, guidance=(Replay(capacity=100),))
    drawn = steps(source.open(SETTING), OTHER, 15)
    ages = [x.metrics["replay_age"] for x in drawn]
    assert ages[:5] == [0.0] * 5
    # an epoch is in another order: 1 to 9 steps later, 5 on average
    assert all(1 <= age <= 9 for age in ages[5:])
    assert np.mean(ages[5:]) == pytest.approx(5.0)


def test_replay_keeps_the_newest_and_only_what_is_right(sums):
    guides = (Replay(capacity=3, keep="correct"),)
    source = rollouts(sums, prompts=10, reward=exact, guidance=guides)
    source = replace(source, sampler=Scripted(half))
    drawn = steps(source.open(SETTING), OTHER, 3)
    rewards, mask = array(drawn[1].batch.rewards), array(drawn[1].batch.mask)
    there = mask[:, 3].any(-1)
    # five questions have right answers, the last three of them are kept
    even = [MODEL.tokenizer.decode(list(p))[0] in "02468" for p in prompts_of(drawn[0])]
    kept = [p for p, e in zip(prompts_of(drawn[0]), even, strict=True) if e][-3:]
    found = [p for p, t in zip(prompts_of(drawn[1]), there, strict=True) if t]
    assert sorted(kept) == sorted(found)
    assert (rewards[there, 3] == 1.0).all() and np.isnan(rewards[~there, 3]).all()
    sizes = [{k: (v.shape, v.dtype) for k, v in x.memory.items()} for x in drawn]
    assert sizes[0] == sizes[1] == sizes[2]


def test_replay_without_log_probs_is_refused(sums):
    silent = RemoteSampler("http://localhost:1", "tiny", logprobs="none")
    with pytest.raises(ValueError, match="guidance: replay needs the log-probs"):
        rollouts(sums, sampler=silent, guidance=(Replay(),))


# prefixes


def worked(tmp_path) -> str:
    """Sums with a solution of ten tokens."""
    path = tmp_path / "worked.jsonl"
    lines = [
        f'{{"prompt": "{a}+1=", "answer": "{a + 1}", "demonstration": "{a}+1=1+{a}=9"}}'
        for a in range(8)
    ]
    path.write_text("\n".join(lines))
    return str(path)


def test_a_prefix_is_continued_by_the_policy(tmp_path):
    path, length = worked(tmp_path), 12
    guide = Prefix(steps=10, low=0.2, high=0.8, rows=2)
    sampling = Sampling(length)
    source = rollouts(path, prompts=8, group=4, sampling=sampling, guidance=(guide,))
    stream = source.open(SETTING)
    for step, lowest in ((0, 0.8), (5, 0.5), (10, 0.2), (40, 0.2)):
        assert guide.lowest(step) == pytest.approx(lowest)
        drawn = stream.batch(step, OTHER)
        off, mask = array(drawn.batch.off_policy), array(drawn.rows.response_mask)
        assert off.shape == mask.shape and not off[:, :2].any()
        given = off[:, 2:].sum(-1)
        # ten tokens with the end: floor(10 l), l between low_t and 0.8
        assert (given >= int(10 * lowest - 1e-9)).all() and (given <= 8).all()
        for p, prompt in enumerate(prompts_of(drawn)):
            text = MODEL.tokenizer.decode(list(prompt))
            whole = MODEL.tokenizer.encode(f"{text}1+{text[0]}=9") + [EOS]
            for g in (2, 3):
                n = given[p, g - 2]
                assert off[p, g, :n].all() and not off[p, g, n:].any()
                assert list(rows_of(drawn, g)[p][:n]) == whole[:n]
                assert len(rows_of(drawn, g)[p]) > n
        flat = [array(x).reshape(32, -1) for x in drawn.rows[:4]]
        want = np.asarray(score(MODEL.policy, OTHER, *flat).logps).reshape(off.shape)
        behavior = array(drawn.batch.behavior)
        np.testing.assert_allclose(behavior[~off], want[~off], atol=1e-5)
        assert np.isnan(behavior[off]).all()
    spread = stream.batch(40, OTHER).batch.off_policy[:, 2:].sum(-1)
    assert len(np.unique(array(spread))) > 2


def test_the_share_given_falls_over_the_run(tmp_path):
    guide = Prefix(steps=20, low=0.0, high=0.9, shape="linear")
    source = rollouts(worked(tmp_path), sampling=Sampling(12), guidance=(guide,))
    stream = source.open(SETTING)
    shares = [stream.batch(t, OTHER).metrics["prefix_share"] for t in (0, 1, 19, 20)]
    assert min(shares[:2]) > 1.5 * max(shares[2:])


SMALL = ContinuousSampler(slots=3, refill=1, steps=2, prefill=2)


def test_samplers_agree_on_what_follows_a_prefix(tmp_path):
    sampling, guides = Sampling(12), (Prefix(steps=4, rows=2),)
    source = rollouts(worked(tmp_path), sampling=sampling, guidance=guides)
    one = source.open(SETTING).batch(2, OTHER)
    other = replace(source, sampler=SMALL).open(SETTING).batch(2, OTHER)
    for name in ("response", "response_mask"):
        a, b = getattr(one.rows, name), getattr(other.rows, name)
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(one.batch.off_policy, other.batch.off_policy)
    np.testing.assert_allclose(one.batch.behavior, other.batch.behavior, atol=1e-4)


def test_a_server_continues_a_prefix(tmp_path):
    """Prompt and prefix go out as one prompt; only what comes back has log-probs."""
    seen = []

    def answer(body):
        seen.append((len(body["prompt"]), body["max_tokens"]))
        return vllm(body)

    guide = Prefix(steps=1, low=0.5, high=0.5)
    with serving(answer) as (_, url):
        remote = RemoteSampler(url, "tiny", backoff=0.01)
        source = rollouts(worked(tmp_path), sampling=Sampling(12), sampler=remote)
        drawn = replace(source, guidance=(guide,)).open(SETTING).batch(0, OTHER)
    off, mask = array(drawn.batch.off_policy), array(drawn.rows.response_mask)
    np.testing.assert_array_equal(off[:, 3].sum(-1), 5)
    assert sorted(seen) == [(4, 12)] * 4 + [(9, 7)] * 4
    behavior = array(drawn.batch.behavior)
    np.testing.assert_array_equal(np.isnan(behavior), off)
    assert (behavior[mask & ~off] < 0).all()


def test_a_sampler_that_ignores_what_is_given_is_refused(tmp_path):
    source = rollouts(worked(tmp_path), sampling=Sampling(12), sampler=Scripted(wrong))
    source = replace(source, guidance=(Prefix(steps=4),))
    with pytest.raises(
        ValueError, match="Scripted gives completions that do not begin"
    ):
        source.open(SETTING).batch(0, OTHER)


# buffered demonstrations


def test_what_the_policy_fails_is_demonstrated_in_a_step_of_its_own(sums):
    guide = BufferedDemonstrations(size=8)
    sampler = Scripted(half)
    source = rollouts(sums, sampler=sampler, reward=exact, guidance=(guide,))
    drawn = steps(source.open(SETTING), OTHER, 12)
    waiting, asked = [], []
    for x in drawn:
        mask = array(x.batch.mask)
        assert x.metrics["buffered"] == len(waiting)
        if len(waiting) >= 4:
            assert x.metrics["imitation"] == 1.0
            assert prompts_of(x) == waiting[:4]
            assert not mask[:, :3].any() and mask[:, 3].any(-1).all()
            for prompt, text in zip(prompts_of(x), rows_of(x, 3), strict=True):
                answer = right(MODEL.tokenizer.decode(list(prompt)), 0)
                assert MODEL.tokenizer.decode(list(text)) == answer
            np.testing.assert_array_equal(array(x.batch.rewards)[:, 3], 1.0)
            assert np.isnan(array(x.batch.behavior)[mask > 0]).all()
            waiting = waiting[4:]
            continue
        assert x.metrics["imitation"] == 0.0
        assert mask[:, :3].any(-1).all() and not mask[:, 3].any()
        asked += prompts_of(x)
        failed = ~(array(x.batch.rewards)[:, :3] == 1).any(-1)
        new = [p for p, bad in zip(prompts_of(x), failed, strict=True) if bad]
        waiting += [p for p in dict.fromkeys(new) if p not in waiting]
    # the steps in between skip no question: whole epochs of ten
    assert len(asked) < 48 and len(set(asked[:10])) == len(set(asked[10:20])) == 10


def test_a_buffer_that_never_holds_a_batch_is_refused(sums):
    source = rollouts(sums, guidance=(BufferedDemonstrations(size=3),))
    with pytest.raises(ValueError, match="size: 3 never holds a batch of 4 prompts"):
        source.open(SETTING)


@pytest.mark.parametrize(
    "name, guide, arguments",
    [
        ("relift", BufferedDemonstrations(size=8), {}),
        ("prefix_rft", Prefix(steps=3), {}),
        ("hpt", Demonstration(), {"max_length": 3.0}),
        ("srft", Demonstration(), {"max_length": 3.0}),
        ("luffy", Replay(), {"max_length": 3.0}),
    ],
)
def test_recipes_train_on_their_guidance(name, guide, arguments, sums, tmp_path):
    objective = getattr(presets, name)(**arguments)
    data = rollouts(sums, reward=exact, guidance=(guide,))
    run = experiment("grpo", sums, data=data, objective=objective, steps=3)
    run = replace(run, evaluation=None, checkpoints=None)
    train(run, tmp_path / name, model=MODEL)
    told = lines(tmp_path / name)
    assert all(np.isfinite(x["loss"]) for x in told)
    if name == "relift":  # every question fails, so every second step imitates
        assert [x["imitation"] for x in told] == [0.0, 1.0, 0.0]
        assert told[1]["loss"] != 0.0
