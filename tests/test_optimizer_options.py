"""Every option of every optimiser matters, compiles once, and is refused if wrong."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest
from tiny_leaves import GRADS, PARAMS, RATE, STEPS, trained

from unipost.choices import REGISTRIES
from unipost.config import CHOICES, build, to_tree
from unipost.optimizers import (
    OPTIMIZERS,
    SGD,
    Adafactor,
    Adam,
    Adamax,
    AdamW,
    Cosine,
    Lion,
    Muon,
    NAdam,
    NAdamW,
    Optax,
    Optimizer,
    RMSProp,
)

# every option of every optimiser, from what and to what; None: the default
COMMON = {
    "learning_rate": 2e-2,
    "schedule": Cosine(0.5),
    "warmup": 2,
    "clip_norm": 0.1,
    "clip_value": 0.2,
    "clip_ratio": 0.1,
}
MEANS = {"b1": 0.5, "b2": 0.5}
DECAY = {"weight_decay": 0.5, "decay": "matrices"}
HALF = {"mu_dtype": "bfloat16"}
OPTIONS = {
    AdamW: MEANS | DECAY | HALF | {"eps": 0.1},
    NAdamW: MEANS | DECAY | HALF | {"eps": 0.1},
    Adam: MEANS | HALF | {"eps": 0.1},
    NAdam: MEANS | HALF | {"eps": 0.1},
    Adamax: MEANS | DECAY | {"eps": 0.1},
    Lion: MEANS | DECAY | HALF,
    SGD: {"momentum": 0.5, "form": "nesterov"} | HALF,
    RMSProp: {"b2": 0.5, "eps": 0.1, "about": "mean"}
    | {"momentum": 0.5, "form": "nesterov"},
    Adafactor: DECAY
    | HALF
    | {"decay_rate": 0.5, "eps": 0.1, "threshold": 0.5, "scale": "none"}
    | {"min_size": 4, "momentum": 0.5},
    Muon: DECAY
    | HALF
    | {"b1": 0.5, "form": "heavy_ball", "steps": 2, "eps": 0.1, "rms": 0.2}
    | {"adam": ("head",), "adam_rate": 0.5, "adam_b1": 0.5, "adam_b2": 0.5},
    Optax: {"function": "yogi", "decay": "matrices", "arguments": {"b1": 0.5}},
}
# so large that they do nothing: a number in place of None, compiled once
IDLE = {"clip_norm": 1e9, "clip_value": 1e9, "clip_ratio": 1e9}
# what an option needs beside it to mean anything
BESIDE = {
    "decay": {"weight_decay": 0.5},
    "form": {"momentum": 0.9},
    "mu_dtype": {"momentum": 0.9},
    "momentum": {"momentum": 0.9},
}


def base_of(kind, option):
    """The part with every default, but for what idles and what the option needs."""
    names = {f.name for f in fields(kind)}
    beside = {k: v for k, v in BESIDE.get(option, {}).items() if k in names}
    if kind is Optax:
        arguments = {"weight_decay": 0.5} if option == "decay" else {}
        beside = {"function": "lamb", "arguments": arguments}
    if kind is Adafactor:
        beside["threshold"] = 1e9
    return kind(RATE, Cosine(1.0), **IDLE, **beside)


CASES = [
    (kind, k, v) for kind, own in OPTIONS.items() for k, v in (COMMON | own).items()
]


def differ(one, other):
    """Whether the parameters differ, or where the dtype of a moment does, that."""
    leaves = [jax.tree.leaves(tree) for tree in (one, other)]
    pairs = zip(*leaves, strict=True)
    return any(float(jnp.abs(a - b).max()) > 1e-7 for a, b in pairs)


@pytest.mark.parametrize("kind, option, value", CASES)
def test_every_option_changes_the_step(kind, option, value):
    base = base_of(kind, option)
    one, other = trained(base), trained(replace(base, **{option: value}))
    what = slice(2) if option == "mu_dtype" else 0
    assert differ(one[what], other[what])


def test_every_option_is_among_them():
    assert set(OPTIONS) == set(OPTIMIZERS.values())
    for kind, own in OPTIONS.items():
        names = {f.name for f in fields(kind)} - {"masters"}
        assert names == {*COMMON, *own}, kind


@pytest.mark.parametrize("kind", [k for k in OPTIMIZERS.values() if k is not Optax])
def test_numbers_do_not_compile_again(kind):
    """A sweep over the numbers of an optimiser is one compilation."""
    traces = []

    @jax.jit
    def advance(optimizer, state, grads):
        traces.append(1)
        return optimizer.update(grads, state, PARAMS, 0, STEPS)

    numbers = {
        name: value
        for name, value in (COMMON | OPTIONS[kind]).items()
        if isinstance(value, float) and name not in ("clip_value", "clip_ratio")
    }
    optional = {k: v for k, v in numbers.items() if getattr(kind(RATE), k) is None}
    base = kind(RATE, **{k: 0.9 * v for k, v in optional.items()})
    ends = []
    for chosen in ({}, *({k: v} for k, v in numbers.items())):
        optimizer = replace(base, **chosen)
        ends.append(advance(optimizer, optimizer.init(PARAMS), GRADS[0])[0])
    assert len(traces) == 1 and len(ends) > 3


REFUSED = [
    (lambda: AdamW(RATE, clip_value=0.0), "adamw.clip_value: 0 is not positive"),
    (lambda: AdamW(RATE, clip_ratio=-1.0), "adamw.clip_ratio: -1 is not positive"),
    (lambda: AdamW(RATE, weight_decay=-1.0), "adamw.weight_decay: -1 is negative"),
    (
        lambda: Lion(RATE, decay="matrices"),
        "lion.decay: 'matrices' has no effect with weight_decay 0",
    ),
    (
        lambda: Lion(RATE, weight_decay=1.0, decay=("(",)),
        "lion.decay: '(' is no regex",
    ),
    (lambda: Lion(RATE, weight_decay=1.0, decay=()), "lion.decay: is empty"),
    (
        lambda: Lion(RATE, weight_decay=1.0, decay=("kernl",)).init(PARAMS),
        "lion.decay: 'kernl' matches no leaf (they are blocks.norm.scale, ",
    ),
    (
        lambda: Muon(RATE, adam=("tabel",)).init(PARAMS),
        "muon.adam: 'tabel' matches no leaf",
    ),
    (
        lambda: Muon(RATE).init({"embedding": PARAMS["embedding"]}),
        "muon: no leaf is a matrix but those left to Adam; write name: adamw",
    ),
    (lambda: SGD(RATE, form="nesterov"), "sgd.form: 'nesterov' needs a momentum"),
    (lambda: SGD(RATE, mu_dtype="bfloat16"), "sgd.mu_dtype: needs a momentum"),
    (lambda: RMSProp(RATE, momentum=1.0), "rmsprop.momentum: 1 is outside [0, 1)"),
    (lambda: Adafactor(RATE, min_size=0), "adafactor.min_size: 0 is not positive"),
    (
        lambda: Optax(RATE, function="lam"),
        "optax.function: unknown 'lam'; did you mean 'lamb'?",
    ),
    (
        lambda: Optax(RATE, function="adamw"),
        "optax.function: 'adamw' is a part; write name: adamw",
    ),
    (
        lambda: Optax(RATE, function="lbfgs"),
        "optax.function: 'lbfgs' is not served: it reads the loss",
    ),
    (
        lambda: Optax(RATE, function="lamb", arguments={"b3": 0.1}),
        "optax.arguments.b3: unknown 'b3'",
    ),
    (
        lambda: Optax(RATE, function="lamb", arguments={"mask": None}),
        "optax.arguments.mask: is written as decay",
    ),
    (
        lambda: Optax(RATE, function="lamb", arguments={"b1": "x"}),
        "optax.arguments.b1: 'x' is not a number",
    ),
    (
        lambda: Optax(RATE, function="yogi", decay="matrices"),
        "optax.decay: 'matrices' has no effect: yogi takes no mask",
    ),
    (
        lambda: Optax(RATE, function="lars", decay="matrices"),
        "optax.decay: 'matrices' has no effect: lars has no weight_decay",
    ),
]


@pytest.mark.parametrize("make, message", REFUSED)
def test_refused_settings(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_muon_without_optax_muon(monkeypatch):
    monkeypatch.delattr(optax.contrib, "muon")
    with pytest.raises(ValueError, match=f"muon: optax {optax.__version__} has none"):
        Muon(RATE)


def test_a_config_is_the_optimiser():
    CHOICES.update(REGISTRIES)
    for kind, own in OPTIONS.items():
        optimizer = base_of(kind, "decay" if "decay" in own else "momentum")
        assert build(Optimizer, to_tree(optimizer, Optimizer)) == optimizer
    node = {"name": "lion", "learning_rate": 1e-4, "weight_decay": 1}
    node |= {"decay": ["kernel", "embed"]}
    assert build(Optimizer, node) == Lion(
        1e-4, weight_decay=1.0, decay=("kernel", "embed")
    )
