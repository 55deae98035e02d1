"""Token shift, token KL, weights and predictors against enumeration and numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny_models import MEAN, TRANSFORMER, forward, rows_and_batch

from unipost.analysis import (
    by_position,
    compare,
    paper_kl,
    per_response,
    predictor_table,
    predictors,
    rank_shift,
    shifted_tokens,
    token_kl,
    unchanged,
    weight_distance,
)
from unipost.analysis.predictors import left_out_r2
from unipost.model import function_policy
from unipost.update import Rows

ROWS = rows_and_batch("grpo")[0]
BASE, TUNED = TRANSFORMER.reference, TRANSFORMER.params
FOUND = compare(TRANSFORMER.policy, BASE, TUNED, ROWS, block=3)
PAIRS = ("base", BASE), ("tuned", TUNED)


@pytest.fixture(scope="module")
def by_hand():
    """Log-probs [P G T V] of both models, as the scoring of the library gives them."""
    streams = {n: forward(p, ROWS, TRANSFORMER.policy) for n, p in PAIRS}
    return {name: np.asarray(found.vocab) for name, found in streams.items()}


def kept(values):
    """The numbers at real tokens."""
    return np.asarray(values)[np.asarray(ROWS.response_mask)]


def test_every_token_by_enumeration(by_hand):
    """KL both ways, total variation, entropies, ranks and log-probs, token by token."""
    q, p = (np.exp(by_hand[name]) for name in ("base", "tuned"))
    log = by_hand["tuned"] - by_hand["base"]
    expected = {
        "reverse": (p * log).sum(-1),
        "forward": -(q * log).sum(-1),
        "variation": 0.5 * np.abs(p - q).sum(-1),
    }
    for name, values in expected.items():
        got = kept(getattr(FOUND, name))
        np.testing.assert_allclose(got, kept(values), rtol=1e-9, atol=1e-12)
    tokens = np.asarray(ROWS.response)[..., None]
    for name, _ in PAIRS:
        logp, side = by_hand[name], getattr(FOUND, name)
        own = np.take_along_axis(logp, tokens, -1)
        np.testing.assert_allclose(kept(side.logp), kept(own[..., 0]), rtol=1e-9)
        entropy = -(np.exp(logp) * logp).sum(-1)
        np.testing.assert_allclose(kept(side.entropy), kept(entropy), rtol=1e-9)
        order = (-logp).argsort(-1, kind="stable").argsort(-1)
        rank = 1 + np.take_along_axis(order, tokens, -1)[..., 0]
        assert (kept(side.rank) == kept(rank)).all()


def test_masked_tokens_hold_nothing():
    """Whatever stands behind the mask, every number there is 0."""
    mask = np.asarray(ROWS.response_mask)
    assert (FOUND.mask == mask).all() and not mask.all()
    for values in jax.tree.leaves(FOUND._replace(mask=np.zeros(1))):
        assert not np.asarray(values)[..., ~mask].any() if values.ndim == 3 else True


def test_the_value_is_the_normaliser_of_the_logits():
    """V = logsumexp of the logits, as the scoring of the library has it."""
    for side, params in ((FOUND.base, BASE), (FOUND.tuned, TUNED)):
        lse = forward(params, ROWS, TRANSFORMER.policy).lse
        np.testing.assert_allclose(kept(side.value), kept(lse), rtol=1e-10)


def test_the_same_model_has_not_moved():
    """Every distance of a model from itself is 0."""
    same = compare(TRANSFORMER.policy, TUNED, TUNED, ROWS)
    for values in (same.reverse, same.forward, same.variation, same.activation):
        assert np.abs(values).max() < 1e-12
    assert rank_shift(same)[:3] == (0.0, 0.0, 0.0)
    assert shifted_tokens(ROWS.response, same) == []
    assert weight_distance(TUNED, TUNED) == (0, 0, 0, 0, 1)


def test_block_size_changes_nothing():
    """Rows go through the models in blocks; the last one is filled up and cut."""
    whole = compare(TRANSFORMER.policy, BASE, TUNED, ROWS, block=100)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(FOUND), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_rank_shift_by_hand():
    """Ranks set by hand: shifts 3, 0, 0, -1 over four tokens of two rows."""
    mask = np.array([[[True, True]], [[True, True]]])
    base = FOUND.base._replace(rank=np.array([[[4, 1]], [[2, 1]]]))
    tuned = FOUND.tuned._replace(rank=np.array([[[1, 1]], [[2, 2]]]))
    made = FOUND._replace(mask=mask, base=base, tuned=tuned)
    found = rank_shift(made)
    assert found == (0.5, 0.0, 0.5, 0.25, 4)
    assert by_position(made).tolist() == [1.5, -0.5]
    tokens = np.array([[[7, 5]], [[5, 5]]])
    assert shifted_tokens(tokens, made) == [(7, 1, 3.0, 3.0), (5, 1, -1.0, -1.0)]
    assert shifted_tokens(tokens, made, most=1) == [(7, 1, 3.0, 3.0)]


def test_sampled_kl_agrees_with_the_exact_one():
    """Tokens drawn from the tuned model: k1 and k3 are KL(p || q), k2 is near it."""
    rng = np.random.default_rng(0)
    prompt = jnp.ones((1, 1, 3), int)
    one = jnp.ones((1, 1, 1), bool)
    state = Rows(prompt, prompt > 0, jnp.zeros((1, 1, 1), int), one)
    p = np.exp(np.asarray(forward(TUNED, state, TRANSFORMER.policy).vocab)[0, 0, 0])
    drawn = rng.choice(11, 40_000, p=p / p.sum())
    tokens, counts = np.unique(drawn, return_counts=True)
    many = [
        compare(
            TRANSFORMER.policy,
            BASE,
            TUNED,
            Rows(prompt, prompt > 0, jnp.full((1, 1, 1), t), one),
        )
        for t in tokens
    ]
    all_ = jax.tree.map(lambda *x: np.concatenate(x).repeat(counts, 0), *many)
    found = token_kl(all_)
    error = 5 * all_.log_ratio.std() / np.sqrt(len(drawn))
    assert found.k1 == pytest.approx(found.reverse, abs=error)
    assert found.k3 == pytest.approx(found.reverse, abs=error)
    assert found.reverse > 10 * error


def test_the_papers_kl_weighs_responses_alike_and_hides_a_sign():
    """Two rows: ratios (9, 1) and (9, -2, -4): |mean(1, -3)|, first tokens out."""
    mask = np.array([[[True, True, False]], [[True, True, True]]])
    tuned = np.array([[[9.0, -1.0, 0.0]], [[9.0, -4.0, -6.0]]]) - 10.0
    base = np.array([[[0.0, -2.0, 0.0]], [[0.0, -2.0, -2.0]]]) - 10.0
    sides = (x._replace(logp=v) for x, v in zip(FOUND[1:3], (base, tuned), strict=True))
    names = zip(("base", "tuned"), sides, strict=True)
    made = FOUND._replace(mask=mask, reverse=mask, forward=mask, **dict(names))
    exact = paper_kl(made)

    def ratio(a, b):
        return np.log(np.exp(a) + 1e-10) - np.log(np.exp(b) + 1e-10)

    rows = ratio(-11.0, -12.0), np.mean([ratio(-14.0, -12.0), ratio(-16.0, -12.0)])
    assert exact == pytest.approx(abs(np.mean(rows)), rel=1e-12)
    assert exact == pytest.approx(1.0, abs=0.01)
    assert np.isnan(paper_kl(made, skip=3))
    assert token_kl(made).k1 == pytest.approx((9 + 1 + 9 - 2 - 4) / 5)


def test_kl_of_responses_is_the_sum_over_tokens():
    """The mean over prompts of what `state_distances` calls reverse and forward."""
    from unipost.distances import state_distances

    there = state_distances(TRANSFORMER.policy, TUNED, BASE, ROWS)
    for mine, theirs in (
        (FOUND.reverse, there.reverse),
        (FOUND.forward, there.forward),
    ):
        found = per_response(FOUND, mine)
        assert found.mean == pytest.approx(float(theirs.mean()), rel=1e-9)
        assert found.low < found.mean < found.high


def test_models_of_another_architecture_are_compared():
    """A base with its own functions: KL is the same, hidden states have no distance."""
    plain = function_policy(TRANSFORMER.policy.logits)
    found = compare(TRANSFORMER.policy, BASE, TUNED, ROWS, base_policy=plain)
    np.testing.assert_allclose(found.reverse, FOUND.reverse, rtol=1e-9, atol=1e-12)
    assert np.isnan(found.activation[found.mask]).all()


def test_refused():
    """No response, and vocabularies of two sizes."""
    empty = ROWS._replace(response_mask=ROWS.response_mask & False)
    with pytest.raises(ValueError, match="no response token"):
        compare(TRANSFORMER.policy, BASE, TUNED, empty)
    wide = function_policy(lambda p, t, m: jnp.zeros((*t.shape, 12)))
    with pytest.raises(ValueError, match="vocabulary has 11 entries, the base's 12"):
        compare(TRANSFORMER.policy, BASE, TUNED, ROWS, base_policy=wide)


# weights


def test_norms_by_hand():
    """A stack of two diagonal matrices and a bias: every norm is known."""
    base = {"blocks": {"kernel": np.zeros((2, 2, 2)), "bias": np.ones((2, 2))}}
    kernel = np.stack([np.diag([3.0, 0.0]), np.diag([0.0, -4.0])])
    tuned = {"blocks": {"kernel": kernel, "bias": np.ones((2, 2)) * [1.0, 13.0]}}
    found = weight_distance(base, tuned)
    assert found.l1 == 3 + 4 + 12 + 12
    assert found.l2 == pytest.approx(np.sqrt(9 + 16 + 144 + 144))
    assert found.relative == pytest.approx(found.l2 / 2)
    assert found.spectral == pytest.approx(4.0)
    assert found.unchanged == (6 + 2) / 12


def test_large_matrices_by_lanczos():
    """Above 512 the largest singular value is that of the whole decomposition."""
    rng = np.random.default_rng(0)
    base, step = rng.normal(size=(2, 600, 520))
    found = weight_distance({"w": base}, {"w": base + step})
    assert found.spectral == pytest.approx(
        np.linalg.svd(step, compute_uv=False)[0], rel=1e-8
    )


def test_unchanged_compares_in_the_narrower_dtype():
    """A bfloat16 copy of float32 weights has not moved; one in a thousand more has."""
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    narrow = jnp.asarray(x, jnp.bfloat16)
    assert unchanged({"w": x}, {"w": narrow}) == 1.0
    assert unchanged({"w": x}, {"w": x * np.float32(1.001)}) == 0.0
    swallowed = unchanged({"w": narrow}, {"w": x * np.float32(1.001)})
    assert 0.5 < swallowed < 0.9


def test_models_that_do_not_fit_are_named():
    """An array too many, and one of another shape."""
    one = {"w": np.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"\['v'\] is in one of the models only"):
        weight_distance(one, one | {"v": np.zeros(2)})
    with pytest.raises(ValueError, match=r"\['w'\] is \(2, 3\) in the base and \(3, 2"):
        weight_distance(one, {"w": np.zeros((3, 2))})


# predictors


def test_predictors_are_the_distances_they_name():
    """Each number from the arrays it is made of."""
    found = predictors(TRANSFORMER.policy, BASE, TUNED, ROWS, ROWS)
    assert found.forward_kl == pytest.approx(FOUND.forward.sum(-1).mean(), rel=1e-9)
    assert found.reverse_kl == pytest.approx(FOUND.reverse.sum(-1).mean(), rel=1e-9)
    assert found.variation == pytest.approx(kept(FOUND.variation).mean(), rel=1e-9)
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(p)]) for _, p in PAIRS]
    assert found.l1 == pytest.approx(np.abs(flat[1] - flat[0]).sum(), rel=1e-9)
    assert found.l2 == pytest.approx(np.linalg.norm(flat[1] - flat[0]), rel=1e-9)


def test_table_of_predictors_against_numpy_and_scipy():
    """A quadratic predictor, a noisy one and one of no use, in that order."""
    rng = np.random.default_rng(1)
    x = np.linspace(0, 2, 24)
    y = 3 * x**2 - x + 0.01 * rng.normal(size=24)
    noisy, none = x + 0.4 * rng.normal(size=24), rng.normal(size=24)
    groups = np.repeat(["a", "b", "c"], 8)
    given = {"none": none, "kl": 1e-6 * x, "noisy": noisy}
    table = predictor_table(given, y, groups, n_boot=200)
    assert list(table) == ["kl", "noisy", "none"]
    for name, values in {"kl": x, "noisy": noisy, "none": none}.items():
        fit = np.polyval(np.polyfit(values, y, 2), values)
        r2 = 1 - ((y - fit) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        found = table[name]
        assert found.r2.mean == pytest.approx(r2, abs=1e-9)
        assert found.r2.low <= found.r2.mean <= found.r2.high + 0.1
        rank = stats.spearmanr(values, y).statistic
        assert found.spearman.mean == pytest.approx(rank, abs=1e-12)
        guess = np.empty(24)
        for g in "abc":
            fit = np.polyfit(values[groups != g], y[groups != g], 2)
            guess[groups == g] = np.polyval(fit, values[groups == g])
        r2 = 1 - ((y - guess) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        assert found.left_out == pytest.approx(r2, rel=1e-6)
    assert table["kl"].r2.low > 0.99 and table["none"].left_out < 0.2
    assert np.isnan(left_out_r2(x, y, ["one"] * 24))


def test_table_refuses_what_does_not_fit():
    """A length too few, and a number that is none."""
    with pytest.raises(ValueError, match=r"kl is \(3,\) for 4 groups"):
        predictor_table({"kl": [1, 2, 3]}, [1, 2, 3, 4], "abab")
    with pytest.raises(ValueError, match="kl has values that are not finite"):
        predictor_table({"kl": [1, 2, 3, np.inf]}, [1, 2, 3, 4], "abab")


def test_policies_without_a_transformer():
    """A function of one's own is compared as any other; its states are its logits."""
    found = compare(MEAN.policy, MEAN.reference, MEAN.params, ROWS)
    assert found.reverse[found.mask].min() > 0
    text = ROWS.prompt[0], ROWS.prompt_mask[0]
    ends = [MEAN.policy.logits(p, *text)[:, -1] for p in (MEAN.reference, MEAN.params)]
    gap = np.linalg.norm(np.asarray(ends[1] - ends[0]), axis=-1)
    first = np.asarray(ROWS.response_mask[0, :, 0])
    np.testing.assert_allclose(found.activation[0, first, 0], gap[first], rtol=1e-9)
