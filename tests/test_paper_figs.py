"""The figures of papers: drawn from what is committed, with the numbers it holds."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image, rc_context
from matplotlib.text import Text
from synthetic_results import made_up

from unipost.cli import main
from unipost.figure_style import (
    DIVERGENCES,
    METHODS,
    PAGE,
    RC,
    look_of,
    looks_for,
    table_of,
)
from unipost.paper_figures import checkout, parts

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "paper_figs"
DATA = FOLDER / "data"
drawing, gallery = parts(FOLDER)
NAMES = drawing.names()
SUITE = [n for n in drawing.scripts() if hasattr(drawing.script(n), "FIGURE")]


def lab(color):
    """CIE L*a*b* of #rrggbb."""
    rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = [
        [0.4124, 0.3576, 0.1805],
        [0.2126, 0.7152, 0.0722],
        [0.0193, 0.1192, 0.9505],
    ]
    xyz = np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089]
    fx, fy, fz = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


@pytest.mark.parametrize(
    "looks", [METHODS, DIVERGENCES], ids=["methods", "divergences"]
)
def test_every_look_is_of_one_name_alone(looks):
    """Colours differ, none is too light for white paper, marks differ in grey."""
    colors = {name: lab(look.color) for name, look in looks.items()}
    for (one, a), (other, b) in itertools.combinations(colors.items(), 2):
        assert np.linalg.norm(a - b) > 8, (one, other)
    assert max(color[0] for color in colors.values()) < 86
    assert len({look[1:] for look in looks.values()}) == len(looks)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a #112233 o -\nb #112233 s -", "b and a are both #112233"),
        ("a #112233 o -\nb #332211 o -", "b and a are both o -"),
    ],
)
def test_duplicates_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        table_of(text)


def test_a_method_has_one_look_and_an_unknown_one_is_named():
    assert look_of("shuffled") == METHODS["control"]
    arms = ["mine", "grpo", "yours", "wrong", "dpo"]
    looks = looks_for(arms, ["wrong"])
    assert looks["grpo"] == METHODS["grpo"] and looks["wrong"] == METHODS["control"]
    assert len(set(looks.values())) == len(arms)
    with pytest.raises(KeyError, match="'nobody' has no look"):
        look_of("nobody")


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_drawn_from_what_is_committed(name, tmp_path):
    """PDF, PNG and CSV; the numbers are the committed ones; no text is too small."""
    module = drawing.script(name)
    found = module.rows(drawing.Stored())
    with rc_context(RC):
        figure = module.draw(found)
        files = drawing.save(figure, tmp_path / name, ("pdf", "png"), 60)
        sizes = [t.get_fontsize() for t in figure.findobj(Text) if t.get_text().strip()]
        box, page = figure.get_tightbbox(), figure.bbox_inches
    assert files[0].read_bytes()[:4] == b"%PDF"
    pixels = image.imread(files[1])[..., :3]
    assert pixels.std() > 0.03 and figure.get_figwidth() <= PAGE
    assert min(sizes) >= 7
    # nothing is cut off at an edge
    assert box.x0 > -0.03 and box.x1 < page.x1 + 0.03
    assert box.y0 > -0.03 and box.y1 < page.y1 + 0.03
    committed = (FOLDER / "gallery" / f"{name}.csv").read_text()
    assert gallery.same(committed, gallery.csv_text(found)), f"run {gallery.__file__}"
    word = module.verdict(found).split()[0].rstrip(",:")
    assert word in ("supported", "not", "inconclusive") or word.isdigit()


@pytest.mark.parametrize("name", SUITE)
def test_a_figure_of_the_suite_draws_a_run_of_its_study(name, tmp_path, monkeypatch):
    """From a run directory with made-up outcomes: means and claims are there."""
    monkeypatch.chdir(ROOT)
    module = drawing.script(name)
    study = ROOT / "experiments" / "papers" / f"{module.FIGURE.study}.yaml"
    results = made_up(study, tmp_path / "run")
    said = drawing.write(module, tmp_path, drawing.Stored(tmp_path / "run"), ("png",))
    with (tmp_path / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shown = {row["arm"] for row in rows if row["panel"] == "claim"}
    named = set(getattr(module.FIGURE, "claims", ()))
    assert shown == (named or set(results["claims"])) <= set(results["claims"])
    assert said.split()[0].isdigit()
    final = [r for r in rows if r["at"] == "final" and r["what"] == "gain"]
    task, metric = results["rule"]["task"], results["rule"]["metric"]
    for row in final:
        runs = results["arms"].get(row["arm"], {}).get("runs")
        if runs:
            values = [np.mean(run["tasks"][task][metric]) for run in runs]
            base = np.mean(results["base"]["tasks"][task][metric])
            expected = 100 * (np.mean(values) - base)
            assert float(row["mean"]) == pytest.approx(expected, rel=1e-5)


def numbers(name):
    """The committed numbers of a figure."""
    with (FOLDER / "gallery" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_shaping_curve_is_its_formula():
    for row in numbers("luffy_shaping")[:-2:20]:
        p = float(row["p"])
        weight = 0.1 * p * (1 - p) / (p + 0.1) ** 2
        assert float(row["gamma 0.1"]) == pytest.approx(weight, abs=1e-5)


def test_the_audit_counts_thirteen_rows():
    rows = numbers("transfer_audit")
    assert [row["consistent"] for row in rows].count("yes") == 13
    tables = json.loads((DATA / "transfer_tables.json").read_text())
    wrong = {row["model"] for row in rows if row["consistent"] == "no"}
    assert wrong == set(tables["ti_not_reproducible_from_scores"])


def test_staleness_shows_the_means_of_the_runs():
    with (DATA / "staleness.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    for row in numbers("staleness"):
        if row["where"] == "ours":
            arm = f"{row['arm']}_{row['steps']}"
            own = [float(r["equations/sampled"]) for r in runs if r["arm"] == arm]
            assert len(own) == 3
            assert float(row["accuracy"]) == pytest.approx(np.mean(own), rel=1e-4)
            assert float(row["low"]) < np.mean(own) < float(row["high"])


def test_printed_numbers_are_those_of_the_published_tables():
    table = json.loads((DATA / "published" / "luffy.json").read_text())["tables"]
    printed = {row["arm"]: row["printed"] for row in numbers("luffy_ablation")}
    rows = table["ablation"]["rows"]
    lead = rows["mixed, shaping, no clip"][-1] - rows["on-policy"][-1]
    assert float(printed["luffy"]) == pytest.approx(lead) == pytest.approx(4.6)


@pytest.mark.parametrize("file", sorted((DATA / "published").glob("*.json")))
def test_published_tables_say_where_they_are_from(file):
    tree = json.loads(file.read_text())
    assert tree["paper"] and tree["title"] and tree["version"]
    for table in tree["tables"].values():
        assert table["item"] and table["read"] and table["unit"]
        assert all(len(r) == len(table["columns"]) for r in table["rows"].values())


def test_the_gallery_is_up_to_date():
    """The page follows from the stored numbers, and the pictures are small."""
    page = gallery.page()
    assert (FOLDER / "README.md").read_text() == page, "python paper_figs/gallery.py"
    pictures = list((FOLDER / "gallery").glob("*.png"))
    assert {p.stem for p in pictures} == set(NAMES)
    assert sum(p.stat().st_size for p in pictures) < 3e6
    for name in drawing.scripts():
        assert drawing.script(name).ABOUT.title in page


def test_a_changed_number_is_noticed():
    text = (FOLDER / "gallery" / "dapo_ladder.csv").read_text()
    assert gallery.same(text, text.replace("50", "50.0000001"))
    assert not gallery.same(text, text.replace("50", "51"))
    assert not gallery.same(text, text + "x,1,1\n")


def test_the_command_draws_and_checks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT / "tests")
    out = str(tmp_path)
    assert main(["figures", "dapo_ladder", "--out", out]) == 0
    kinds = {p.suffix for p in (tmp_path / "dapo_ladder").iterdir()}
    assert kinds == {".pdf", ".png", ".csv"}
    assert main(["figures", "dapo_ladder", "razor_printed", "--check"]) == 0
    assert "2 figures are up to date" in capsys.readouterr().out
    assert main(["figures", "nothing"]) == 2
    assert "'nothing' is none of ablation_clip" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["figures"]) == 2
    assert "is in no checkout of unipost" in capsys.readouterr().err
    with pytest.raises(ValueError, match="clone the repository"):
        checkout(tmp_path)


def test_a_script_refuses_a_folder_without_results(tmp_path, capsys):
    with pytest.raises(SystemExit):
        drawing.main(str(FOLDER / "staleness.py"), [str(tmp_path)])
    assert "holds no results.json" in capsys.readouterr().err
