"""Samples of a batch against the scorer and a numpy oracle of the truncated law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_draw import truncated

from unipost.model import (
    ModelConfig,
    function_policy,
    init_params,
    transformer_policy,
)
from unipost.sampling import Sampling, candidates, sample
from unipost.scoring import score

CONFIG = ModelConfig(
    vocab_size=13,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
)
POLICY = transformer_policy(CONFIG)
SINGLE = jax.tree.map(lambda x: 3 * x, init_params(CONFIG, 0))
PARAMS = jax.tree.map(lambda x: x.astype(jnp.float64), SINGLE)
T = 8
STOPS = (3,)
fast = jax.jit(
    sample, static_argnums=0, static_argnames=("group", "stop_tokens", "pad_token")
)
fast_score = jax.jit(score, static_argnums=0, static_argnames=("extras", "chunk"))


def prompts(seed=0, count=4, length=5):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 13, (count, length))
    mask = np.arange(length) >= rng.integers(0, length, (count, 1))
    return jnp.asarray(tokens), jnp.asarray(mask)


def draw(
    sampling=Sampling(T), key=0, policy=POLICY, params=PARAMS, data=None, **options
):
    """Samples of shape [P G T], four in a group, that stop at STOPS."""
    options = {"group": 4, "stop_tokens": STOPS, "pad_token": 0, **options}
    tokens, mask = prompts() if data is None else data
    return fast(policy, params, tokens, mask, jax.random.key(key), sampling, **options)


def rescore(samples, extras=(), params=PARAMS):
    """Scores [P G T ...] of samples by the scorer."""
    group = samples.tokens.shape[1]
    prompt, mask = (jnp.repeat(x, group, axis=0) for x in prompts())
    flat = samples.tokens.reshape(-1, T), samples.mask.reshape(-1, T)
    scores = fast_score(POLICY, params, prompt, mask, *flat, extras=extras)
    return jax.tree.map(lambda x: x.reshape(-1, group, *x.shape[1:]), scores)


@pytest.mark.parametrize("params, tolerance", [(SINGLE, 1e-5), (PARAMS, 1e-12)])
def test_sampled_logps_are_the_scorers(params, tolerance):
    samples = draw(params=params)
    assert samples.tokens.shape == (4, 4, T)
    assert samples.logps.dtype == params["embedding"].dtype
    assert len(np.unique(samples.mask.sum(-1))) > 2
    again = rescore(samples, params=params).logps
    np.testing.assert_allclose(samples.logps, again, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "cuts",
    [
        (0.7, None, None, None),
        (1.5, 4, None, None),
        (1.0, None, 0.8, None),
        (1.3, 6, 0.7, 0.2),
        (2.0, None, 1.0, 0.0),
        (1.0, 99, 1e-9, None),
    ],
)
def test_logps_are_those_of_the_truncated_law(cuts):
    samples = draw(Sampling(T, *cuts))
    vocab = rescore(samples, extras=("vocab",)).vocab
    for place in zip(*np.nonzero(samples.mask), strict=True):
        law = truncated(vocab[place], *cuts)
        np.testing.assert_allclose(
            np.exp(samples.logps[place]), law[samples.tokens[place]], rtol=1e-9
        )


def test_greedy_takes_the_largest_logit_with_probability_one():
    samples = draw(Sampling(T, 0.0), group=2)
    best = rescore(samples, extras=("vocab",)).vocab.argmax(-1)
    np.testing.assert_array_equal(samples.tokens[samples.mask], best[samples.mask])
    assert (samples.logps == 0).all()


@pytest.mark.parametrize(
    "sampling, kept",
    [
        (Sampling(1, top_p=0.5), [1, 2]),
        (Sampling(1, top_p=0.51), [1, 2, 3]),
        (Sampling(1, top_p=0.75), [1, 2, 3]),
        (Sampling(1, top_k=3), [1, 2, 3]),
        (Sampling(1, top_k=3, top_p=0.6), [1, 2]),
        (Sampling(1, 0.0), [1]),
        (Sampling(1, top_p=1.0), [0, 1, 2, 3, 4]),
        (Sampling(1, min_p=1.0), [1, 2, 3, 4]),
        (Sampling(1, top_k=3, top_p=0.6, min_p=0.9), [1, 2]),
    ],
)
def test_cuts_keep_exactly_the_smallest_set(sampling, kept):
    probs = jnp.array([[1e-30, 0.25, 0.25, 0.25, 0.25]], jnp.float32)
    logps, ids = candidates(jnp.log(probs), sampling)
    assert sorted(np.asarray(ids[logps > -jnp.inf])) == kept
    np.testing.assert_allclose(jnp.exp(logps).sum(), 1.0, rtol=1e-6)


def test_temperature_is_traced():
    traces = []

    @jax.jit
    def run(sampling):
        traces.append(sampling)
        return candidates(jnp.array([[0.0, 1.0, 2.0]]), sampling)[0]

    for temperature in (0.0, 0.5, 1.0):
        got = run(Sampling(T, temperature))
        expected = candidates(jnp.array([[0.0, 1.0, 2.0]]), Sampling(T, temperature))[0]
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert len(traces) == 1


def test_rows_end_with_their_first_stop_token():
    samples = jax.tree.map(np.asarray, draw())
    rows = zip(
        samples.tokens.reshape(-1, T),
        samples.mask.reshape(-1, T),
        samples.finished.ravel(),
        samples.logps.reshape(-1, T),
        strict=True,
    )
    for tokens, mask, finished, logps in rows:
        stops = np.flatnonzero(np.isin(tokens, STOPS))
        length = stops[0] + 1 if len(stops) else T
        np.testing.assert_array_equal(mask, np.arange(T) < length)
        assert finished == bool(len(stops))
        assert (tokens[length:] == 0).all() and (logps[length:] == 0).all()
    assert 0 < samples.finished.mean() < 1


def test_pad_token_may_be_a_stop_token():
    samples = draw(stop_tokens=(0,), pad_token=0)
    ends = jnp.where(samples.mask, samples.tokens, -1)
    np.testing.assert_array_equal((ends == 0).any(-1), samples.finished)


def test_without_stop_tokens_every_row_is_full():
    samples = draw(stop_tokens=())
    assert samples.mask.all() and not samples.finished.any()


def test_decoding_stops_when_every_row_has_ended():
    steps = []

    def decode(params, cache, token):
        jax.debug.callback(lambda: steps.append(1))
        return POLICY.decode(params, cache, token)

    watched = type(POLICY)(POLICY.hidden, POLICY.head, POLICY.prefill, decode)
    samples = draw(policy=watched, stop_tokens=tuple(range(0, 13, 2)))
    jax.effects_barrier()
    assert samples.finished.all()
    assert len(steps) == int(samples.mask.sum(-1).max()) < T


def test_group_reads_each_prompt_once_and_draws_as_separate_rows_would():
    tokens, mask = prompts()
    together = draw()
    apart = draw(data=[jnp.repeat(x, 4, axis=0) for x in (tokens, mask)], group=1)
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_allclose(a.reshape(b.shape), b, atol=1e-12)


def test_a_row_does_not_depend_on_the_others():
    tokens, mask = prompts()
    changed = tokens.at[1:].set((tokens[1:] + 1) % 13)
    first, second = draw(), draw(data=(changed, mask))
    np.testing.assert_array_equal(first.tokens[0], second.tokens[0])
    np.testing.assert_array_equal(
        first.tokens[:2], draw(data=(tokens[:2], mask[:2])).tokens
    )
    assert (first.tokens[1:] != second.tokens[1:]).any()


def test_keys_rows_and_steps_draw_differently():
    first, again, other = draw(), draw(), draw(key=1)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    assert (first.tokens != other.tokens).mean() > 0.3
    flat = function_policy(lambda p, tokens, mask: jnp.zeros((*tokens.shape, 13)))
    tokens = np.asarray(draw(policy=flat, stop_tokens=()).tokens).reshape(-1, T)
    assert len(np.unique(tokens, axis=0)) == len(tokens)
    assert (tokens == tokens[:, :1]).mean() < 0.4


def test_function_policy_samples_what_the_transformer_samples():
    wrapped = draw(policy=function_policy(POLICY.logits))
    for a, b in zip(wrapped, draw(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_64_bit_mode_changes_no_sample():
    wide = jax.tree.map(np.asarray, draw(params=SINGLE))
    with jax.enable_x64(False):
        data = [jnp.asarray(np.asarray(x)) for x in prompts()]
        narrow = jax.tree.map(np.asarray, draw(params=SINGLE, data=data))
    np.testing.assert_array_equal(wide.tokens, narrow.tokens)
    np.testing.assert_allclose(wide.logps, narrow.logps, atol=1e-5)


def test_eight_devices_draw_what_one_does():
    tokens, mask = prompts(count=8)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    apart = draw(data=[jax.device_put(x, spread) for x in (tokens, mask)])
    np.testing.assert_array_equal(apart.tokens, draw(data=(tokens, mask)).tokens)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(max_tokens=0), "max_tokens is 0"),
        (dict(temperature=-1.0), "0 is greedy"),
        (dict(top_k=0), "top_k is 0"),
        (dict(top_p=0.0), r"in \(0, 1\]"),
        (dict(top_p=1.5), "top_p is 1.5"),
        (dict(min_p=-0.1), r"min_p is -0.1; give a number in \[0, 1\]"),
        (dict(max_tokens=None), "max_tokens is None"),
        (dict(temperature=float("nan")), "temperature is nan"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, words):
    with pytest.raises(ValueError, match=f"^Sampling.*{words}"):
        Sampling(**{"max_tokens": 4, **options})


def test_shapes_that_do_not_fit_are_refused():
    tokens, mask = prompts()
    for data, group, words in (
        ((tokens, mask[:2]), 1, "must be equal"),
        ((tokens, mask), 0, "group is 0"),
    ):
        with pytest.raises(ValueError, match=f"^sample: .*{words}"):
            sample(POLICY, PARAMS, *data, jax.random.key(0), Sampling(T), group=group)
