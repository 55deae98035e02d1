"""The index of papers: configs load, tests exist, numbers are the stored ones."""

import re
import sys
from pathlib import Path

import pytest

from unipost.choices import REGISTRIES
from unipost.config import CHOICES, build
from unipost.objectives import AnyObjective
from unipost.presets import PRESETS
from unipost.tree import load_tree

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def index():
    """The papers of docs/papers, and the module that writes their page."""
    if str(DOCS) not in sys.path:
        sys.path.insert(0, str(DOCS))
    import make_papers

    return make_papers


ENTRIES = [entry for part in index().entries().values() for entry in part]
IDS = [entry["name"] for entry in ENTRIES]


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_the_objective_loads(entry):
    CHOICES.update(REGISTRIES)
    assert entry["objective"]["name"] in PRESETS
    assert callable(build(AnyObjective, entry["objective"], "objective"))


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_the_tests_that_it_names_exist(entry):
    assert entry["checks"]
    for check in entry["checks"]:
        file, _, test = check.partition("::")
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.M), check


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_claims_and_figures_that_it_names_exist(entry):
    for item in entry["ours"]:
        file = ROOT / "experiments" / "papers" / f"{item.get('study')}.yaml"
        if isinstance(item.get("claims"), list) and file.exists():
            assert set(item["claims"]) <= set(load_tree(file)["claims"])
    for name in entry.get("figures", ()):
        assert (ROOT / "paper_figs" / f"{name}.py").exists(), name


def test_every_system_has_its_row():
    """The papers that the project is about, by their number."""
    papers = {entry["paper"] for entry in ENTRIES}
    assert papers >= {
        *("2507.00018", "2507.00432", "2504.14945", "2503.20783", "2402.03300"),
        *("2501.12948", "2305.20050", "2309.16240", "2509.04259", "2504.07912"),
        *("2504.13837", "2508.05629", "2509.04419", "2503.14476", "2507.18071"),
        *("2506.13585", "2506.19767", "2508.11408", "2506.07527", "2507.01679"),
        *("2505.24298", "2501.12599"),
    }


def test_a_preset_is_an_objective_or_stands_in_the_last_table():
    page = (DOCS / "papers.md").read_text()
    named = {entry["objective"]["name"] for entry in ENTRIES}
    for preset in PRESETS:
        assert preset in named or f"| [{preset}](" in page


def test_a_stored_number_is_the_studys_and_a_missing_one_is_not_invented(monkeypatch):
    make = index()
    ((text, verdict, _),) = make.ours({"pipeline": "distillation", "of": PAIR})
    assert "+1.8 [1.1, 2.5]" in text and verdict == "supported"
    monkeypatch.setattr(make, "DATA", ROOT / "nowhere")
    for item in ({"study": "x", "arm": "y"}, {"study": "x", "claims": ["z"]}):
        ((text, verdict, _),) = make.ours(item)
        assert text.endswith("not run yet") and verdict == "not run yet"


PAIR = ("distilled", "direct")
