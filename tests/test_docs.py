"""The generated pages say what the objects say; links and figures exist."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))


@pytest.fixture(scope="module")
def pages():
    from make_docs import pages

    return pages()


def test_generated_pages_are_up_to_date(pages):
    for name, text in pages.items():
        assert (DOCS / name).read_text() == text, f"{name}: run docs/make_docs.py"


def test_every_preset_and_rule_has_its_place(pages):
    from unipost.presets import FAMILIES
    from unipost.refusals import OBJECTIVE_RULES, SCORE_RULES

    for family, presets in FAMILIES.items():
        for name in presets:
            assert f"\n## {name}\n" in pages[f"{family}.md"]
    for rule in (*SCORE_RULES, *OBJECTIVE_RULES):
        assert f"`{rule.__name__}`" in pages["refusals.md"]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_links_and_figures_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_table_of_recorded_numbers_counts_the_fixtures():
    """Its counts are those of the case files; nothing is left unmatched in silence."""
    import json

    from make_golden import CASES, FAMILIES

    table = (DOCS / "golden.md").read_text()
    for family in FAMILIES:
        count = len(json.loads((CASES / f"{family}.json").read_text())["cases"])
        assert re.search(rf"\| {family} \|.*\| {count} \| {count} \|", table), family
