"""Curves of the coefficient against closed forms, their plot, and the command."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from unipost import Penalty, presets
from unipost.cli import main
from unipost.explain import curves, plot_coefficient

GRPO, DPO = presets.grpo(), presets.dpo()


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def clipped(u, a):
    gone = (u > 1.2) if a > 0 else (u < 0.8)
    return np.where(gone, 0.0, a * u)


def gate(u, tau):
    return 4 * sigmoid(tau * (u - 1)) * sigmoid(-tau * (u - 1)) * u


# objective, what varies, and each line as a function of it: p, or a log-ratio d
CURVES = {
    "sft": (presets.sft(), "probability", {"demonstration": lambda p: 0 * p + 1}),
    "dft": (presets.dft(), "probability", {"demonstration": lambda p: p}),
    "alpha_sft": (
        *(presets.alpha_sft(0.3), "probability"),
        {"demonstration": lambda p: p**0.3},
    ),
    "grpo": (
        *(GRPO, "old"),
        {
            "A = 1": lambda d: clipped(np.exp(d), 1.0),
            "A = -1": lambda d: clipped(np.exp(d), -1.0),
        },
    ),
    "grpo's KL": (
        *(GRPO, "reference"),
        {
            "A = 1": lambda d: 1 + 0.04 * (np.exp(-d) - 1),
            "A = -1": lambda d: -1 + 0.04 * (np.exp(-d) - 1),
        },
    ),
    "cispo": (
        *(presets.cispo(), "old"),
        {"A = 1": lambda d: np.minimum(np.exp(d), 1.28)},
    ),
    "sapo": (
        *(presets.sapo(), "old"),
        {
            "A = 1": lambda d: gate(np.exp(d), 1.0),
            "A = -1": lambda d: -gate(np.exp(d), 1.05),
        },
    ),
    "tis": (
        *(presets.tis(), "behavior"),
        {"A = -1": lambda d: -np.minimum(np.exp(d), 2.0)},
    ),
    "luffy": (
        *(presets.luffy(9.0), "probability"),
        {
            "A = 1": lambda p: 0 * p + 1,
            "A = 1, off-policy row": lambda p: 0.1 * p / (p + 0.1) ** 2,
        },
    ),
    "dpo": (
        *(DPO, "reference"),
        {
            "chosen": lambda d: 0.1 * sigmoid(-0.1 * d),
            "rejected": lambda d: -0.1 * sigmoid(0.1 * d),
        },
    ),
    "simpo": (
        *(presets.simpo(), "probability"),
        {"chosen": lambda p: 2 * sigmoid(1 - 2 * (np.log(p) - np.log(0.3)))},
    ),
    "kto": (
        *(presets.kto(), "reference"),
        {"A = 1": lambda d: 0.1 * sigmoid(0.1 * d) * sigmoid(-0.1 * d)},
    ),
    "opmd": (
        *(presets.opmd(), "old"),
        {"A = -1": lambda d: 0.5 * (-1 - 0.5 * d)},
    ),
    "gem": (
        *(presets.gem(), "probability"),
        {"the token": lambda p: 1 / (1 + (p / (1 - p)) ** (1 / 0.7))},
    ),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_are_the_closed_forms(name):
    objective, over, lines = CURVES[name]
    (panel,) = [one for one in curves(objective) if one.over == over]
    for label, closed in lines.items():
        want = closed(panel.x)
        np.testing.assert_allclose(panel.lines[label], want, rtol=1e-9, atol=1e-12)


def test_curves_name_what_varies():
    assert [one.over for one in curves(presets.tis())] == [
        "probability",
        "old",
        "behavior",
    ]
    assert [one.over for one in curves(presets.rloo())] == ["probability"]
    with pytest.raises(ValueError, match="goes through the whole vocabulary"):
        curves(replace(GRPO, penalty=Penalty(0.1, estimator="exact")))


def test_the_plot_is_drawn(tmp_path):
    path = tmp_path / "grpo.png"
    plot_coefficient(GRPO, path)
    image = imread(path)[..., :3]
    assert image.shape[1] > image.shape[0] > 400
    colors = np.round(image.reshape(-1, 3), 2)
    for wanted in ((0.0, 0.45, 0.7), (0.84, 0.37, 0.0)):  # the lines of both signs
        assert (np.abs(colors - wanted) < 0.02).all(-1).sum() > 500


def test_matplotlib_is_imported_for_a_plot_alone():
    code = "import sys, unipost.explain; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


OWN = """
import unipost

def mine(beta: float = 0.3) -> unipost.Objective:
    \"\"\"My objective: SFT times beta.\"\"\"
    return unipost.Objective(beta=beta)

other = mine(0.7)
"""


def test_the_command_explains_presets_aliases_and_ones_own(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "mine_explain.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    for what, wanted in {
        "grpo kl=0.1": ("GRPO: L = ", "equal: grpo(kl=0.1)"),
        "orpo weight=0.3": ("w_1 = 0.3", "equal: orpo(weight=0.3)"),
        "gem": ("1{k = y} - q_k",),
        "trl.dpo beta=0.2": ("z = 0.2 log u", "equal: dpo(beta=0.2), where no row"),
        "verl.policy_loss": ("dual", "link.dual None -> 3"),
        "mine_explain:mine beta=0.5": ("My objective: ", "0.5 log pi"),
        "mine_explain:other": ("0.7 log pi",),
        "dpo --latex": (r"\begin{aligned}", r"\log \sigma\left(m\right)"),
    }.items():
        assert main(["explain", *what.split()]) == 0
        text = capsys.readouterr().out
        assert all(piece in text for piece in wanted), text
        assert "latex" in what or max(map(len, text.splitlines())) <= 100


def test_the_command_draws(tmp_path, capsys):
    path = tmp_path / "sft.png"
    assert main(["explain", "sft", "--plot", str(path)]) == 0
    assert path.stat().st_size > 5000
    assert main(["explain", "trl.dpoo"]) == 2
    assert "did you mean 'dpo'" in capsys.readouterr().err
    assert main(["explain", "trl.reward"]) == 2
