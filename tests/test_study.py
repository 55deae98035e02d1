"""A study of two arms and two seeds, from the shipped base to its report."""

import json
import sys
from pathlib import Path

import pytest

from unipost import study as studies
from unipost.cli import main
from unipost.report import load_results
from unipost.runs import RunError
from unipost.study import load_study, run_study
from unipost.tree import ConfigError

EXPERIMENTS = Path(__file__).parents[1] / "experiments"

STUDY = f"""
name: small
claim: Two steps change something.
base: {EXPERIMENTS}/base
seeds: [0, 1]
rule: {{task: equations, metric: sampled}}
evaluation:
  distance: equations
  distance_items: 8
  rows: 16
  tasks:
    equations:
      path: {EXPERIMENTS}/data/equations_test.jsonl
      prompt_length: 16
      response_length: 12
      samples: 2
      pass_at: [2]
      limit: 16
    order:
      path: {EXPERIMENTS}/data/order_test.jsonl
      prompt_length: 16
      response_length: 15
      reward: exact
      role: retention
      limit: 16
common:
  steps: 2
  optimizer: {{name: adamw, learning_rate: 1e-4}}
  data:
    name: demonstrations
    path: {EXPERIMENTS}/data/equations_train.jsonl
    prompts: 8
    prompt_length: 16
    response_length: 12
arms:
  sft: {{title: SFT, objective: sft}}
  pearson: {{title: Pearson, objective: {{name: f_sft, divergence: pearson_chi2}}}}
comparisons:
  - [pearson, sft, "Pearson against SFT"]
"""

RECIPE = f"""
model: {{characters: "0123456789+-*/().=,#QS ", hidden_size: 16, intermediate_size: 16,
  num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8}}
data:
  name: demonstrations
  path: {EXPERIMENTS}/data/equations_valid.jsonl
  prompts: 4
  prompt_length: 16
  response_length: 12
objective: sft
optimizer: {{name: sgd, learning_rate: 0.1}}
steps: 2
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The study file and its run directory, made by the command line."""
    folder = tmp_path_factory.mktemp("study")
    file = folder / "small.yaml"
    file.write_text(STUDY)
    assert main(["run", str(file), "--out", str(folder / "out")]) == 0
    return file, folder / "out"


def test_everything_is_written(ran):
    _, out = ran
    results = load_results(out)
    assert results["study"] == "small" and results["seeds"] == [0, 1]
    assert set(results["arms"]) == {"sft", "pearson"}
    for name in ("sft", "pearson"):
        runs = results["arms"][name]["runs"]
        assert [run["seed"] for run in runs] == [0, 1]
        for run in runs:
            assert len(run["tasks"]["equations"]["greedy"]) == 16
            lengths = {"length", "length_wrong"}
            assert set(run["tasks"]["order"]) == {"greedy"} | lengths
            assert run["kl_reverse"] > 0 and sum(run["coefficient"]["count"]) > 0
            files = {f.name for f in (out / name / str(run["seed"])).iterdir()}
            assert {"config.yaml", "metrics.jsonl", "final", "result.json"} <= files
    assert results["base"]["kl_reverse"] == 0.0
    report = (out / "report.md").read_text()
    assert "Two steps change something." in report
    assert "Pearson against SFT" in report
    assert len(list(out.glob("*.png"))) == 3
    for figure in out.glob("*.png"):
        assert figure.stem in report


def test_the_second_run_trains_nothing(ran, monkeypatch):
    file, out = ran
    kept = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("result.json")}
    assert len(kept) == 4
    monkeypatch.setattr(studies, "train", None)
    assert main(["run", str(file), "--out", str(out)]) == 0
    for path, (time, content) in kept.items():
        assert (path.stat().st_mtime_ns, path.read_bytes()) == (time, content)


def test_a_lost_arm_alone_is_run_again_with_the_same_result(ran, monkeypatch):
    file, out = ran
    lost = out / "pearson" / "1" / "result.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    train, titles = studies.train, []

    def watched(*args, title, **kwargs):
        titles.append(title)
        return train(*args, title=title, **kwargs)

    monkeypatch.setattr(studies, "train", watched)
    run_study(load_study(file), out)
    assert titles == ["[4/4] pearson seed 1"]
    after = json.loads(lost.read_text())
    for result in (before, after):
        for key in ("train_seconds", "seconds"):
            result.pop(key)
    assert after == before


def test_other_settings_are_refused_in_the_same_folder(ran, capsys):
    file, out = ran
    assert main(["run", str(file), "--out", str(out), "common.steps=3"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{out}: holds a run with other settings (arms.sft.steps: 2 there" in error


def test_the_base_is_made_by_its_recipe_and_only_once(tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    start, end = STUDY.index("    order:"), STUDY.index("common:")
    text = STUDY[:start] + STUDY[end:]
    text = text.replace(f"base: {EXPERIMENTS}/base", "base: train")
    text = text.replace("seeds: [0, 1]", f"seeds: [0]\nrecipe: {tmp_path}/recipe.yaml")
    (tmp_path / "small.yaml").write_text(text)
    study = load_study(
        tmp_path / "small.yaml",
        [
            "arms={sft: {title: SFT, objective: sft}}",
            "comparisons=[]",
            "evaluation.distance=null",
        ],
    )
    out = tmp_path / "out"
    results = run_study(study, out)
    config = (out / "sft" / "0" / "config.yaml").read_text()
    assert config.startswith(f"model: {out}/base/final\n")
    assert len((out / "base" / "metrics.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(studies, "train", None)
    assert run_study(study, out)["arms"] == results["arms"]
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("steps: 2", "steps: 3"))
    with pytest.raises(RunError, match="base: holds a run with other .*steps: 2 there"):
        run_study(study, out)


def test_train_without_a_recipe_is_refused(ran, tmp_path):
    study = load_study(ran[0], ["base=train"])
    with pytest.raises(RunError, match="base: train, but the study has no recipe"):
        run_study(study, tmp_path / "out")


@pytest.mark.parametrize(
    "override, message",
    [
        ("rule.task=sums", "rule.task: 'sums' is no task; write one of equations"),
        ("rule.task=order", "rule.metric: sampled, but evaluation.tasks.order.samples"),
        ("seeds=[]", "seeds, arms: a study needs at least one of each"),
        ("comparisons=[[sft, dpo, x]]", r"comparisons: \['sft', 'dpo', 'x'\]; write"),
        ("arms.sft.objectve=dpo", "arms.sft.objectve: .*objective"),
        ("common.steps=many", "steps: .*many"),
        ("arms=3", "arms: write a mapping"),
    ],
)
def test_refused_studies(ran, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_study(ran[0], [override])
    assert "\n" not in str(caught.value)


OWN = """
import jax.numpy as jnp
import unipost

@unipost.part
class MyDivergence(unipost.Divergence):
    '''f(u) = u log u - u + 1, written anew.'''
    def f(self, log_u):
        return jnp.exp(log_u) * log_u - jnp.expm1(log_u)
    def f_prime(self, log_u):
        return log_u
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The dotted path of a divergence in a package of the user's."""
    package = tmp_path / "mypkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "mypkg.mine:MyDivergence"
    for name in ("mypkg", "mypkg.mine"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("preset", ["f_dpo", "f_sft"])
def test_a_divergence_of_ones_own_is_explained(preset, own, capsys):
    assert main(["explain", preset, f"divergence={own}"]) == 0
    assert "MyDivergence" in capsys.readouterr().out


def losses(out: Path) -> list[float]:
    text = (out / "metrics.jsonl").read_text()
    return [json.loads(line)["loss"] for line in text.splitlines()]


@pytest.mark.parametrize("preset", ["f_dpo", "f_sft"])
def test_a_divergence_of_ones_own_trains(preset, own, tmp_path, capsys):
    """Two steps give the losses of the same divergence out of the box."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(
            f'{{"prompt": "{i}+1=", "completion": "{i + 1}", '
            f'"chosen": "{i + 1}", "rejected": "{i}"}}\n'
            for i in range(8)
        )
    )
    kind = "preferences" if preset == "f_dpo" else "demonstrations"
    text = RECIPE.replace("demonstrations", kind)
    text = text.replace(f"{EXPERIMENTS}/data/equations_valid.jsonl", str(pairs))
    file = tmp_path / "run.yaml"
    file.write_text(text)
    found = []
    for divergence in (own, "reverse_kl"):
        out = tmp_path / divergence.replace(":", "-")
        objective = f"objective={{name: {preset}, divergence: '{divergence}'}}"
        assert main(["run", str(file), objective, "--out", str(out)]) == 0
        found.append(losses(out))
    capsys.readouterr()
    assert found[0] == pytest.approx(found[1], rel=1e-5) and len(found[0]) == 2
    assert found[0][0] != found[0][1]
    assert own in (tmp_path / "mypkg.mine-MyDivergence" / "config.yaml").read_text()
