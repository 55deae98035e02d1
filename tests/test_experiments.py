"""The experiment files: each can be read, and the recipe for GSM8K runs."""

import json
from pathlib import Path

import pytest
from tiny_runs import lines

from unipost.cli import main
from unipost.config import load
from unipost.experiment import Experiment
from unipost.pipeline import is_pipeline, load_pipeline
from unipost.study import is_study, load_study
from unipost.test_time.settings import BestOf
from unipost.tree import load_tree

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").glob("*.yaml"))
TINY = str(ROOT / "tests" / "fixtures" / "hf_models" / "tiny_qwen2_policy")
SMALL = [
    "steps=2",
    "data.prompts=2",
    "data.group=4",
    "data.prompt_length=200",
    "data.sampling.max_tokens=16",
    "microbatches=2",
    "checkpoints.every=1",
    "completions.every=2",
    "compute={dtype: float32, remat: none}",
    "evaluation.tasks.gsm8k.prompt_length=200",
    "evaluation.tasks.gsm8k.response_length=16",
    "evaluation.tasks.gsm8k.limit=30",
    "evaluation.rows=32",
]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_file_can_be_read(file, monkeypatch):
    """Read as the command would; paths in them are relative to the checkout."""
    monkeypatch.chdir(ROOT)
    tree = load_tree(file)
    if is_study(tree):
        study = load_study(file)
        # a study that no arm can fail tests nothing
        failing = {"fail"} & {arm.expected for arm in study.arms.values()}
        assert failing or study.comparisons
    elif is_pipeline(tree):
        assert load_pipeline(file).stages
    elif "scores" in tree:  # what `unipost best-of` reads
        assert load(BestOf, file).scores
    else:
        needed = [] if "model" in tree or "extends" in tree else [f"model={TINY}"]
        assert load(Experiment, file, needed).steps > 0


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_file_says_what_it_is_for(file):
    """The claim or the purpose, and the command that runs it, before anything else."""
    text = file.read_text()
    head = text[: text.index("\n", text.rindex("\n#") + 1)] if "\n#" in text else text
    assert text.startswith("# ")
    assert f"unipost run experiments/{file.name}" in head or "unipost " in head


@pytest.mark.filterwarnings("ignore:dropped:UserWarning")
@pytest.mark.parametrize("kind", ["adapter", "whole"])
def test_the_recipe_for_gsm8k_runs_on_a_local_checkpoint(
    kind, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    extra = [] if kind == "adapter" else ["lora=null"]
    command = ["run", "experiments/gsm8k_grpo.yaml", "--model", TINY, *SMALL, *extra]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert "2 steps" in capsys.readouterr().out
    steps = lines(tmp_path / "run")
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        assert {"reward/accuracy", "reward/format", "truncated", "entropy"} <= {*step}
        assert step["unscored"] == 0.0
    # the sampler's log-probs are the trainer's, and the first ratio is 1
    assert steps[0]["sampler_gap"] < 1e-4
    assert steps[0]["ratio_min"] == steps[0]["ratio_max"] == 1.0
    assert steps[0]["k3_reference"] < 1e-10
    evaluated = json.loads((tmp_path / "run" / "evaluation.jsonl").read_text())
    assert evaluated["step"] == 2 and 0.0 <= evaluated["gsm8k/greedy"] <= 1.0
    names = {path.name for path in (tmp_path / "run" / "final").iterdir()}
    weights = "adapter_model" if kind == "adapter" else "model"
    assert f"{weights}.safetensors" in names
