"""Figures of a study with known numbers: every arm is there, and where it must be."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from unipost.figures import (
    accuracy_figure,
    coefficient_figure,
    forgetting_figure,
    make_figures,
)
from unipost.report import summarise

SCRIPT = Path(__file__).parents[1] / "paper_figs" / "quickstart.py"
ITEMS = 60
ARMS = [f"arm{i}" for i in range(11)]


def scores(right: int) -> dict:
    return {"greedy": [1] * right + [0] * (ITEMS - right)}


def study() -> dict:
    """Arm i is right on 20 + 2i items, keeps 50 - i, at KL 0.01 * 1.6^i; the last is
    the control.
    """
    arms = {}
    for i, name in enumerate(ARMS):
        runs = [
            {
                "seed": seed,
                "tasks": {"new": scores(20 + 2 * i), "old": scores(50 - i - seed)},
                "kl_reverse": 0.01 * 1.6**i * (1 + seed / 10),
                "kl_forward": 0.02 * 1.6**i,
                "coefficient": {
                    "probability": [0.001, 0.1, 0.9],
                    "value": [9.0, 1.0 + i + seed, None if seed else 1.0],
                    "count": [4, 10 * (1 + 2 * seed), 12],
                },
            }
            for seed in (0, 1)
        ]
        expected = "fail" if name == ARMS[-1] else "learn"
        arms[name] = {"title": f"Arm {i}", "expected": expected, "runs": runs}
    return {
        "study": "quick",
        "claim": "They learn.",
        "seeds": [0, 1],
        "rule": {"task": "new", "metric": "greedy", "above": 0.0},
        "tasks": {
            "new": {"items": ITEMS, "role": "target", "title": "new things"},
            "old": {"items": ITEMS, "role": "retention", "title": "old things"},
        },
        "base": {"tasks": {"new": scores(20), "old": scores(50)}},
        "arms": arms,
    }


@pytest.fixture(scope="module")
def summary():
    return summarise(study(), 200)


def texts(figure: Figure | None) -> str:
    assert figure is not None
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_files_are_whole_pictures_and_pyplot_is_left_alone(tmp_path, summary):
    before = dict(matplotlib.rcParams)
    code = "import sys, unipost.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    files = make_figures(summary, tmp_path / "new", ("png", "pdf"))
    stems = [file.stem for file in files[::2]]
    assert stems == ["accuracy", "forgetting", "coefficient"]
    assert sorted(files) == sorted((tmp_path / "new").iterdir())
    for file in files[::2]:
        pixels = image.imread(file)[..., :3]
        assert pixels.shape[1] == pytest.approx(6.75 * 150, abs=2)
        ink = (pixels.min(-1) < 0.9).mean()
        assert 0.005 < ink < 0.3 and pixels.std() > 0.05
    assert all(file.read_bytes()[:4] == b"%PDF" for file in files[1::2])
    assert dict(matplotlib.rcParams) == before


def test_every_arm_is_named_in_every_figure(summary):
    for draw in (accuracy_figure, forgetting_figure, coefficient_figure):
        said = texts(draw(summary))
        for arm in summary.arms:
            assert arm.title in said.splitlines()
        assert "quick" in said and "60 new" in said and "seeds 0, 1" in said


def test_an_arm_has_one_colour_and_the_control_is_grey(summary):
    accuracy = accuracy_figure(summary).axes[0]
    titles = [label.get_text() for label in accuracy.get_yticklabels()]
    dots = [line for line in accuracy.lines if line.get_marker() not in ("None", "")]
    first = {t: to_rgb(d.get_color()) for t, d in zip(titles, dots, strict=True)}
    figure = coefficient_figure(summary)
    assert figure is not None
    lines = {str(line.get_label()): line for line in figure.axes[0].lines[1:]}
    assert {name: to_rgb(line.get_color()) for name, line in lines.items()} == first
    control = first[f"Arm {len(ARMS) - 1}"]
    assert len(set(control)) == 1
    drawn = {(line.get_color(), line.get_marker()) for line in lines.values()}
    assert len(drawn) == len(ARMS)


def test_accuracy_shows_the_numbers_and_fills_what_improves(summary):
    axes = accuracy_figure(summary).axes[0]
    dots = [line for line in axes.lines if line.get_marker() not in ("None", "")]
    shown = [float(np.ravel(dot.get_xdata())[0]) for dot in dots]
    assert shown == pytest.approx(
        [100 * (20 + 2 * i) / ITEMS for i in range(len(ARMS))]
    )
    hollow = [dot.get_markerfacecolor() == "white" for dot in dots]
    improved = [arm.verdict == "supported" for arm in summary.arms[::-1]]
    assert hollow == [not each for each in improved] and 0 < sum(hollow) < len(ARMS)


def test_forgetting_places_arms_by_kl_and_retention(summary):
    figure = forgetting_figure(summary)
    assert figure is not None and len(figure.axes) == 2
    for axes, start in zip(figure.axes, (0.0105, 0.02), strict=True):
        notes = [n for n in axes.texts if isinstance(n, Annotation)]
        places = {note.get_text(): note.xy for note in notes}
        for i in range(len(ARMS)):
            expected = (start * 1.6**i, -100 * (i + 0.5) / ITEMS)
            assert places[f"Arm {i}"] == pytest.approx(expected)
        figure.draw_without_rendering()
        boxes = [note.get_window_extent() for note in notes]
        assert all(axes.get_window_extent().padded(2).containsx(b.x0) for b in boxes)


def test_coefficient_pools_seeds_and_leaves_out_thin_bins(summary):
    figure = coefficient_figure(summary)
    assert figure is not None
    for line in figure.axes[0].lines[1:]:
        i = int(str(line.get_label()).split()[1])
        assert line.get_xdata() == pytest.approx([0.1, 0.9])  # 8 tokens at 0.001
        # 10 tokens of 1 + i and 30 of 2 + i; null is no coefficient
        assert line.get_ydata() == pytest.approx([1.75 + i, 1.0])


def test_figures_without_numbers_are_left_out(tmp_path):
    results = study()
    for arm in results["arms"].values():
        for run in arm["runs"]:
            run |= {"kl_reverse": None, "kl_forward": None, "coefficient": None}
    files = make_figures(summarise(results, 50), tmp_path)
    assert [file.name for file in files] == ["accuracy.png"]
    results = study()
    results["arms"]["arm0"]["runs"][0]["kl_reverse"] = None
    assert "Arm 0\n" in texts(forgetting_figure(summarise(results, 50)))


def test_bins_that_differ_between_seeds_are_refused():
    results = copy.deepcopy(study())
    results["arms"]["arm3"]["runs"][1]["coefficient"]["probability"] = [0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match="arms.arm3: coefficient.probability differs"):
        coefficient_figure(summarise(results, 50))


def test_the_paper_script_needs_the_results_alone(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(study()))
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "| Arm 10" in done.stdout
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"report.md", "table.csv", "accuracy.pdf", "forgetting.png"} <= names
    command[2] = str(tmp_path / "elsewhere.json")
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 2 and "elsewhere.json: no such file" in failed.stderr
