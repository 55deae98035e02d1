"""The verdicts stored with the figures follow from the outcomes stored beside them."""

import json
from pathlib import Path

import pytest

from unipost.studies.stored import load_results
from unipost.studies.verdicts import differences, found_of

DATA = Path(__file__).parents[1] / "paper_figs" / "data"


def studies() -> list[str]:
    """Stored studies with claims; the results of scripts hold no outcomes of arms."""
    found = []
    for file in sorted(DATA.glob("*.json")):
        tree = json.loads(file.read_text())
        if isinstance(tree, dict) and tree.get("arms") and tree.get("claims"):
            found.append(file.stem)
    return found


@pytest.mark.parametrize("name", studies())
def test_verdicts_are_those_of_the_outcomes(name):
    results = load_results(DATA / f"{name}.json")
    assert differences(results["claims"], found_of(results)) == []


def test_a_verdict_that_does_not_follow_is_told():
    results = load_results(DATA / "template.json")
    claims = results["claims"]
    claims["destroyed"]["found"]["verdict"] = "not supported"
    claims["rebuilt"]["found"]["effects"][0][1] += 0.01
    told = differences(claims, found_of(results))
    assert [line.partition(":")[0] for line in told] == ["destroyed", "rebuilt"]
