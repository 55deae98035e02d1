"""Packed rows: the same streams and gradients as padded ones, and what they hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unipost import presets
from unipost.batch import Batch, Streams
from unipost.head import EXTRAS
from unipost.model import (
    ModelConfig,
    function_policy,
    init_params,
    transformer_policy,
)
from unipost.packed import Packed, pack_pieces, pack_rows, score_packed
from unipost.scoring import score

CONFIG = ModelConfig(
    vocab_size=13,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    head_dim=4,
    max_position_embeddings=64,
)
POLICY = transformer_policy(CONFIG)
PARAMS = jax.tree.map(lambda x: 4 * x.astype(jnp.float64), init_params(CONFIG, 0))
LENGTH = 16


def texts(seed, rows=10, prompt=5, response=7):
    """Left-padded prompts and right-padded responses, garbage under the masks."""
    rng = np.random.default_rng(seed)
    x_mask = np.arange(prompt) >= rng.integers(0, prompt, (rows, 1))
    y_mask = np.arange(response) < rng.integers(0, response + 1, (rows, 1))
    y_mask[0], y_mask[1] = True, False
    x, y = rng.integers(0, 13, (rows, prompt)), rng.integers(0, 13, (rows, response))
    return x, x_mask, np.where(y_mask, y, -100), y_mask


def padded(params, data, extras=EXTRAS):
    return score(POLICY, params, *map(jnp.asarray, data), extras=extras)


def packed(params, data, extras=EXTRAS, chunk=None, **options):
    layout = pack_rows(*data, LENGTH, **options)
    shape = data[2].shape
    return score_packed(POLICY, params, layout, shape, extras=extras, chunk=chunk)


def slopes(function):
    """Scores, and the gradient of a sum in which every number has its own weight."""

    def total(params):
        scores = function(params)
        parts = [jnp.sin((k + 1) * x) for k, x in enumerate(scores)]
        return sum(
            jnp.sum(x * (1 + jnp.arange(x.size).reshape(x.shape))) for x in parts
        )

    return jax.jit(lambda params: (function(params), jax.grad(total)(params)))


def same(got, expected, tolerance):
    def close(a, b):
        scale = max(1.0, float(jnp.abs(b).max()))
        np.testing.assert_allclose(a / scale, b / scale, rtol=0, atol=tolerance)

    jax.tree.map(close, got, expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(blocks=2),
        dict(blocks=2, rows=6),
        dict(chunk=5),
    ],
)
def test_packed_rows_score_like_padded_ones(options):
    data = texts(0)
    got = slopes(lambda params: packed(params, data, **options))(PARAMS)
    expected = slopes(lambda params: padded(params, data))(PARAMS)
    same(got, expected, 1e-12)


def test_packed_rows_score_like_padded_ones_in_float32():
    data = texts(1)
    # as drawn: four times that makes the model itself four digits worse
    params = init_params(CONFIG, 0)
    got = slopes(lambda params: packed(params, data))(params)
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype("float32")}
    same(got, slopes(lambda params: padded(params, data))(params), 1e-5)


def test_an_objective_sees_no_difference():
    data = texts(2)
    mask = jnp.asarray(data[3]).reshape(5, 2, -1)
    reference = padded(jax.tree.map(lambda x: 0.9 * x, PARAMS), data, ()).logps
    batch = Batch(mask=mask, reference=reference.reshape(mask.shape))
    objective = presets.dpo()
    prepared = objective.prepare(batch)

    def step(scored):
        def loss(params):
            logps = scored(params, data, ()).logps
            return objective.loss(Streams(logps.reshape(mask.shape)), prepared)[0]

        return jax.jit(jax.value_and_grad(loss))(PARAMS)

    same(step(packed), step(padded), 1e-12)


def test_the_order_of_the_texts_does_not_matter():
    data = texts(3)
    order = np.random.default_rng(0).permutation(len(data[0]))
    turned = [x[order] for x in data]
    expected = packed(PARAMS, data, ())
    got = packed(PARAMS, turned, ())
    np.testing.assert_allclose(got.logps, expected.logps[order], atol=1e-13)


def held(layout: Packed, columns: int):
    """{n T + t: (text up to and with the scored token)}, read off a layout."""
    found = {}
    blocks, length = len(layout.slots), layout.tokens.shape[1]
    tokens = layout.tokens.reshape(blocks, -1)
    segments = layout.segments.reshape(blocks, -1)
    for block in range(blocks):
        for slot, target, place in zip(*(x[block] for x in layout[2:]), strict=True):
            if place >= columns:
                continue
            row = slice(slot - slot % length, slot + 1)
            own = segments[block, row] == segments[block, slot]
            assert segments[block, slot] > 0 and place not in found
            found[place] = [*tokens[block, row][own], target]
    return found


@pytest.mark.parametrize("blocks", [1, 2])
def test_every_scored_token_stands_after_its_own_text(blocks):
    x, x_mask, y, y_mask = data = texts(4, rows=30)
    found = held(pack_rows(*data, LENGTH, blocks=blocks), y.size)
    expected = {}
    for n in range(len(x)):
        for t in np.flatnonzero(y_mask[n]):
            before = [*x[n][x_mask[n]], *y[n][: t + 1]]
            expected[n * y.shape[1] + t] = before
    assert found == expected


def test_texts_are_contiguous_and_rows_are_full():
    data = texts(5, rows=200)
    layout = pack_rows(*data, LENGTH)
    slots = sum(
        data[1][n].sum() + max(0, k - 1) for n, k in enumerate(data[3].sum(1)) if k
    )
    assert (layout.segments > 0).sum() == slots
    for row in layout.segments:
        used = row[row > 0]
        assert (row[: len(used)] > 0).all()
        assert (np.diff(used) >= 0).all() and (np.diff(used) <= 1).all()
    # best fit decreasing: at most the rounding and a few slots are lost
    assert len(layout.segments) <= -(-slots // LENGTH) + 4 + slots // (8 * LENGTH)


def test_few_shapes_occur():
    shapes = set()
    for seed in range(12):
        layout = pack_rows(*texts(seed, rows=64), LENGTH, multiple=8)
        assert layout.tokens.shape[0] % 8 == 0
        assert layout.slots.size % (layout.tokens.size // 8) == 0
        shapes.add(tuple(x.shape for x in layout))
    assert len(shapes) <= 4
    wide = pack_rows(*texts(0), LENGTH, multiple=4, blocks=3)
    assert wide.tokens.shape[0] == 12 and wide.slots.shape[0] == 3


def test_a_batch_without_responses_scores_nothing():
    x, x_mask, y, y_mask = texts(6)
    got = packed(PARAMS, (x, x_mask, y, 0 * y_mask), ())
    assert got.logps.shape == y.shape and (got.logps == 0).all()


def test_parts_are_packed_alike():
    data = texts(7, rows=12)
    layout = pack_pieces(*data, LENGTH, 3)
    assert {len(x) for x in layout} == {3}
    params = PARAMS
    for part in range(3):
        rows = slice(4 * part, 4 * part + 4)
        one = Packed(*(x[part] for x in layout))
        got = score_packed(POLICY, params, one, (4, 7)).logps
        expected = padded(params, [x[rows] for x in data], ()).logps
        np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(length=9), r"length: 9; text 0 needs 1\d slots"),
        (dict(rows=1), "rows: 1; the texts need [2-9] rows of 16 slots"),
        (dict(rows=5, blocks=2), r"rows: 5; write a positive multiple of blocks \(2\)"),
        (dict(prompt_mask=np.zeros((10, 5), bool)), "text 0 has a response and no"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(change, words):
    names = "prompt", "prompt_mask", "response", "response_mask"
    data = dict(zip(names, texts(8), strict=True))
    data["prompt_mask"][0] = True
    arguments = data | {"length": LENGTH} | change
    with pytest.raises(ValueError, match=f"^pack_rows.*{words}") as error:
        pack_rows(**arguments)
    assert "\n" not in str(error.value)


def test_other_refusals():
    data = texts(9)
    with pytest.raises(ValueError, match="pieces: 3 does not divide 10 texts"):
        pack_pieces(*data, LENGTH, 3)
    with pytest.raises(ValueError, match="^score_packed: extras .*entropi"):
        packed(PARAMS, data, ("entropi",))
    with pytest.raises(ValueError, match="^score_packed: chunk is 0"):
        packed(PARAMS, data, (), chunk=0)
    plain = function_policy(POLICY.logits)
    layout = pack_rows(*data, LENGTH)
    with pytest.raises(ValueError, match="packed rows need a model that knows texts"):
        score_packed(plain, PARAMS, layout, data[2].shape)
