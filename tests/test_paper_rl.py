"""Tables of the studies of RL come from the committed tables alone."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT / "paper_figs" / "data"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("rl")
    script = ROOT / "paper_figs" / "rl.py"
    command = [sys.executable, str(script), str(DATA), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("study", ["rl_methods", "luffy_hard"])
def test_the_docs_show_the_tables_as_they_are(study, drawn):
    text = (drawn / f"{study}.md").read_text()
    assert text in (ROOT / "docs" / "rollouts.md").read_text()


def test_means_and_ranges_are_those_of_the_runs(drawn):
    with (DATA / "rl_methods.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "ppo"]
    values = [float(row["equations/sampled"]) for row in rows]
    assert len(values) == 5
    shown = f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"
    tokens = f"{np.mean([float(row['tokens']) for row in rows]):,.0f}"
    (line,) = [
        x for x in (drawn / "rl_methods.md").read_text().splitlines() if "| PPO" in x
    ]
    assert shown in line and tokens in line


def test_all_eight_methods_gain_in_every_seed():
    """What the docs say of them, from the runs themselves."""
    with (DATA / "rl_methods.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    base = float(rows[0]["equations/sampled"])
    gains = {}
    for row in rows[1:]:
        gain = float(row["equations/sampled"]) - base
        gains.setdefault(row["arm"], []).append(gain)
    assert gains.keys() == {
        *("grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "ppo", "luffy"),
        "shuffled",
    }
    assert all(len(x) == 5 for x in gains.values())
    assert max(gains.pop("shuffled")) < 0 < min(min(x) for x in gains.values())


def test_a_folder_without_the_studies_is_refused(tmp_path):
    script = ROOT / "paper_figs" / "rl.py"
    command = [sys.executable, str(script), str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "no table of rl_methods" in done.stderr
