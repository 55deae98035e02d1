"""No argument is accepted and ignored: each changes the loss or its gradient."""

import inspect
from dataclasses import fields, is_dataclass, replace
from functools import cache

import jax
import numpy as np
import pytest
from argument_changes import NEEDED, OF_PARTS, OF_PRESETS, REFUSED
from preset_examples import EXAMPLES, parts_of, terms
from random_batch import random_batch

from unipost import PRESETS, Mixture, Objective, Penalty, Score
from unipost.aggregation import TokenMean
from unipost.annealed import Annealed
from unipost.choices import REGISTRIES
from unipost.mixed_groups import HybridMean
from unipost.signals import Preference
from unipost.vocabulary import Distillation, Gem


@cache
def data(group, prefix):
    """A batch where everything matters: a lone row, an empty row with a reward."""
    streams, batch = random_batch(group, text=True, prefix=prefix, prompts=8)
    if group == 2:
        return streams, batch
    lone, unscored = batch.mask.at[3, 1:].set(False), batch.rewards.at[3, 1:]
    return streams, replace(batch, mask=lone, rewards=unscored.set(np.nan))


def result(objective):
    """(loss, gradient in policy and vocabulary) on data that fits the objective."""
    signals = [getattr(term, "signal", None) for term in terms(objective)]
    prefix = any(isinstance(s, HybridMean) for s in signals)
    group = 2 if any(isinstance(s, Preference) for s in signals) else 4
    streams, batch = data(group, prefix)
    loss, grads = jax.value_and_grad(lambda s: objective(s, batch)[0])(streams)
    return float(loss), np.array(grads.policy), np.array(grads.vocab)


def differ(one, other):
    scale = max(float(np.abs(x).max()) for x in one)
    pairs = zip(one, other, strict=True)
    return any(float(np.abs(x - y).max()) > 1e-6 * scale for x, y in pairs)


def swapped(thing, kind, field, value):
    """`thing` with a field of every part of this kind inside it changed."""
    if isinstance(thing, tuple):
        return tuple(swapped(each, kind, field, value) for each in thing)
    if not is_dataclass(thing):
        return thing
    inner = {
        f.name: swapped(getattr(thing, f.name), kind, field, value)
        for f in fields(thing)
    }
    if type(thing) is kind:
        inner[field] = value
    return type(thing)(**inner)


CASES = [(name, key) for name, changes in OF_PRESETS.items() for key in changes]


@pytest.mark.parametrize("name, argument", CASES)
def test_an_argument_of_a_preset_changes_the_loss(name, argument):
    base = NEEDED.get(name, {})
    changed = PRESETS[name](**(base | {argument: OF_PRESETS[name][argument]}))
    assert differ(of_preset(name), result(changed))


@cache
def of_preset(name):
    return result(PRESETS[name](**NEEDED.get(name, {})))


def test_every_argument_of_every_preset_is_changed():
    for name, make in PRESETS.items():
        arguments = set(inspect.signature(make).parameters)
        if name in NEEDED and "max_length" in NEEDED[name]:  # one of the two
            arguments -= {"aggregation"}
        if name == "luffy":  # which has no shaping then
            arguments -= {"off_clip"}
        assert arguments == set(OF_PRESETS[name]), name


@pytest.mark.parametrize("name", ["luffy", "rl_sft", "srft", "hpt"])
def test_an_aggregation_instead_of_a_length(name):
    make = PRESETS[name]
    one, other = make(max_length=9.0), make(aggregation=TokenMean())
    assert differ(result(one), result(other))


def test_the_clip_of_demonstrations_of_luffy():
    make = PRESETS["luffy"]
    mixed = make(9.0, gamma=None), make(9.0, gamma=None, off_clip=0.2)
    assert differ(*map(result, mixed))
    assert differ(result(make(9.0)), result(mixed[0]))


PARTS = [(kind, field) for kind, changes in OF_PARTS.items() for field in changes]


@pytest.mark.parametrize("kind, field", PARTS)
def test_a_field_of_a_part_changes_the_loss(kind, field):
    base, value = OF_PARTS[kind][field]
    objective = EXAMPLES[base] if isinstance(base, str) else base
    assert any(type(part) is kind for part in parts_of(objective))
    if value is not REFUSED:
        assert differ(result(objective), result(swapped(objective, kind, field, value)))
        return
    for other in OTHERS[field]:
        with pytest.raises(ValueError):
            result(swapped(objective, kind, field, other))


# what the fields marked as refused could be
OTHERS = {
    "waived": [("pair_level",), ("no_such_rule",)],
    "level": ["sequence", "sequence_mean"],
    "supervision": ["process"],
    "of": ["rows"],
}


def test_every_field_of_every_part_is_changed():
    """Of all that a config can name, and of the objects that hold them."""
    kinds = {kind for registry in REGISTRIES.values() for kind in registry.values()}
    used = {type(part) for part in parts_of(tuple(EXAMPLES.values()))}
    kinds = {kind for kind in kinds if isinstance(kind, type)} & used
    kinds -= {Annealed}  # of which step 0 shows one end alone
    for kind in kinds | {Objective, Score, Penalty, Mixture, Gem, Distillation}:
        names = {f.name for f in fields(kind)}
        assert names == set(OF_PARTS.get(kind, {})), kind.__name__
