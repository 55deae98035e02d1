"""What has no meaning is refused in one line; every reason has a case in `refused`."""

import importlib
import re

import pytest
from refusal_patterns import refused_in
from refused import REFUSED

from unipost import Objective, presets
from unipost.classical import JensenShannon
from unipost.refusals import OBJECTIVE_RULES, refusals
from unipost.refusals.examples import EXAMPLES
from unipost.refusals.scores import SCORE_RULES

RULES = {rule.__name__ for rule in (*OBJECTIVE_RULES, *SCORE_RULES)}
MODULES = """refusals refusals.scores refusals.pairs refusals.objectives score penalties
links pair_links ratios weights corrections reference_points signals advantages
baselines components aggregation mixture vocabulary parametric annealed mixed_groups
presets.demonstrations presets.preferences presets.rewards presets.off_policy
presets.mixing""".split()
REASONS = [  # (function, regular expression)
    reason
    for name in MODULES
    for reason in refused_in(importlib.import_module(f"unipost.{name}"))
]
ON_DATA = {  # not where an object is made: a number of rewards, a name out of a match
    "penalties.estimate",
    "components._weighted",
}


def said(make):
    """The words with which an object is refused."""
    with pytest.raises(ValueError) as error:
        make()
    return str(error.value)


@pytest.mark.parametrize("message", REFUSED)
def test_refused_in_one_line(message):
    words = said(REFUSED[message])
    assert message in words
    assert "\n" not in words


def test_every_reason_has_a_case():
    """No rule, bound or check of the library is without one that trips it."""
    words = [said(make) for make in REFUSED.values()]
    assert len(REASONS) > 100
    for where, reason in REASONS:
        if where not in ON_DATA:
            assert any(re.search(reason, each) for each in words), (where, reason)


@pytest.mark.parametrize("name", sorted(RULES | set(EXAMPLES)))
def test_the_example_of_a_rule_is_refused_by_it(name):
    """The examples that the docs show: one of every rule, with that rule's words."""
    words = said(EXAMPLES[name])
    own = [reason for where, reason in REASONS if where.endswith(f".{name}")]
    assert own and any(re.search(reason, words) for reason in own), words


def test_a_waived_rule_is_silent_and_a_useless_waiver_is_refused():
    plain = presets.f_dpo(JensenShannon())
    made = Objective(
        **{
            name: getattr(plain, name)
            for name in ("divergence", "beta", "anchor", "level", "link", "signal")
        },
        aggregation=plain.aggregation,
        per="length",
        waived=("pair_length",),
    )
    assert [name for name, _ in refusals(made)] == ["pair_length"]
    assert not list(refusals(plain))
