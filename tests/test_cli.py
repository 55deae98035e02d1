"""The command line in-process: exit codes, one-line errors, what is printed."""

import json
import re
from pathlib import Path

import pytest

from unipost.cli import main
from unipost.presets import PRESETS

EXPERIMENTS = Path(__file__).parents[1] / "experiments"

RUN = f"""
model: {EXPERIMENTS}/base
data:
  name: rollouts
  path: {EXPERIMENTS}/data/equations_train.jsonl
  prompts: 4
  prompt_length: 16
  group: 2
  sampling: {{max_tokens: 12}}
objective: grpo
optimizer: {{name: adamw, learning_rate: 1e-4}}
steps: 2
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
      limit: 16
"""


@pytest.fixture
def file(tmp_path):
    """An experiment of two steps from the shipped base."""
    path = tmp_path / "small.yaml"
    path.write_text(RUN)
    return str(path)


def error_of(capsys, *arguments) -> str:
    """The one line that a refused command prints."""
    assert main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("unipost: ")
    return captured.err


def test_list_names_every_kind(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    parts = ("truncate", "geometric_clip", "stale_mask", "mismatched_mean", "shifted")
    parts += ("hinge", "labelled", "distillation", "standardised", "estimators")
    parts += ("jensen_shannon", "adamw", "rollouts", "numeric", "exact_")
    for name in (*PRESETS, *parts):
        assert f"{name}" in text.replace("exact", "exact_"), name
    assert main(["list", "presets"]) == 0
    short = capsys.readouterr().out
    assert short in text and "rollouts" not in short


def test_list_refuses_an_unknown_kind(capsys):
    assert "no kind 'preset'; did you mean 'presets'? (presets, " in error_of(
        capsys, "list", "preset"
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_explain_says_something_of_every_preset(preset, capsys):
    needs = {"f_sft": "divergence=pearson_chi2", "f_dpo": "divergence=jensen_shannon"}
    long = ("dr_grpo", "luffy", "rl_sft", "srft", "hpt")
    needs |= dict.fromkeys(long, "max_length=12")
    extra = [needs[preset]] if preset in needs else []
    assert main(["explain", preset, *extra]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 4


def test_explain_reads_overrides_and_files(file, capsys):
    assert main(["explain", "dpo", "beta=0.7"]) == 0
    assert "0.7" in capsys.readouterr().out
    assert main(["explain", file]) == 0
    grpo = capsys.readouterr().out
    assert main(["explain", file, "objective=sft"]) == 0
    assert capsys.readouterr().out != grpo
    assert main(["explain", str(EXPERIMENTS / "quickstart.yaml")]) == 0
    text = capsys.readouterr().out
    assert all(f"{arm}\n" in text for arm in ("sft_own", "f_dpo_js", "luffy"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("explain", "dpoo"), "'dpoo'.*did you mean.*dpo"),
        (("explain", "dpo", "bta=0.1"), "command line: bta: .*did you mean.*beta"),
        (("explain", "f_dpo"), "missing 'divergence'"),
        (("explain", "f_dpo", "divergence=nowhere.at:all"), "cannot import 'nowhere"),
        (("explain", "no.yaml"), "no.yaml: cannot be read: No such file"),
        (("run", "no.yaml"), "no.yaml: cannot be read: No such file"),
        (("eval", "nowhere", "no.yaml"), "no.yaml: cannot be read: No such file"),
    ],
)
def test_wrong_words_are_one_line(arguments, message, capsys):
    error = error_of(capsys, *arguments)
    assert re.search(message, error, re.IGNORECASE), error


@pytest.mark.parametrize(
    "override, message",
    [
        ("objective=grop", "objective: .*did you mean.*grpo"),
        ("optimizer.learnin_rate=1", "optimizer.learnin_rate: .*learning_rate"),
        ("data.path=nothing.jsonl", "nothing.jsonl"),
        ("model=nowhere", "nowhere"),
        ("steps=0", "steps: 0; write 1 or more"),
        ("microbatches=3", "data.prompts: 4 do not divide"),
        ("checkpoints.every=0", "checkpoints.every: 0; write 1 or more"),
    ],
)
def test_wrong_settings_are_one_line(override, message, file, tmp_path, capsys):
    error = error_of(capsys, "run", file, "--out", tmp_path / "out", override)
    assert re.search(message, error, re.IGNORECASE), error


def test_rows_that_do_not_fit_are_listed_by_line(file, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["run", file, "--out", out, "data.prompt_length=2"]) == 2
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("unipost: 2890 of 2890 rows")
    assert "equations_train.jsonl:1: the prompt has 6 tokens" in second


@pytest.mark.parametrize(
    "arguments", [["run"], ["fly"], [], ["run", "x.yaml", "--fast"], ["list", "a", "b"]]
)
def test_wrong_usage_exits_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: unipost" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [[], ["run"], ["explain"], ["list"], ["eval"]])
def test_help_shows_a_command(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*verb, "--help"])
    assert caught.value.code == 0
    name = " ".join(["unipost", *verb])
    text = capsys.readouterr().out
    assert f"\n  {name} " in text or f"\n  {name}\n" in text


def test_traceback_is_for_those_who_ask(capsys):
    with pytest.raises(ValueError, match="no kind"):
        main(["--traceback", "list", "nothing"])


def test_an_experiment_runs_with_overrides_on_both_sides(file, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["run", file, "seed=3", "--out", str(out), "optimizer.learning_rate=2e-4"]
    assert main(command) == 0
    assert f"{out}: 2 steps" in capsys.readouterr().out
    config = (out / "config.yaml").read_text()
    assert "\nseed: 3\n" in config and "learning_rate: 0.0002" in config
    last = json.loads((out / "evaluation.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2 and last["kl_reverse"] > 0
    assert main(["eval", str(out / "final"), file, "--seed", "3"]) == 0
    bare = json.loads(capsys.readouterr().out)
    assert bare["equations/greedy"] == last["equations/greedy"]
    assert "kl_reverse" not in bare
    reference = ["--reference", str(EXPERIMENTS / "base")]
    command = ["eval", str(out / "final"), file, *reference, "--seed=3"]
    assert main([*command, "evaluation.distance_items=8"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers == {k: v for k, v in last.items() if k != "step"}


def test_eval_needs_tasks(file, tmp_path, capsys):
    text = Path(file).read_text().split("evaluation:")[0]
    Path(file).write_text(text)
    error = error_of(capsys, "eval", EXPERIMENTS / "base", file)
    assert "small.yaml: evaluation: missing; write its tasks" in error
