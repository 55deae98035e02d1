"""Hidden states of every layer, PCA shift in both forms, and linear CKA."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from unipost.analysis import latent_shift, layer_features, linear_cka
from unipost.analysis.latent import principal
from unipost.model import (
    ModelConfig,
    function_policy,
    init_params,
    transformer_policy,
)
from unipost.model.layers import rms_norm

PCA = json.loads((Path(__file__).parent / "fixtures/analysis/pca.json").read_text())
BASE, TUNED = np.array(PCA["base"]), np.array(PCA["tuned"])
CONFIG = ModelConfig(
    vocab_size=11,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
)
POLICY, PARAMS = transformer_policy(CONFIG), init_params(CONFIG, 0)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 11, (5, 6))
MASK = np.arange(6) >= np.array([0, 1, 3, 5, 2])[:, None]


def states(tokens, mask):
    """The stream itself at every layer."""
    return np.asarray(
        jax.jit(POLICY.states, static_argnums=3)(PARAMS, tokens, mask, id_)
    )


def id_(x):
    return x


def test_layers_are_those_of_shorter_models():
    """Layer l, normed, is the end of a model with l layers; layer 0 is the table."""
    found = states(TOKENS, MASK)
    assert found.shape == (4, 5, 6, 16)
    table = np.asarray(PARAMS["embedding"])[TOKENS]
    np.testing.assert_allclose(found[0][MASK], table[MASK], rtol=1e-6)
    for depth in (1, 2, 3):
        config = replace(CONFIG, num_hidden_layers=depth)
        cut = jax.tree.map(lambda x, d=depth: x[:d], PARAMS["blocks"])
        policy = transformer_policy(config)
        end = jax.jit(policy.hidden)(PARAMS | {"blocks": cut}, TOKENS, MASK)
        mine = found[depth]
        if depth < 3:
            mine = rms_norm(PARAMS["norm"], mine, CONFIG)
        np.testing.assert_allclose(
            np.asarray(mine)[MASK], np.asarray(end)[MASK], rtol=1e-4, atol=1e-5
        )


def test_features_are_means_over_tokens():
    """Real tokens only, or every column as the paper's code has it; any block."""
    whole = states(TOKENS, MASK)
    found = layer_features(POLICY, PARAMS, TOKENS, MASK, block=2)
    kept = np.where(MASK[..., None], whole, 0).sum(2) / MASK.sum(1)[:, None]
    np.testing.assert_allclose(found, kept, rtol=1e-5, atol=1e-6)
    found = layer_features(POLICY, PARAMS, TOKENS, MASK, "columns")
    np.testing.assert_allclose(found, whole.mean(2), rtol=1e-5, atol=1e-6)


def test_features_do_not_depend_on_padding():
    """A text by itself has the features that it has among longer ones."""
    whole = layer_features(POLICY, PARAMS, TOKENS, MASK)
    own = TOKENS[2][MASK[2]][None]
    alone = layer_features(POLICY, PARAMS, own, own >= 0)
    np.testing.assert_allclose(alone[:, 0], whole[:, 2], rtol=1e-4, atol=1e-5)


def test_directions_are_those_of_scikit_learn():
    """Components with their signs, and the deviation along the first."""
    for x, components, deviation in zip(
        BASE, PCA["components"], PCA["deviation"], strict=True
    ):
        directions, spread = principal(x)
        np.testing.assert_allclose(directions, components, rtol=1e-9, atol=1e-12)
        assert spread == pytest.approx(deviation, rel=1e-12)


def test_both_forms_from_the_components_of_scikit_learn():
    """The paper's d averages signed shifts, the robust one their scaled lengths."""
    components = np.array(PCA["components"])
    moved = np.stack(
        [(t - b).mean(0) @ c.T for b, t, c in zip(BASE, TUNED, components, strict=True)]
    )
    paper = latent_shift(BASE, TUNED, "paper_code")
    assert paper.distance.mean == pytest.approx(np.linalg.norm(moved.mean(0)))
    np.testing.assert_allclose(paper.layers, moved, rtol=1e-9)
    scaled = moved / np.array(PCA["deviation"])[:, None]
    robust = latent_shift(BASE, TUNED)
    lengths = np.linalg.norm(scaled, axis=1)
    assert robust.distance.mean == pytest.approx(lengths.mean())
    # points of the figure: PC1 from the base's, PC2 as it is
    np.testing.assert_allclose(paper.base[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(paper.tuned - paper.base, moved, rtol=1e-9, atol=1e-12)
    second = [b.mean(0) @ c[1] for b, c in zip(BASE, components, strict=True)]
    np.testing.assert_allclose(paper.base[:, 1], second, rtol=1e-9)
    for found in (paper, robust):
        assert found.distance.low < found.distance.mean < found.distance.high


def test_layers_that_move_apart_cancel_in_the_papers_form_only():
    """Shifts of +1 and -1 along PC1: the signed mean is 0, the robust one is not."""
    x = BASE[0]
    direction, spread = principal(x)
    base, tuned = np.stack([x, x]), np.stack([x + direction[0], x - direction[0]])
    assert latent_shift(base, tuned, "paper_code").distance.mean < 1e-12
    found = latent_shift(base, tuned)
    assert found.distance.mean == pytest.approx(1 / spread)
    wide = latent_shift(1000 * base, 1000 * tuned)
    assert wide.distance.mean == pytest.approx(1 / spread)


def test_a_layer_that_does_not_vary_has_no_scale():
    """It adds no shift to the paper's form and is left out of the robust one."""
    flat = np.ones((1, 6, 5))
    base, tuned = (
        np.concatenate([BASE[:1], flat]),
        np.concatenate([TUNED[:1], flat + 1]),
    )
    alone = latent_shift(BASE[:1], TUNED[:1])
    assert latent_shift(base, tuned).distance.mean == alone.distance.mean
    paper = latent_shift(base, tuned, "paper_code").distance.mean
    one = latent_shift(BASE[:1], TUNED[:1], "paper_code").distance.mean
    assert paper == pytest.approx(one / 2)
    assert np.isnan(latent_shift(base, tuned).cka[1])


def test_cka_of_turned_features_is_one():
    """Turned, scaled and moved features are alike; independent ones are not."""
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    assert linear_cka(BASE[0], 7 * BASE[0] @ turn + 3) == pytest.approx(1.0)
    x, y = RNG.normal(size=(400, 5)), RNG.normal(size=(400, 3))
    assert linear_cka(x, y) < 0.05
    # the form with features, not Gram matrices
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    by_features = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
    assert linear_cka(x, y) == pytest.approx(by_features)


def test_refused():
    """A policy without layers, empty texts, features that do not fit."""
    plain = function_policy(POLICY.logits)
    with pytest.raises(ValueError, match="shows no layers"):
        layer_features(plain, PARAMS, TOKENS, MASK)
    with pytest.raises(ValueError, match="a text has no token"):
        layer_features(POLICY, PARAMS, TOKENS, MASK & (np.arange(5) > 0)[:, None])
    with pytest.raises(ValueError, match="3 or more texts"):
        latent_shift(BASE[:, :2], TUNED[:, :2])
    with pytest.raises(ValueError, match="the same for all texts"):
        latent_shift(np.ones((2, 4, 3)), np.ones((2, 4, 3)))
    with pytest.raises(ValueError, match="400 and 3 texts"):
        linear_cka(np.ones((400, 2)), np.ones((3, 2)))
