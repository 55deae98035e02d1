"""README and experiments say what is true: tables, commands, code blocks, files."""

import json
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
import yaml

from unipost.adapters import LoRA
from unipost.cli import main
from unipost.config import load
from unipost.mesh import Mesh
from unipost.train import Experiment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


def blocks(language):
    """The contents of the fenced blocks of one language ("" for none)."""
    found, inside, content = [], None, []
    for line in README.splitlines(keepends=True):
        if not line.startswith("```"):
            content.append(line)
        elif inside is None:
            inside, content = line[3:].strip(), []
        else:
            if inside == language:
                found.append("".join(content))
            inside = None
    return found


def test_generated_parts_are_up_to_date():
    sys.path.insert(0, str(ROOT / "docs"))
    from make_readme import render

    assert render(README) == README, "run python docs/make_readme.py"


def test_exactly_two_commands_set_up_a_fresh_machine():
    fresh = [b for b in blocks("bash") if "python3 -m venv" in b]
    assert len(fresh) == 2
    assert "unipost run experiments/quickstart.yaml" in fresh[0]
    assert "pytest" in fresh[1]


def test_the_three_lines_run():
    logps = jnp.log(jnp.array([[[0.2, 0.5], [0.1, 0.4]]]))
    names = {
        "mask": jnp.ones((1, 2, 2)),
        "reference_logps": logps - 0.1,
        "logps": logps,
    }
    (code,) = [b for b in blocks("python") if "value_and_grad" in b]
    exec(code, names)
    assert float(names["loss"]) == pytest.approx(0.6931, abs=1e-3)
    assert names["grad"].shape == (1, 2, 2)


def test_the_aliases_run():
    (code,) = [b for b in blocks("python") if "unipost.trl.dpo" in b]
    exec(code, {})
    cases = sum(
        len(json.loads(file.read_text())["cases"])
        for file in (ROOT / "tests" / "fixtures" / "cases").glob("*.json")
    )
    assert f"[{cases} recorded" in README.replace("\n", " ")


def test_the_divergence_of_the_readme_works_by_dotted_path(
    tmp_path, monkeypatch, capsys
):
    (code,) = [b for b in blocks("python") if "class LeCam" in b]
    assert len(code.strip().splitlines()) <= 14
    (tmp_path / "mine_readme.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["explain", "f_sft", "divergence=mine_readme:LeCam"]) == 0
    assert "LeCam" in capsys.readouterr().out


def test_the_refusal_shown_is_the_one_printed(capsys):
    (shown,) = [b for b in blocks("") if "unipost: command line" in b]
    command, printed = shown.strip().split("\n", 1)
    assert main(command.split()[2:]) == 2
    assert capsys.readouterr().err.split() == printed.split()


def test_yaml_of_the_readme_builds(monkeypatch):
    monkeypatch.chdir(ROOT)
    text, checkpoint, pod = blocks("yaml")
    mesh = [f"mesh={json.dumps(yaml.safe_load(pod)['mesh'])}"]
    found = load(Experiment, "experiments/dpo.yaml", mesh).mesh
    assert found == Mesh(fsdp=4, tensor=2)
    settings = yaml.safe_load(checkpoint).items()
    changes = [f"{key}={json.dumps(value)}" for key, value in settings]
    assert load(Experiment, "experiments/dpo.yaml", changes).lora == LoRA(16)
    files = {"f_dpo": "dpo", "f_sft": "sft", "grpo": "grpo"}
    for line in text.strip().splitlines():
        value = line.split("#")[0].strip().removeprefix("objective: ")
        preset = value.split("name: ")[1].split(",")[0]
        file = f"experiments/{files[preset]}.yaml"
        load(Experiment, file, [f"objective={value}"])


def test_shipped_data_is_what_the_study_says():
    sizes = {
        "equations_test": 1355,
        "equations_train": 2890,
        "equations_valid": 617,
        "order_test": 464,
        "recall": 512,
    }
    folder = ROOT / "experiments" / "data"
    for name, size in sizes.items():
        assert len((folder / f"{name}.jsonl").read_text().splitlines()) == size
    assert (folder / "LICENSE").exists()
    train = (folder / "equations_train.jsonl").read_text()
    prompts = set(re.findall(r'"prompt":"([^"]*)"', train))
    for other in ("equations_test", "equations_valid", "base_right"):
        text = (folder / f"{other}.jsonl").read_text()
        assert not prompts & set(re.findall(r'"prompt":"([^"]*)"', text)), other
    assert sum(f.stat().st_size for f in (ROOT / "experiments/base").iterdir()) < 1e6
