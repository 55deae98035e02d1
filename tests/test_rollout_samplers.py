"""Rollouts by each sampler, as a config names them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from test_remote import serving, vllm
from tiny_runs import MODEL, SETTING, params_of, rollouts, write_sums

from unipost.choices import REGISTRIES
from unipost.config import ConfigError, build
from unipost.rollouts import Demonstration, SampledPreferences
from unipost.sampling import Completion, ContinuousSampler, Sampler, Sampling

OTHER = params_of(5)
SMALL = ContinuousSampler(slots=3, refill=1, steps=2, prefill=2)


@pytest.fixture(scope="module")
def sums(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("sums"))


def array(x) -> np.ndarray:
    assert x is not None
    return np.asarray(x)


def test_a_config_names_the_sampler():
    node = {"name": "continuous", "slots": 3, "refill": 1, "steps": 2, "prefill": 2}
    assert build(REGISTRIES[Sampler], node, "sampler") == SMALL
    with pytest.raises(ConfigError, match="sampler.slots: 0; write 1 or more"):
        build(REGISTRIES[Sampler], node | {"slots": 0}, "sampler")
    with pytest.raises(ConfigError, match="one of batch, continuous, remote"):
        build(REGISTRIES[Sampler], "vllm", "sampler")


def test_continuous_rollouts_are_those_of_a_plain_batch(sums):
    source = rollouts(sums, guidance=(Demonstration(),))
    rows, batch, metrics = source.open(SETTING).batch(2, OTHER)[:3]
    other = replace(source, sampler=SMALL).open(SETTING).batch(2, OTHER)
    for name in ("prompt", "prompt_mask", "response", "response_mask"):
        np.testing.assert_array_equal(getattr(other.rows, name), getattr(rows, name))
    np.testing.assert_allclose(
        array(other.batch.behavior), array(batch.behavior), atol=1e-4
    )
    np.testing.assert_array_equal(array(other.batch.rewards), array(batch.rewards))
    assert other.metrics == pytest.approx(metrics)


@pytest.mark.parametrize("sampler", [None, SMALL])
def test_stop_strings_end_a_response(sums, sampler):
    stop = tuple("0123456789")
    source = rollouts(sums, sampling=Sampling(3), stop=stop)
    if sampler is not None:
        source = replace(source, sampler=sampler)
    rows, _, metrics = source.open(SETTING).batch(0, OTHER)[:3]
    tokenizer = MODEL.tokenizer
    ended = []
    for p, g in np.ndindex(4, 4):
        text = tokenizer.decode(rows.response[p, g][rows.response_mask[p, g]].tolist())
        assert not any(digit in text[:-1] for digit in stop)
        last = int(rows.response[p, g][int(rows.response_mask[p, g].sum()) - 1])
        ended.append(text[-1:].isdigit() or last == tokenizer.eos_token)
    assert metrics["finished"] == pytest.approx(np.mean(ended))
    assert 0.5 < np.mean(ended)


@dataclass(frozen=True)
class Echo:
    """A sampler of one's own, without a base class: the prompt again, unlikely."""

    logp: float = -2.0

    def open(self, policy, tokenizer, sampling, prompt_length):
        def engine(params, requests, key):
            return [
                [
                    Completion(np.array(r.prompt[:3]), np.full(3, self.logp), "length")
                    for _ in r.ids
                ]
                for r in requests
            ]

        return engine


def test_a_sampler_of_ones_own_fits(sums):
    own = build(REGISTRIES[Sampler], {"name": "test_rollout_samplers:Echo"}, "sampler")
    rows, batch, _ = rollouts(sums, sampler=own).open(SETTING).batch(0, OTHER)[:3]
    np.testing.assert_array_equal(rows.response, rows.prompt[..., :3])
    np.testing.assert_array_equal(array(batch.behavior), -2.0)


def test_remote_rollouts_hold_what_the_server_says(sums):
    eos = MODEL.tokenizer.eos_token

    def answer(body):
        assert body["stop_token_ids"] == [eos]
        return vllm(body)

    def without(body):
        return vllm(body, logprobs=None)

    node = {"name": "remote", "model": "tiny", "backoff": 0.01}
    for reply, kind in ((answer, "raw"), (without, "none")):
        with serving(reply) as (_, url):
            remote = build(
                REGISTRIES[Sampler], node | {"url": url, "logprobs": kind}, "sampler"
            )
            source = rollouts(sums, sampler=remote, sampling=Sampling(4))
            rows, batch, _ = source.open(SETTING).batch(0, OTHER)[:3]
        last = array(rows.response_mask).sum(-1) - 1
        ends = np.take_along_axis(array(rows.response), last[..., None], -1)
        assert (ends == eos).all()
        if kind == "none":  # not a stream of NaN, whose ratios would count as 1
            assert batch.behavior is None
            continue
        behavior, mask = array(batch.behavior), array(rows.response_mask)
        assert (behavior[mask] < 0).all() and (behavior[~mask] == 0).all()


def test_sampled_preferences_use_the_sampler(sums):
    source = SampledPreferences(
        sums, 4, 4, 3, sampling=Sampling(3), sampler=SMALL, limit=4
    )
    plain = replace(source, sampler=rollouts(sums).sampler)
    for one, other in zip(
        source.open(SETTING).batch(0, OTHER).rows[:4],
        plain.open(SETTING).batch(0, OTHER).rows[:4],
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
