"""Numbers of softmax(logits), their derivatives, and the chunks they come in."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost import head
from unipost.head import Scores, chunk_columns, moments, read, scores_of
from unipost.model.layers import read_out

NAMES = ("logps", "lse", "entropy", "collision")
KINDS = [(name,) for name in NAMES] + [NAMES, ("entropy", "logps")]
RNG = np.random.default_rng(0)
TARGETS = jnp.asarray([[3, 0, 10], [5, 5, 1]])
MASK = jnp.asarray([[True, True, True], [True, False, True]])


def definitions(names, logits, targets, mask):
    """The same numbers from log-softmax, differentiated by jax."""
    log_p = jax.nn.log_softmax(logits)
    found = {
        "logps": jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0],
        "lse": jax.nn.logsumexp(logits, -1),
        "entropy": -jnp.sum(jnp.exp(log_p) * log_p, -1),
        "collision": jax.nn.logsumexp(2 * log_p, -1),
    }
    return {name: jnp.where(mask, found[name], 0.0) for name in names}


def ours(names, logits, targets, mask):
    found = moments(names, logits, targets, mask)
    return {name: jnp.where(mask, x, 0.0) for name, x in found.items()}


def total(function, names):
    """A scalar in which every number has its own, non-linear, weight."""

    def value(logits):
        found = function(names, logits, TARGETS, MASK)
        weight = 1.0 + jnp.arange(TARGETS.size).reshape(TARGETS.shape)
        scale = {"logps": 1.0, "lse": 2.0, "entropy": 3.0, "collision": 4.0}
        return sum(scale[k] * jnp.sum(weight * jnp.sin(x)) for k, x in found.items())

    return value


def draws():
    for scale, shift in ((1.0, 0.0), (6.0, 0.0), (2.0, 700.0)):
        yield jnp.asarray(scale * RNG.normal(size=(2, 3, 11)) + shift)


@pytest.mark.parametrize("names", KINDS)
def test_values_and_gradients_are_those_of_the_definitions(names):
    pair = [jax.jit(jax.value_and_grad(total(f, names))) for f in (ours, definitions)]
    for logits in draws():
        got, expected = (f(logits) for f in pair)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
            got,
            expected,
        )


def test_gradients_are_slopes():
    logits = next(draws())
    value = jax.jit(total(ours, NAMES))
    slopes = np.asarray(jax.jit(jax.grad(value))(logits))
    for index in itertools.product(range(2), range(3), (0, 3, 5, 10)):
        step = 1e-5 * (jnp.zeros_like(logits).at[index].set(1.0))
        slope = (value(logits + step) - value(logits - step)) / 2e-5
        np.testing.assert_allclose(slopes[index], slope, rtol=1e-7, atol=1e-8)


def test_forward_mode_and_second_derivatives():
    logits = next(draws())
    flat = logits.ravel()

    def both(function):
        def value(x):
            return total(function, NAMES)(x.reshape(logits.shape))

        return jax.jit(jax.jacfwd(value))(flat), jax.jit(jax.hessian(value))(flat)

    for got, expected in zip(both(ours), both(definitions), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-11)


def test_forbidden_tokens_have_no_share_and_no_slope():
    """-inf logits: the numbers and slopes of the vocabulary without those tokens."""
    kept = jnp.asarray([0, 1, 3, 5, 10])
    places = jnp.searchsorted(kept, TARGETS)
    free = jnp.asarray(RNG.normal(size=(2, 3, 5)))
    logits = jnp.full((2, 3, 11), -jnp.inf).at[..., kept].set(free)
    got = jax.jit(jax.value_and_grad(total(ours, NAMES)))(logits)

    def renamed(names, logits, targets, mask):
        return definitions(names, logits, places, mask)

    expected = jax.jit(jax.value_and_grad(total(renamed, NAMES)))(free)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-12)
    slopes = np.asarray(got[1])
    np.testing.assert_allclose(slopes[..., kept], expected[1], rtol=1e-10, atol=1e-13)
    assert (np.delete(slopes, kept, -1) == 0).all()


def test_a_forbidden_target_has_log_prob_minus_infinity_and_a_finite_slope():
    logits = jnp.asarray([[[0.0, -jnp.inf, 1.0]]])
    targets, mask = jnp.ones((1, 1), int), jnp.ones((1, 1), bool)
    value, pull = jax.vjp(lambda z: read(z, targets, mask, ()).logps, logits)
    assert value[0, 0] == -jnp.inf
    p = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    np.testing.assert_allclose(pull(jnp.ones((1, 1)))[0][0, 0], [-p[0], 1, -p[1]])


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_masked_positions_are_zero_and_pass_zero(bad):
    logits = next(draws()).at[1, 1].set(bad)
    targets = TARGETS.at[1, 1].set(-100)
    extras = ("entropy", "lse", "collision", "vocab")

    @jax.jit
    @jax.grad
    def slopes(logits):
        return sum(jnp.sum(jnp.sin(x)) for x in read(logits, targets, MASK, extras))

    grad = slopes(logits)
    assert np.isfinite(grad).all() and (grad[1, 1] == 0).all() and grad[0].any()
    assert all((x[1, 1] == 0).all() for x in read(logits, targets, MASK, extras))


def test_whole_vocabulary_passes_its_gradient():
    """sum_v g_v log p_v has the slope g - p sum(g)."""
    logits = next(draws())
    g = jnp.asarray(RNG.normal(size=logits.shape)) * MASK[..., None]

    def value(logits):
        vocab = read(logits, TARGETS, MASK, ("vocab",)).vocab
        assert vocab is not None
        return jnp.sum(g * vocab)

    p = jax.nn.softmax(logits)
    expected = g - p * g.sum(-1, keepdims=True)
    np.testing.assert_allclose(jax.grad(value)(logits), expected, atol=1e-13)


def test_logits_in_half_precision_give_float32():
    logits = next(draws()).astype(jnp.bfloat16)
    for names in ((), ("entropy", "lse", "collision", "vocab")):
        got = read(logits, TARGETS, MASK, names)
        exact = read(logits.astype(jnp.float64), TARGETS, MASK, names)
        for a, b in zip(got, exact, strict=True):
            if a is not None:
                assert a.dtype == jnp.float32
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda z: jnp.sum(read(z, TARGETS, MASK, ()).logps))(logits)
    assert slope.dtype == jnp.bfloat16


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_digits_at_a_vocabulary_of_152_thousand(shift):
    """float32 sums over many tokens, also of logits that are large themselves."""
    z = np.float32(RNG.normal(size=(1, 4, 152_064)) + shift)
    targets, mask = jnp.zeros((1, 4), int), jnp.ones((1, 4), bool)
    got = jax.jit(lambda z: read(z, targets, mask, ("entropy", "collision")))(z)
    exact = definitions(("entropy", "collision"), z.astype(np.float64), targets, mask)
    for name, value in exact.items():
        np.testing.assert_allclose(getattr(got, name), value, rtol=1e-6)


# One size of everything: hidden states [N T D], a head [D V] and a leaf it never reads.
def linear(params, hidden):
    flat = hidden.reshape(-1, hidden.shape[-1])
    out = jnp.dot(flat, params["kernel"], preferred_element_type=jnp.float32)
    return out.reshape(*hidden.shape[:-1], -1)


def temporary(tokens, vocab, size, chunk, extras=(), rows=1, trained=("kernel",)):
    """Bytes of temporary memory of scoring and its gradient, as XLA compiles it."""
    shape = jax.ShapeDtypeStruct
    columns = tokens // rows
    params = {
        "kernel": shape((size, vocab), jnp.float32),
        "other": shape((size, vocab), jnp.float32),
    }

    def loss(trained, params, hidden, targets, mask):
        head = partial(linear, params | trained)
        scores = scores_of(head, hidden, targets, mask, extras, chunk)
        return sum(jnp.sum(jnp.sin(x)) for x in scores if x is not None)

    kept = {name: params[name] for name in trained}
    arrays = (
        shape((rows, columns, size), jnp.float32),
        shape((rows, columns), jnp.int32),
        shape((rows, columns), jnp.bool_),
    )
    step = jax.jit(jax.grad(loss, argnums=(0, 2))).lower(kept, params, *arrays)
    return step.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("rows", [1, 64])
def test_memory_at_a_vocabulary_of_152_thousand(rows):
    """16k tokens, hidden size 1536: an eighth of that of all logits at once."""
    whole = temporary(16_384, 152_064, 1536, 16_384, rows=rows)
    logits = 16_384 * 152_064 * 4
    assert whole >= 2 * logits  # they and their gradient
    assert temporary(16_384, 152_064, 1536, None, rows=rows) <= whole / 8
    mixed = temporary(16_384, 152_064, 1536, None, ("entropy", "collision"), rows)
    assert mixed <= whole / 6


def test_memory_does_not_grow_with_the_vocabulary(monkeypatch):
    monkeypatch.setattr(head, "LOGITS_BYTES", 2**22)
    few, many = (
        temporary(4096, vocab, 64, None) - vocab * 64 * 4  # the head's gradient
        for vocab in (8192, 65_536)
    )
    assert many <= 1.1 * few


def test_the_loop_carries_only_gradients_that_are_asked_for():
    sizes = 4096, 8192, 512
    chunk, kernel = 64, 8192 * 512 * 4
    frozen = temporary(*sizes, chunk, trained=())
    assert temporary(*sizes, chunk) <= frozen + 1.1 * kernel
    both = temporary(*sizes, chunk, trained=("kernel", "other"))
    assert both <= temporary(*sizes, chunk) + 0.1 * kernel
    states = 4 * 4096 * 512 * 4
    assert frozen <= 2.5 * chunk * 8192 * 4 + states


def test_the_chunk_bounds_the_logits_and_cuts_evenly():
    for rows, columns, vocab in ((1, 16_384, 152_064), (64, 256, 152_064), (8, 999, 5)):
        for size in (2, 4, 8):
            chunk = chunk_columns(rows, columns, 64, vocab, size)
            assert rows * chunk * vocab * size <= head.LOGITS_BYTES
            pieces = -(-columns // chunk)
            assert pieces * chunk - columns < pieces  # less than a column each
    assert chunk_columns(4096, 64, 64, 152_064, 4) == 1
    assert chunk_columns(1, 2**17, 64, 16_384, 4) == head.CHUNK_TOKENS
    assert chunk_columns(1, 2**23, 64, 64, 4) * 64 * 4 == head.CHUNK_BYTES


def test_the_chunk_is_off_where_it_costs_memory():
    """The head's gradient, carried through the loop, against the logits."""
    eight = dict(hidden=4096, vocab=128_256, itemsize=4)
    assert chunk_columns(1, 2048, **eight) == 2048
    assert chunk_columns(1, 3900, **eight) == 3900
    assert chunk_columns(1, 4400, **eight) < 1046
    assert chunk_columns(8, 2048, **eight) < 2048
    # sixteen devices share the rows: as much memory each
    assert chunk_columns(16, 2048, **eight, devices=16) == 2048
    assert chunk_columns(128, 2048, **eight, devices=16) < 2048


def test_the_chunk_is_off_where_the_logits_are_small():
    assert chunk_columns(16, 128, hidden=256, vocab=16_384, itemsize=4) == 128
    assert chunk_columns(64, 256, hidden=1536, vocab=16_384, itemsize=4) == 256
    assert chunk_columns(65, 256, hidden=1536, vocab=16_384, itemsize=4) < 256


def test_the_whole_vocabulary_is_never_cut(monkeypatch):
    monkeypatch.setattr(head, "LOGITS_BYTES", 64)
    ones = partial(linear, {"kernel": jnp.ones((1, 7))})
    hidden = jnp.ones((2, 9, 1))
    assert head.default_chunk(ones, hidden, ("lse",)) == 1
    assert head.default_chunk(ones, hidden, ("lse", "vocab")) == 9


def test_the_chunk_counts_the_devices_of_the_mesh(monkeypatch):
    monkeypatch.setattr(head, "LOGITS_BYTES", 2 * 7 * 4)
    ones, hidden = partial(linear, {"kernel": jnp.ones((1, 7))}), jnp.ones((8, 9, 1))
    assert head.default_chunk(ones, hidden, ()) == 1
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert head.default_chunk(ones, hidden, ()) == 2


def test_extras_in_any_order_are_one_program():
    params, hidden = {"kernel": jnp.ones((1, 7))}, jnp.ones((1, 4, 1))
    targets, mask = jnp.zeros((1, 4), int), jnp.ones((1, 4), bool)

    def text(extras):
        def f(params, hidden) -> Scores:
            return scores_of(partial(linear, params), hidden, targets, mask, extras)

        return jax.jit(f).lower(params, hidden).as_text()

    orders = itertools.permutations(("entropy", "lse", "collision"))
    assert len({text(order) for order in orders}) == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_a_head_in_half_precision_has_no_product_in_float32(axis):
    """bfloat16 states, float32 table: the gradient of the table stays float32."""
    x = jnp.asarray(RNG.normal(size=(6, 16)), jnp.bfloat16)
    shape = (16, 40) if axis == 0 else (40, 16)
    table = jnp.asarray(RNG.normal(size=shape), jnp.bfloat16).astype(jnp.float32)
    weight = jnp.asarray(RNG.normal(size=(6, 40)), jnp.float32)

    def loss(x, table):
        return jnp.sum(weight * jnp.sin(read_out(x, table, axis)))

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    products = [x for x in step.lower(x, table).as_text().split("\n") if "dot_" in x]
    assert len(products) == 3
    assert all(": (tensor" in line and line.count("bf16>") >= 2 for line in products)
    value, (state, slope) = step(x, table)
    exact, (wide_state, wide_slope) = step(x.astype(jnp.float32), table)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    assert state.dtype == jnp.bfloat16 and slope.dtype == jnp.float32
    for got, want in ((state.astype(jnp.float32), wide_state), (slope, wide_slope)):
        np.testing.assert_allclose(got, want, atol=0.01 * float(jnp.abs(want).max()))
    # not rounded to half precision on its way
    assert (slope != slope.astype(jnp.bfloat16)).mean() > 0.5


def test_rows_on_several_devices_stay_there():
    """Chunks of columns: nothing but the head's gradient is exchanged."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = (
        jax.sharding.NamedSharding(mesh, jax.P(*axes)) for axes in (("data",), ())
    )
    kinds = ((16, 12, 32), jnp.float32), ((16, 12), jnp.int32), ((16, 12), jnp.bool_)
    arrays = [jax.ShapeDtypeStruct(*kind, sharding=split) for kind in kinds]
    kernel = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=whole)

    def loss(kernel, hidden, targets, mask):
        ones = partial(linear, {"kernel": kernel})
        return jnp.sum(scores_of(ones, hidden, targets, mask, (), 4).logps)

    step = jax.jit(jax.grad(loss, argnums=(0, 1)), out_shardings=(whole, split))
    text = step.lower(kernel, *arrays).compile().as_text()
    exchanged = [x for x in text.split("\n") if " all-" in x or " collective-" in x]
    assert len(exchanged) == 1 and "f32[64,32]" in exchanged[0].replace(
        "32,64", "64,32"
    )
