"""What `explain` prints is what the code does: formulas and coefficients."""

import ast
import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_coefficients import CLOSED, OVER_VOCABULARY, closed_coefficient
from matplotlib.mathtext import MathTextParser
from preset_examples import EXAMPLES, streams_and_batch
from scipy.special import wrightomega

import unipost
from unipost import Objective, Penalty, presets
from unipost.classical import ForwardKL, PearsonChi2, ReverseKL
from unipost.explain import explain, gradient_coefficient, latex
from unipost.explain.divergences import Shape, of_divergence
from unipost.explain.expression import formula, text
from unipost.explain.links import MARGIN, PAIR, POINTWISE, of_link
from unipost.explain.parts import penalty_coefficient, penalty_value
from unipost.links import LINKS, Clipped, Link
from unipost.pair_links import PAIR_LINKS, MarginLink
from unipost.parametric import SkewJensenShannon
from unipost.penalties import Gradient
from unipost.signals import Signal


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


FUNCTIONS = {
    **{name: getattr(np, name) for name in ("log", "exp", "sqrt", "sign", "clip")},
    "abs": np.abs,
    "min": min,
    "max": max,
    "sigmoid": sigmoid,
    "omega": lambda z: float(np.real(wrightomega(z))),
    "indicator": float,
    "sg": lambda x: x,
    "inf": np.inf,
}


def value(expression, **names):
    """The number of an expression."""
    return eval(ast.unparse(expression), FUNCTIONS | names)


def read(words):
    """Printed text as a Python expression: `0.1 (1 - u^-2)/2u` and the like."""
    words = re.sub(r"\|([^|]*)\|", r"abs(\1)", words.replace("^", "**"))
    words = re.sub(r"\be\*\*", "E**", words)
    words = re.sub(r"1\{([^}]*)\}", r"float(\1)", words)
    words = re.sub(r"log (sigmoid\([^()]*\)|\w+)", r"log(\1)", words)
    words = re.sub(r"(?<![\w.])(\d+)(?=[a-zA-Z])", r"\1*", words)
    words = re.sub(
        r"\(?([^()]+|.*) for (.*), else ([^()]+)\)?", r"(\1 if \2 else \3)", words
    )
    return re.sub(r"(?<=[\w)]) (?=[\w(])(?!if |else )(?<!if )(?<!else )", "*", words)


ARGUMENTS = {
    "alpha": (0.3,),
    "hockey_stick": (1.5,),
    "unit_curvature": (PearsonChi2(),),
}
ARGUMENTS["adjoint"] = (SkewJensenShannon(0.3),)


def code(divergence, what, x):
    """What a formula of a divergence describes, computed by the divergence."""
    d = jnp.log(x) if not what.startswith("phi") else jnp.asarray(x)
    functions = {
        "f": divergence.f,
        "slope": divergence.f_prime,
        "curve": jax.grad(divergence.f_prime),
        "k2": divergence.k2,
        "k3": divergence.k3,
        "k3_slope": jax.grad(divergence.k3),
        "phi": divergence.phi,
        "phi_slope": jax.grad(divergence.phi),
    }
    return float(functions[what](d))


@pytest.mark.parametrize("name", sorted(unipost.DIVERGENCES))
def test_formulas_of_a_divergence_are_its_methods(name):
    """Expression and printed text, evaluated, against f, f', K, f/u, phi and slopes."""
    divergence = unipost.DIVERGENCES[name](*ARGUMENTS.get(name, ()))
    missing = []
    for what in Shape._fields:
        expression = of_divergence(divergence, what)
        if type(divergence).__name__ in text(expression):
            missing.append(what)
            continue
        symbol = "r" if what.startswith("phi") else "u"
        points = (-0.3, 0.2, 0.4) if symbol == "r" else (0.3, 0.7, 0.9, 1.7)
        for x in points if name != "log_odds" else points[:3]:
            want = pytest.approx(code(divergence, what, x), rel=1e-9, abs=1e-12)
            assert value(expression, **{symbol: x}) == want, what
            printed = read(text(expression))
            assert eval(printed, FUNCTIONS | {symbol: x, "E": np.e}) == want, printed
    uncentred = name in ("shaping", "log_odds")
    known = ["k2", "phi", "phi_slope", *(["k3", "k3_slope"] if uncentred else [])]
    assert set(missing) <= set(known), missing


def test_a_divergence_of_ones_own_has_its_name():
    @unipost.part
    class LeCam(unipost.Divergence):
        """sum (p - q)^2 / (p + q). And more."""

        def f(self, log_u):
            return jnp.expm1(log_u) * jnp.tanh(log_u / 2)

        def f_prime(self, log_u):
            return jnp.tanh(log_u / 2) * (1 + 2 * jax.nn.sigmoid(-log_u))

    assert text(of_divergence(LeCam(), "slope")) == "f'_LeCam(u)"
    words = explain(presets.f_sft(LeCam(), 0.3))
    assert "-phi_LeCam(r)" in words and "0.3 phi'_LeCam(r)" in words
    penalised = replace(presets.grpo(), penalty=Penalty(0.2, LeCam(), "k2"))
    assert "0.2 K_LeCam(log v)" in explain(penalised)
    assert "-0.2 f'_LeCam(v)" in explain(penalised)


SETTINGS = {"self_play": (0.7,), "exo": (0.1,), "robust_logistic": (0.2,)}
SETTINGS |= {"contrast": (0.3,), "discopop": (0.4,), "binary_classifier": (0.3,)}


@pytest.mark.parametrize("name", PAIR_LINKS)
def test_formulas_of_a_pair_link_are_its_loss_and_slopes(name):
    link = PAIR_LINKS[name](*SETTINGS.get(name, ()))
    assert type(link) in MARGIN or type(link) in PAIR, "write its formula"
    found = of_link(link, formula("z"), formula("w"), formula("A"))
    for z_w, z_l in ((0.3, -0.4), (-0.9, 0.2)):
        pair = jnp.array([z_w]), jnp.array([z_l])
        names = {"z_w": z_w, "z_l": z_l, "m": z_w - z_l, "E": np.e}
        want = pytest.approx(float(link.loss(*pair)[0]), rel=1e-12)
        assert value(found.loss, **names) == want
        assert eval(read(text(found.loss)), FUNCTIONS | names) == want
        slopes = jax.grad(lambda w, r: link.loss(w, r)[0], (0, 1))(*pair)
        gains = (found.gain, found.rejected)
        for gain, slope in zip(gains, slopes, strict=True):
            assert value(gain, **names) == pytest.approx(-float(slope[0]), rel=1e-12)


POINTS = [(z, a) for z in (-0.6, 0.1, 0.9) for a in (-1.3, 0.8)]


@pytest.mark.parametrize("name", ["linear", "importance", "residual", "gain"])
@pytest.mark.parametrize("z, a", POINTS)
def test_formulas_of_a_pointwise_link_are_its_loss_and_slope(name, z, a):
    link = LINKS[name]()
    found = of_link(link, formula("z"), formula("w"), formula("A"))
    assert type(link) in POINTWISE

    def loss(x):
        return link.loss(x, jnp.asarray(a), None)

    want, slope = jax.value_and_grad(loss)(jnp.asarray(z))
    assert value(found.loss, z=z, A=a) == pytest.approx(float(want), rel=1e-12)
    assert value(found.gain, z=z, A=a) == pytest.approx(-float(slope), rel=1e-12)


@pytest.mark.parametrize("z, a", POINTS)
def test_formulas_with_cases_are_the_links(z, a):
    """A clip, a gate and doubled logistic: what the sign of A decides."""
    for link in (Clipped(0.2, 0.3), Clipped(0.2, 0.3, cap=1.5), LINKS["soft_gate"]()):
        found = of_link(link, formula("z"), formula("w"), formula("A"))
        where = {name: value(x, A=a) for name, x in found.where}
        want = float(link.loss(jnp.asarray(z), jnp.asarray(a), None))
        assert value(found.loss, z=z, A=a, **where) == pytest.approx(want, rel=1e-12)
    rows = LINKS["row_logistic"](0.1)
    found = of_link(rows, formula("z"), formula("w"), formula("A"))
    sign = float(np.sign(a))
    slope = jax.grad(lambda x: rows.loss(x, jnp.asarray(sign), None))(z)
    assert value(found.gain, z=z, A=sign) == pytest.approx(-float(slope), rel=1e-12)


SAMPLED = ["k1", "abs", "k2", "k3", "importance_k2", "importance_k3"]


@pytest.mark.parametrize("estimator", SAMPLED)
@pytest.mark.parametrize("divergence", [ReverseKL(), ForwardKL(), PearsonChi2()])
def test_formulas_of_a_penalty_are_its_value_and_slope(estimator, divergence):
    gradients: list[Gradient] = ["own", "k2"] if estimator != "k2" else ["own"]
    for gradient in gradients:
        penalty = Penalty(0.3, divergence, estimator, gradient)
        old, ref, policy = 0.4, 0.2, jnp.log(jnp.array([[[0.25]]]))

        def cost(x, penalty=penalty, old=old, ref=ref):
            one = jnp.ones((1, 1, 1))
            rho = functools.partial(jnp.subtract, x, jnp.log(old))
            return 0.3 * penalty.per_token(x - jnp.log(ref), rho, x, one).sum()

        want, slope = jax.value_and_grad(cost)(policy)
        names = {"pi": 0.25, "old": old, "v": 0.25 / ref}
        assert value(penalty_value(penalty), **names) == pytest.approx(float(want))
        gc = penalty_coefficient(penalty)
        assert value(gc, **names) == pytest.approx(-float(slope[0, 0, 0]))


NAMES = ("ratio", "loss", "signal", "aggregation", "GC", "is", "reads")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_text_has_every_line_and_names_every_array(name):
    objective = EXAMPLES[name]
    words = explain(objective)
    lines = [line.split("  ", 1) for line in words.splitlines()]
    labels = [label.strip() for label, _ in lines]
    assert set(NAMES) <= set(labels)
    assert "status" in labels or isinstance(objective, Objective)
    reads = words.splitlines()[-1]
    assert all(re.search(rf"\b{array}\b", reads) for array in objective.needs)
    assert max(map(len, words.splitlines())) <= 98
    # one column of names, one of what they are
    width = len(reads) - len(reads.removeprefix("reads").lstrip())
    assert all(not line[width - 2 : width].strip() for line in words.splitlines())


PARSER = MathTextParser("path")


@pytest.mark.parametrize("name", EXAMPLES)
def test_latex_is_balanced_and_parses(name):
    lines = latex(EXAMPLES[name]).splitlines()
    assert lines[0] == r"\begin{aligned}" and lines[-1] == r"\end{aligned}"
    for line in lines[1:-1]:
        row = line.removesuffix(r" \\")
        assert row.count("&") == 1
        bare = re.sub(r"\\[{}]", "", row)
        assert bare.count("{") == bare.count("}")
        assert row.count(r"\left") == row.count(r"\right")
        PARSER.parse(f"${row.replace('&', '')}$")


def test_a_part_of_ones_own_is_its_name_and_first_line():
    @unipost.part
    class Cubic(Link):
        """-A z^3: steep. More of it."""

        def loss(self, z, signal, units):
            return -signal * z**3

    @unipost.part
    class Coin(Signal):
        """A coin's side."""

        def __call__(self, batch):
            return jnp.ones_like(batch.mask)

    @unipost.part
    class Steep(MarginLink):
        """e^-m, AdaBoost's."""

        def of_margin(self, margin):
            return jnp.exp(-margin)

    words = explain(Objective(link=Cubic(), signal=Coin(), beta=0.5))
    assert "Cubic(0.5 log pi, A)" in words and "-A z^3: steep" in words
    assert "Coin: A coin's side" in words
    words = explain(replace(presets.dpo(), link=Steep()))
    assert "Steep(m)" in words and "AdaBoost's" in words


def test_a_traced_or_batched_number_is_its_name():
    objective = presets.dpo(jnp.array([0.1, 0.2]))
    assert "z = beta log u" in explain(objective)
    assert "GC_w = beta sigmoid(-m)" in explain(objective)


CASES = {
    "grpo": ("-min(A u, A clip(u, 0.8, 1.2))", "0.04 (1/v - 1)", "v = pi/ref"),
    "dpo": ("-log sigmoid(m)", "z = 0.1 log u", "GC_w = 0.1 sigmoid(-m)"),
    "sft": ("-log pi",),
    "dft": ("-sg(pi) log pi",),
    "psft": ("-min(u, 1.2)",),
    "luffy": ("0.1 A pi/(pi + 0.1)^2", "-A u"),
    "cispo": ("-sg(min(pi/old, 1.05)) A log pi", "A min(pi/old, 1.05)"),
    "sapo": ("tau = 1 for A > 0, else 1.05",),
    "vespo": ("v = prod_t pi/old", "v^2 e^(3 (1 - v)) for A >= 0"),
    "cdpo": ("-0.9 log sigmoid(m) - 0.1 log sigmoid(-m)",),
    "gspo": ("u = (prod_t pi/old)^(1/n)", "A u/n"),
    "rloo": ("r - 0.05 log v", "r - mean_others r"),
    "ppo": ("whiten(sum_k 0.95^k delta_k)",),
    "masked_is": ("c = (prod_t old/behavior)",),
    "f_sft-lse": ("r = 0.1 log u + V_t - V_next", "V_t = 0.1 logsumexp(logits)"),
    "grpo-entropy": ("-0.01 mean_it H",),
    "grpo-two": ("-c_1 c_2 min(A u,", "c_1 = importance", "c_2 = (prod_t"),
    "kto": ("z_0 = max(0, mean_B log u)",),
    "gkd-reverse": ("sum_k q_k (u_k log u_k - u_k + 1)",),
    "orpo": ("term 0", "w_1 = 0.1", "z = log(u/(1 - u))"),
}


@pytest.mark.parametrize("name", CASES)
def test_known_objectives_read_as_in_their_papers(name):
    words = explain(EXAMPLES[name])
    assert all(piece in words for piece in CASES[name]), words


@pytest.mark.parametrize("name", CLOSED + OVER_VOCABULARY)
def test_the_coefficient_is_the_papers(name):
    streams, batch = streams_and_batch(name)
    objective = EXAMPLES[name]
    if name == "orpo":  # its terms have one denominator there, and no row weights
        batch = replace(batch, weight=None)
    got = gradient_coefficient(objective, streams, batch)
    want = closed_coefficient(name, streams, batch)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


# without stopped gradients: the loss itself is differentiated
SMOOTH = ("sft", "f_sft", "alpha_sft", "dpo-length", "nca", "grpo-rho", "grpo-dual")
SMOOTH += ("gspo", "gmpo", "agro", "copg", "cpo", "apo-down", "exo", "chi_po")


@pytest.mark.parametrize("name", SMOOTH)
def test_the_coefficient_is_the_slope_by_central_differences(name):
    """Along a random direction, with the weight of every unit counted by hand."""
    streams, batch = streams_and_batch(name)
    batch = replace(batch, weight=None)
    objective = EXAMPLES[name]
    kept = np.asarray(batch.mask)
    direction = np.random.default_rng(1).normal(size=kept.shape)

    def loss(step):
        moved = replace(streams, policy=streams.policy + step * direction)
        return float(objective(moved, batch)[0])

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    rows, n = kept.any(-1), np.maximum(kept.sum(-1), 1)
    pairs = rows.all(-1).sum()
    if name in ("sft", "f_sft", "alpha_sft", "cpo"):
        unit = 1.0 / kept.sum()
    elif kept.shape[1] == 2:
        unit = 1.0 / pairs
    elif name in ("gspo", "gmpo", "agro", "copg"):
        unit = 1.0 / rows.sum()
    else:
        unit = 1.0 / (rows.sum() * n[..., None])
    gc = np.asarray(gradient_coefficient(objective, streams, batch))
    total = -(unit * np.where(kept, gc * direction, 0.0)).sum()
    assert total == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("name", ["f_sft-lse", "grpo-exact", "grpo-entropy"])
def test_no_coefficient_where_the_gradient_is_not_one_per_token(name):
    streams, batch = streams_and_batch(name)
    with pytest.raises(ValueError, match="goes through the whole vocabulary"):
        gradient_coefficient(EXAMPLES[name], streams, batch)


def test_the_coefficient_over_the_vocabulary_is_the_slope_in_the_logits():
    streams, batch = streams_and_batch("gkd")
    objective = EXAMPLES["gkd"]
    gc = np.asarray(gradient_coefficient(objective, streams, batch))
    np.testing.assert_allclose(gc.sum(-1), 0.0, atol=1e-12)
    kept = np.asarray(batch.mask)

    def loss(logits):
        vocab = jax.nn.log_softmax(logits, -1)
        return objective(replace(streams, vocab=vocab), batch)[0]

    slope = np.asarray(jax.grad(loss)(jnp.where(kept[..., None], streams.vocab, 0.0)))
    weight = np.asarray(batch.weight)[..., None, None] / kept.sum()
    np.testing.assert_allclose(-weight * gc, slope, rtol=1e-9, atol=1e-13)
