"""The config loader's refusals, word for word: one line with file, key and remedy."""

import subprocess
import sys
from pathlib import Path

import pytest
from config_schema import (
    REGISTRIES,
    Experiment,
    refusal,
    write,
)

from unipost import config
from unipost.config import load, load_tree

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for kind, registry in REGISTRIES.items():
        monkeypatch.setitem(config.CHOICES, kind, registry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


BROKEN = [
    (
        "objective: {name: dpo, betta: 0.1}",
        "x.yaml: objective.betta: unknown 'betta'; did you mean 'beta'? "
        "(dpo takes beta, divergence; "
        "fields of custom: ruler, clip, level, penalties, either)",
    ),
    (
        "objective: {name: dpo, divergence: plane}",
        "x.yaml: objective.divergence: unknown 'plane'; did you mean 'plain'? "
        "(one of plain, other, family, doubled; or your own as module:name)",
    ),
    (
        "objective: {name: dpo, divergence: {name: plain, a: 0.1}}",
        "x.yaml: objective.divergence.a: unknown 'a' (plain takes nothing)",
    ),
    (
        "objective: {name: dpo, divergence: {name: family}}",
        "x.yaml: objective.divergence: missing 'a' (family takes a)",
    ),
    (
        "objective: {name: dpo, divergence: {name: family, A: 0.1}}",
        "x.yaml: objective.divergence.A: unknown 'A' (family takes a)",
    ),
    (
        "objective: {name: dpo, divergence: {name: family, a: 2}}",
        "x.yaml: objective.divergence: family.a: 2 must be below 1; write plain",
    ),
    (
        "objective: {name: grpo, ruler: {a: 2}}",
        "x.yaml: objective.ruler: family.a: 2 must be below 1; write plain",
    ),
    (
        "objective: {name: grpo, clip: {lo: 2}}",
        "x.yaml: objective.clip.lo: unknown 'lo'; did you mean 'low'? "
        "(Clip takes low, high, cap)",
    ),
    (
        "objective: {name: dpo, beta: strong}",
        "x.yaml: objective.beta: expected a number, got 'strong'",
    ),
    (
        "objective: {name: dpo, beta: true}",
        "x.yaml: objective.beta: expected a number, got True",
    ),
    (
        "objective: {name: dpo, beta: [1]}",
        "x.yaml: objective.beta: expected a number, got a list",
    ),
    (
        "objective: {name: dpo, beta: null}",
        "x.yaml: objective.beta: expected a number, got nothing",
    ),
    (
        "objective: {name: dpo, level: tokn}",
        "x.yaml: objective.level: unknown 'tokn'; did you mean 'token'? "
        "(one of token, sequence)",
    ),
    (
        "objective: {name: dpo, either: wrong}",
        "x.yaml: objective.either: unknown 'wrong' "
        "(one of left, right; or your own as module:name)",
    ),
    (
        "objective: {name: dpo, either: 'fractions:Fraction'}",
        "x.yaml: objective.either: "
        "'fractions:Fraction' is not a LeftRuler | RightRuler",
    ),
    (
        "objective: {beta: 0.1}",
        "x.yaml: objective: needs a 'name' "
        "(one of dpo, grpo, custom; or your own as module:name)",
    ),
    (
        "objective: 3",
        "x.yaml: objective: expected a name, or a mapping with 'name', got 3 "
        "(one of dpo, grpo, custom; or your own as module:name)",
    ),
    (
        "steps: 2",
        "x.yaml: missing 'objective' (Experiment takes objective, steps, "
        "rate, name, data, reward, shape, groups, warm, clip, window, extra)",
    ),
    (
        "objectve: dpo",
        "x.yaml: objectve: unknown 'objectve'; did you mean 'objective'? "
        "(Experiment takes objective, steps, rate, name, data, reward, shape, "
        "groups, warm, clip, window, extra)",
    ),
    (
        "objective: dpo\nsteps: 2.5",
        "x.yaml: steps: expected a whole number, got 2.5",
    ),
    (
        "objective: dpo\nsteps: true",
        "x.yaml: steps: expected a whole number, got True",
    ),
    ("objective: dpo\nname: 3", "x.yaml: name: expected text, got 3"),
    ("objective: dpo\nwarm: yes", "x.yaml: warm: expected true or false, got 'yes'"),
    ("objective: dpo\ndata: [a]", "x.yaml: data: expected a path, got a list"),
    (
        "objective: dpo\nclip: tight",
        "x.yaml: clip: expected a mapping, got 'tight' (Clip takes low, high, cap)",
    ),
    ("objective: dpo\nshape: 3", "x.yaml: shape: expected a list, got 3"),
    ("objective: dpo\nshape: [3]", "x.yaml: shape: expected a list of 2, got 1"),
    (
        "objective: dpo\nshape: [3, a]",
        "x.yaml: shape.1: expected a whole number, got 'a'",
    ),
    (
        "objective: dpo\ngroups: [math]",
        "x.yaml: groups: expected a mapping, got a list",
    ),
    (
        "objective: dpo\nwindow: al",
        "x.yaml: window: expected a whole number, got 'al', or "
        "unknown 'al'; did you mean 'all'? (one of all)",
    ),
    (
        "objective: dpo\nreward: {name: numeric, response: a}",
        "x.yaml: reward.response: unknown 'response' (numeric takes tolerance)",
    ),
    (
        "objective: dpo\nsteps: 2\nsteps: 3",
        "x.yaml: line 3: not valid YAML: 'steps' is given twice",
    ),
    (
        "objective:\n  name: dpo\n  1: a",
        "x.yaml: line 3: not valid YAML: the key 1 is not text; put it in quotes",
    ),
    (
        "objective: dpo\nsteps: a: b",
        "x.yaml: line 2: not valid YAML: mapping values are not allowed here",
    ),
    ("- dpo", "x.yaml: expected a mapping of keys to values"),
    ("", "x.yaml: expected a mapping of keys to values"),
    ("extends: 3", "x.yaml: extends: expected a file name, got 3"),
    ("extends: ./x.yaml", "x.yaml: extends: './x.yaml' leads back to this file"),
    (
        "extends: gone.yaml",
        "gone.yaml: cannot be read: No such file or directory (extended by x.yaml)",
    ),
]


@pytest.mark.parametrize("text, expected", BROKEN)
def test_refusals(folder, text, expected):
    assert refusal(load, Experiment, write(folder, text)) == expected


OVERRIDES = [
    ("beta", "command line: 'beta' is not key=value (for example objective.beta=0.1)"),
    (
        "a..b=1",
        "command line: 'a..b=1' is not key=value (for example objective.beta=0.1)",
    ),
    ("steps=many", "command line: steps: expected a whole number, got 'many'"),
    (
        "steps=[1",
        "command line: steps: not valid YAML: "
        "expected ',' or ']', but got '<stream end>'",
    ),
    (
        "objective.betta=1",
        "command line: objective.betta: unknown 'betta'; "
        "did you mean 'beta'? (dpo takes beta, divergence; "
        "fields of custom: ruler, clip, level, penalties, either)",
    ),
    (
        "objective.divergence=family",
        "command line: objective.divergence: missing 'a' (family takes a)",
    ),
]


@pytest.mark.parametrize("override, expected", OVERRIDES)
def test_refused_overrides_name_the_command_line(folder, override, expected):
    file = write(folder, "objective: {name: dpo, beta: 0.1}")
    assert refusal(load, Experiment, file, [override]) == expected


def test_a_key_written_nowhere_is_missing_from_the_file(folder):
    message = refusal(load, Experiment, write(folder, "steps: 2"), ["rate=1"])
    assert message.startswith("x.yaml: missing 'objective' (Experiment takes ")


def test_the_file_named_is_the_one_that_holds_the_key(folder):
    write(folder, "objective: {name: dpo, beta: high}\nsteps: 3\n", "base.yaml")
    file = write(folder, "extends: base.yaml\nrate: fast\n")
    fast = "x.yaml: rate: expected a number, got 'fast'"
    high = "base.yaml: objective.beta: expected a number, got 'high'"
    assert refusal(load, Experiment, file, ["objective.beta=1"]) == fast
    assert refusal(load, Experiment, file, ["rate=1"]) == high


def test_a_longer_cycle_and_text_that_is_not_utf8(folder):
    write(folder, "extends: b.yaml", "a.yaml")
    write(folder, "extends: a.yaml", "b.yaml")
    message = "b.yaml: extends: 'a.yaml' leads back to this file"
    assert refusal(load_tree, "a.yaml") == message
    (folder / "c.yaml").write_bytes(b"name: \xff\n")
    assert refusal(load_tree, "c.yaml") == "c.yaml: is not UTF-8 text"


def test_config_needs_no_accelerator_library():
    code = (
        "import sys, unipost.config, unipost.data, unipost.rewards, unipost.evaluate;"
        "heavy = {'datasets', 'transformers', 'torch', 'pyarrow'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
