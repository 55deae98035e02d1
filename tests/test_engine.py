"""Continuous batching against the plain batch, the scorer, and a count of its steps."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost.model import (
    ModelConfig,
    Policy,
    function_policy,
    init_params,
    transformer_policy,
)
from unipost.sampling import (
    BatchSampler,
    Completion,
    ContinuousSampler,
    Request,
    Sampling,
    as_samples,
    compiled_sample,
)
from unipost.sampling.protocol import completing_token
from unipost.scoring import score
from unipost.tokenizer import CharTokenizer

CONFIG = ModelConfig(
    vocab_size=13,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
)
POLICY = transformer_policy(CONFIG)
SINGLE = jax.tree.map(lambda x: 3 * x, init_params(CONFIG, 0))
PARAMS = jax.tree.map(lambda x: x.astype(jnp.float64), SINGLE)
TOKENIZER = CharTokenizer("abcdefghijk")
LENGTH, T = 7, 16
SMALL = ContinuousSampler(slots=5, refill=2, steps=4, prefill=2)
KEY = jax.random.key(5)


def requests(count=6, group=3, seed=0, **changes):
    """Ragged prompts with ragged budgets; ids of their own, not in order."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        prompt = rng.integers(0, 13, rng.integers(1, LENGTH + 1)).tolist()
        ids = tuple(100 * i + j for j in range(group))
        budget = int(rng.integers(1, T + 1))
        out.append(Request(tuple(prompt), ids, budget, (3,)))
    return [replace(request, **changes) for request in out]


@cache
def engine(sampler=SMALL, sampling=Sampling(T), policy=POLICY):
    return sampler.open(policy, TOKENIZER, sampling, LENGTH)


def equal(some, others, tolerance=1e-10):
    for one, other in zip(sum(some, []), sum(others, []), strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logps, other.logps, atol=tolerance)
        assert one.finish == other.finish


@pytest.mark.parametrize(
    "sampling",
    [Sampling(T, 0.0), Sampling(T), Sampling(T, 1.5, 8, 0.9, 0.05)],
)
def test_completions_are_those_of_a_plain_batch(sampling):
    asked = requests()
    plain = engine(BatchSampler(), sampling)(PARAMS, asked, KEY)
    got = engine(SMALL, sampling)(PARAMS, asked, KEY)
    equal(got, plain)
    assert {one.finish for one in sum(got, [])} == {"stop", "length"}
    assert len({len(one.tokens) for one in sum(got, [])}) > 3


def padded(rows, length):
    """Token rows as arrays [N length], and their mask."""
    tokens = np.zeros((len(rows), length), np.int32)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
    return tokens, np.arange(length) < np.array([len(row) for row in rows])[:, None]


def test_a_plain_batch_is_what_sample_draws():
    """Row p * G + g of `sample` is the completion with this number as id."""
    prompts = [(1, 2, 3, 4, 5, 6, 7), (7, 6, 5, 4, 3, 2, 1)]
    asked = [Request(x, (2 * p, 2 * p + 1), T, (3,)) for p, x in enumerate(prompts)]
    whole = padded(prompts, LENGTH)
    options = {"group": 2, "stop_tokens": (3,), "pad_token": 0}
    samples = compiled_sample(POLICY, PARAMS, *whole, KEY, Sampling(T), **options)
    got = engine(BatchSampler())(PARAMS, asked, KEY)
    again = as_samples(got, T, 0)
    for one, other in zip(samples, again, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("params, tolerance", [(SINGLE, 1e-4), (PARAMS, 1e-10)])
def test_log_probs_are_the_scorers(params, tolerance):
    asked = requests()
    groups = zip(asked, engine()(params, asked, KEY), strict=True)
    drawn = [(request.prompt, one) for request, group in groups for one in group]
    prompts = np.zeros((len(drawn), LENGTH), np.int32)
    real = np.zeros(prompts.shape, bool)
    for row, (prompt, _) in enumerate(drawn):
        prompts[row, -len(prompt) :], real[row, -len(prompt) :] = prompt, True
    response, mask = padded([one.tokens for _, one in drawn], T)
    fast = jax.jit(score, static_argnums=0)
    want = np.asarray(fast(POLICY, params, prompts, real, response, mask).logps)
    for row, (_, one) in enumerate(drawn):
        assert one.logps.dtype == params["embedding"].dtype
        count = len(one.tokens)
        np.testing.assert_allclose(one.logps, want[row, :count], atol=tolerance)


def test_a_request_draws_the_same_whatever_else_is_in_the_batch():
    asked = requests()
    together = engine()(PARAMS, asked, KEY)
    order = [4, 0, 5]
    apart = engine()(PARAMS, [asked[i] for i in order], KEY)
    equal(apart, [together[i] for i in order])
    other = engine()(PARAMS, asked, jax.random.key(6))
    pairs = zip(sum(together, []), sum(other, []), strict=True)
    assert sum(a.tokens.tolist() != b.tokens.tolist() for a, b in pairs) > 9


def test_slots_and_pauses_change_nothing():
    asked = requests()
    for sampler in (ContinuousSampler(1, 1, 3, 1), ContinuousSampler(18, 8, 64, 4)):
        equal(engine(sampler)(PARAMS, asked, KEY), engine()(PARAMS, asked, KEY))


def test_any_function_of_tokens_is_sampled_in_turning_slots():
    plain = function_policy(POLICY.logits)
    asked = requests(count=4)
    got = engine(SMALL, Sampling(T), plain)(PARAMS, asked, KEY)
    equal(got, engine()(PARAMS, asked, KEY))


def first_with(tokens, stop):
    """The shortest beginning of `tokens` whose text holds `stop`, by trying all."""
    for n in range(len(tokens) + 1):
        if stop in TOKENIZER.decode(tokens[:n]):
            return n
    return None


@pytest.mark.parametrize("sampler", [SMALL, BatchSampler()])
def test_stop_strings_cut_after_the_token_that_completes_them(sampler):
    """Strings of several tokens, special tokens between them, also across pauses."""
    asked = requests(count=8, max_tokens=T, stop_tokens=())
    free = engine(sampler)(PARAMS, asked, KEY)
    texts = [TOKENIZER.decode(one.tokens.tolist()) for one in sum(free, [])]
    pairs = [text[i : i + 2] for text in texts for i in range(len(text) - 1)]
    common = max(set(pairs), key=pairs.count)
    got = engine(sampler)(PARAMS, [replace(r, stop=(common,)) for r in asked], KEY)
    cut = 0
    for one, whole in zip(sum(got, []), sum(free, []), strict=True):
        n = first_with(whole.tokens.tolist(), common)
        np.testing.assert_array_equal(one.tokens, whole.tokens[:n])
        np.testing.assert_allclose(one.logps, whole.logps[:n], atol=1e-12)
        assert one.finish == ("length" if n is None else "stop")
        cut += n is not None
    assert 1 < cut < len(texts)


def test_the_completing_token_is_found_by_bisection():
    rng = np.random.default_rng(0)
    for _ in range(200):
        tokens = rng.integers(0, 5, rng.integers(1, 12)).tolist()
        for stop in ("a", "ab", "bab"):
            want = first_with(tokens, stop)
            assert completing_token(TOKENIZER, tokens, (stop, "k")) == want
            for seen in range(want or 0):
                assert completing_token(TOKENIZER, tokens, (stop,), seen) == want
    assert completing_token(TOKENIZER, [2, 3], ()) is None


def test_every_request_has_its_own_budget_and_stop_tokens():
    """Those of a policy that counts upwards are known without sampling."""

    def next_token(params, tokens, mask):
        return 50.0 * jax.nn.one_hot((tokens + 1) % 13, 13)

    counting = function_policy(next_token)
    asked = [
        Request((1,), (0,), 5, ()),
        Request((4, 2), (1, 2), 9, (7, 12)),
        Request((5,), (3,), 9, (6,)),
        Request((8,), (4,), 1, ()),
    ]
    got = engine(SMALL, Sampling(T), counting)({}, asked, KEY)
    found = [(one.tokens.tolist(), one.finish) for one in sum(got, [])]
    assert found == [
        ([2, 3, 4, 5, 6], "length"),
        ([3, 4, 5, 6, 7], "stop"),
        ([3, 4, 5, 6, 7], "stop"),
        ([6], "stop"),
        ([9], "length"),
    ]


def watched(policy, calls):
    """The policy with a list that grows by one at every decoding step."""

    def decode(params, cache, token):
        jax.debug.callback(lambda: calls.append(1))
        return policy.decode(params, cache, token)

    return Policy(policy.hidden, policy.head, policy.prefill, decode)


def test_a_batch_costs_its_tokens_and_not_its_longest_row():
    calls = []
    policy = watched(POLICY, calls)
    budgets = [2] * 30 + [60] + [2] * 31
    asked = [Request((4, 5), (i,), n) for i, n in enumerate(budgets)]
    sampler = ContinuousSampler(slots=4, refill=1, steps=8, prefill=8)
    got = engine(sampler, Sampling(60), policy)(PARAMS, asked, KEY)
    jax.effects_barrier()
    assert [len(group[0].tokens) for group in got] == budgets
    assert len(calls) <= sum(budgets) / 4 + max(budgets)
    # in batches of four, each as long as its longest row, the order changes little
    assert len(calls) < 0.1 * 60 * len(budgets) / 4


def test_no_program_is_compiled_again_for_other_requests():
    traces = []

    def prefill(*inputs):
        traces.append("prefill")
        return POLICY.prefill(*inputs)

    def decode(*inputs):
        traces.append("decode")
        return POLICY.decode(*inputs)

    opened = engine(SMALL, Sampling(T), replace(POLICY, prefill=prefill, decode=decode))
    asked = requests()
    opened(PARAMS, asked, KEY)
    first = len(traces)
    others = [Request(r.prompt[::-1], (4, 5), 9, (1,)) for r in asked]
    opened(PARAMS, others + others, jax.random.key(1))
    # the shapes of the empty slots are asked for at every call
    assert traces[first:] == ["prefill"] and traces.count("decode") <= 2


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"prompt": tuple(range(8))}, "request 0: prompt of 8 tokens, but .* for 7"),
        ({"max_tokens": 17}, "request 0: max_tokens of 17 tokens, but .* for 16"),
        ({"stop": ("<eos>",)}, "request 0: stop '<eos>' is a special token"),
    ],
)
def test_requests_beyond_the_engine_are_refused(changes, words):
    asked = [replace(requests(count=1)[0], **changes)]
    for sampler in (SMALL, BatchSampler()):
        with pytest.raises(ValueError, match=words):
            engine(sampler)(PARAMS, asked, KEY)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Request((), (0,), 4), "Request.prompt is empty"),
        (lambda: Request((1,), (), 4), "Request.ids is empty"),
        (lambda: Request((1,), (0,), 0), "Request.max_tokens is 0"),
        (lambda: Request((1,), (0,), 4, (), ("",)), r"Request.stop is \('',\)"),
        (lambda: ContinuousSampler(slots=0), "sampler.slots: 0; write 1 or more"),
        (lambda: ContinuousSampler(4, 8), "sampler.refill: 8 of 4 slots"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_plain_batch_refuses_requests_that_differ():
    asked = requests(count=2)
    mixed = [asked[0], replace(asked[1], ids=(7,))]
    with pytest.raises(ValueError, match="sampler.batch: .*write sampler: continuous"):
        engine(BatchSampler())(PARAMS, mixed, KEY)


def test_no_requests_give_no_completions():
    assert engine()(PARAMS, [], KEY) == []
    assert Completion._fields == ("tokens", "logps", "finish")
