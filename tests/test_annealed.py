"""Numbers that follow a schedule: values, config, checks at both ends, one program."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_batch import random_batch

from unipost import Mixture, Objective, Penalty, presets
from unipost.annealed import Annealed, annealed_numbers, at_step
from unipost.choices import REGISTRIES
from unipost.config import CHOICES, ConfigError, build, dump_tree, load_tree, to_tree
from unipost.explain import explain
from unipost.listing import preset_table
from unipost.objectives import AnyObjective
from unipost.optimizers import AdamW, Optimizer

CHOICES.update(REGISTRIES)


def chord_mu(step, peak, valley, warmup, decay):
    """CHORD's schedule as its paper and code have it, 2508.11408."""
    if step < warmup:
        return step / warmup * peak
    if step >= warmup + decay:
        return valley
    wave = 0.5 * (1 + math.cos(math.pi * (step - warmup) / decay))
    return (peak - valley) * wave + valley


@pytest.mark.parametrize("warmup", [0, 7])
def test_the_cosine_is_chords(warmup):
    mu = Annealed(0.9, 0.05, 40, warmup=warmup)
    for step in range(60):
        want = chord_mu(step, 0.9, 0.05, warmup, 40)
        assert mu.at(step) == pytest.approx(want, rel=1e-14, abs=1e-16)


def test_a_line_and_a_step():
    line, jump = Annealed(2.0, 1.0, 4, "linear"), Annealed(2.0, 1.0, 4, "step")
    assert [line.at(s) for s in range(6)] == [2.0, 1.75, 1.5, 1.25, 1.0, 1.0]
    assert [jump.at(s) for s in range(6)] == [2.0] * 4 + [1.0] * 2
    early = Annealed(2.0, 1.0, 4, "linear", 2, 0.5)
    assert [early.at(s) for s in range(4)] == [0.5, 1.25, 2.0, 1.75]


@pytest.mark.parametrize("shape", ["cosine", "linear", "step"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_the_complement_is_exact_at_every_step(shape, warmup):
    """1 - mu stays tied to mu: the weights of CHORD add up to 1."""
    objective = presets.chord(Annealed(0.9, 0.05, 20, shape, warmup))
    for step in range(30):
        now = at_step(objective, step)
        assert isinstance(now, Mixture)
        assert all(isinstance(w, float) for w in now.weights)
        assert sum(now.weights) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("shape", ["cosine", "linear", "step"])
def test_a_traced_step_gives_the_same_value(shape, warmup):
    mu = Annealed(0.9, 0.05, 20, shape, warmup, 0.2)
    traced = jax.jit(mu.at)
    for step in (0, 2, 3, 11, 22, 23, 99):
        assert float(traced(step)) == pytest.approx(mu.at(step), rel=1e-14)


def test_arithmetic_is_that_of_the_values():
    mu = Annealed(0.9, 0.05, 20, warmup=2, initial=0.3)
    pairs = {
        "2 mu": (2 * mu, lambda x: 2 * x),
        "mu / 4 + 1": (mu / 4 + 1, lambda x: x / 4 + 1),
        "1 - mu": (1 - mu, lambda x: 1 - x),
        "-mu": (-mu, lambda x: -x),
        "mu - 3": (mu - 3, lambda x: x - 3),
    }
    for made, want in pairs.values():
        for step in range(25):
            assert made.at(step) == pytest.approx(want(mu.at(step)), rel=1e-13)
    with pytest.raises(ValueError, match="its inverse is asked for"):
        1 / mu


def numbers(objective):
    """Every number of a preset that may vary, replaced by one that does."""
    return {
        "penalty.weight": replace(objective, penalty=Penalty(Annealed(0.4, 0.1, 10))),
        "link.low": replace(
            objective, link=replace(objective.link, low=Annealed(0.2, 0.1, 10))
        ),
        "entropy_bonus": replace(objective, entropy_bonus=Annealed(0.1, 0.0, 10)),
        "clamp": replace(objective, clamp=Annealed(20.0, 5.0, 10)),
    }


@pytest.mark.parametrize("path", numbers(presets.dapo()))
def test_a_number_of_an_objective_follows_its_schedule(path):
    """A call without a step is step 0; `at_step` is the object with plain numbers."""
    streams, batch = random_batch(4)
    objective = numbers(presets.dapo())[path]
    assert list(annealed_numbers(objective)) == [path]
    found = []
    for step in (0, 4):
        now = at_step(objective, step)
        assert not annealed_numbers(now)
        found.append(float(now(streams, batch)[0]))
    assert float(objective(streams, batch)[0]) == found[0]
    if path != "clamp":  # which touches nothing here
        assert found[0] != found[1]
    prepared = objective.prepare(batch)
    assert float(objective.loss(streams, prepared)[0]) == found[0]


def test_an_objective_without_a_schedule_is_left_alone():
    objective = presets.grpo()
    assert at_step(objective, 3) is objective and not annealed_numbers(objective)


def test_the_steps_share_one_program():
    streams, batch = random_batch(4)
    objective, traces = presets.chord(), []

    @jax.jit
    def loss(objective):
        traces.append(None)
        return objective(streams, batch)[0]

    values = [float(loss(at_step(objective, step))) for step in range(0, 200, 40)]
    assert len(traces) == 1 and len(set(values)) == len(values)
    first, second = (Mixture(objective.terms, w) for w in ((1.0, 1e-9), (1e-9, 1.0)))
    rl, sft = (float(o(streams, batch)[0]) for o in (first, second))
    for step, value in zip(range(0, 200, 40), values, strict=True):
        mu = chord_mu(step, 0.9, 0.05, 0, 200)
        assert value == pytest.approx((1 - mu) * rl + mu * sft, rel=1e-6)


def test_a_step_may_be_traced():
    streams, batch = random_batch(4)
    objective = presets.chord()
    at = jax.jit(lambda step: at_step(objective, step)(streams, batch)[0])
    for step in (0, 50, 300):
        want = float(at_step(objective, step)(streams, batch)[0])
        assert float(at(jnp.asarray(step))) == pytest.approx(want, rel=1e-12)


def test_a_weight_may_start_or_end_at_zero():
    streams, batch = random_batch(4)
    for mu in (Annealed(1.0, 0.0, 10), Annealed(0.5, 0.1, 10, warmup=5)):
        loss = float(presets.chord(mu)(streams, batch)[0])
        assert np.isfinite(loss)
    with pytest.raises(ValueError, match="mixture.weights.1: 0 is not positive"):
        presets.chord(0.0)


def made(text, folder, overrides=()):
    (folder / "x.yaml").write_text(f"objective: {text}\n")
    tree = load_tree(folder / "x.yaml", overrides)
    return build(AnyObjective, tree["objective"], "objective", "x.yaml")


YAML = {
    "{name: chord, mu: {name: annealed, start: 0.8, end: 0.1, steps: 50}}": (
        presets.chord(Annealed(0.8, 0.1, 50))
    ),
    "{name: chord, mu: {steps: 50, warmup: 5}}": presets.chord(
        Annealed(0.9, 0.05, 50, warmup=5)
    ),
    "{name: chord, mu: 0.4}": presets.chord(0.4),
    "{name: grpo, kl: {name: annealed, start: 0.1, end: 0.01, steps: 9}}": (
        presets.grpo(kl=Annealed(0.1, 0.01, 9))
    ),
    "{name: dapo, link: {high: {name: annealed, start: 0.3, end: 0.2, steps: 9}}}": (
        presets.dapo(high=Annealed(0.3, 0.2, 9))
    ),
    "{name: dpo, beta: {name: annealed, start: 1, end: 2, steps: 9, shape: linear}}": (
        presets.dpo(beta=Annealed(1.0, 2.0, 9, "linear"))
    ),
    "{name: sft, entropy_bonus: {name: annealed, start: 0.1, end: 0, steps: 5}}": (
        replace(presets.sft(), entropy_bonus=Annealed(0.1, 0.0, 5))
    ),
}


@pytest.mark.parametrize("text", YAML)
def test_a_schedule_in_yaml_and_back(text, tmp_path):
    objective = made(text, tmp_path)
    assert objective == YAML[text]
    again = dump_tree(to_tree(objective, AnyObjective))
    (tmp_path / "y.yaml").write_text(again)
    assert build(AnyObjective, load_tree(tmp_path / "y.yaml")) == objective


def test_the_weights_of_a_mixture_in_yaml(tmp_path):
    text = "{name: cpo, weights: {'1': {name: annealed, start: 1, end: 0, steps: 8}}}"
    assert made(text, tmp_path).weights == (1.0, Annealed(1.0, 0.0, 8))


@pytest.mark.parametrize(
    "text, words",
    [
        ("{name: dpo, beta: {name: anealed, start: 1, end: 2}}", "unknown 'anealed'"),
        ("{name: dpo, beta: {name: annealed, start: 1}}", "beta: missing 'end'"),
        ("{name: dpo, beta: {name: annealed, start: 1, end: 2, stepz: 3}}", "stepz"),
        ("{name: dpo, beta: {start: 1, end: 2}}", "beta: needs a 'name' .*annealed"),
        ("{name: dpo, beta: [1, 2]}", "beta: expected a number, got a list"),
        (
            "{name: dpo, beta: {name: annealed, start: 1, end: -2, steps: 3}}",
            "beta: -2 is not positive",
        ),
        (
            "{name: dapo, low: {name: annealed, start: 0, end: 0.2, steps: 3}}",
            "low: 0 is not positive",
        ),
        (
            "{name: dpo, beta: {name: annealed, start: a, end: 2, steps: 3}}",
            "beta.start: expected a number, got 'a'",
        ),
        (
            "{name: sppo, beta: {name: annealed, start: 1, end: 2, steps: 3}}",
            "its inverse is asked for",
        ),
        ("{name: dpo, beta: {name: 'unipost.links:Linear'}}", "beta.*is not a number"),
    ],
)
def test_mistakes_are_told_in_one_line(text, words, tmp_path):
    with pytest.raises(ConfigError, match=words) as caught:
        made(text, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_optimizer_has_its_own_schedules(tmp_path):
    rate = {"name": "annealed", "start": 1e-3, "end": 1e-4, "steps": 10}
    node = {"name": "adamw", "learning_rate": rate}
    with pytest.raises(ConfigError, match="learning_rate: annealed.*write schedule"):
        build(Optimizer, node)
    with pytest.raises(ValueError, match="clip_norm: annealed"):
        AdamW(1e-3, clip_norm=Annealed(1.0, 0.5, 10))


def test_explain_and_the_table_show_it():
    text = explain(presets.chord())
    assert "weights.0: 0.1 to 0.95 in 200 steps (cosine)" in text
    assert "weights.1: 0.9 to 0.05 in 200 steps (cosine)" in text
    warmed = Annealed(0.1, 0.01, 50, "linear", 5)
    text = explain(replace(Objective(), entropy_bonus=warmed))
    assert "entropy_bonus: 0 to 0.1 in 5 steps, then 0.1 to 0.01 in 50 steps" in text
    assert "| `chord`: (0.1 to 0.95) x |" in preset_table()
