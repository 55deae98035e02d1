"""Sweep files: combinations, names, every experiment made, shards, and the plan."""

import json
import re
from pathlib import Path

import pytest
from tiny_sweep import BASE, RATE, SWEEP, write_sweep

from unipost.config import load, to_tree
from unipost.experiment import Experiment
from unipost.sweep.grid import combinations, short_keys
from unipost.sweep.plan import Shard, make_plan, plan_text
from unipost.sweep.record import Folders, check_files
from unipost.sweep.settings import load_sweep
from unipost.tree import ConfigError
from unipost.vectorised import split

ROOT = Path(__file__).parents[1]
ABLATIONS = sorted((ROOT / "experiments" / "ablations").glob("*.yaml"))


@pytest.fixture
def file(tmp_path):
    return write_sweep(tmp_path)


def test_a_grid_is_a_product_in_its_own_order():
    found = combinations({"a.x": [1, 2], "b": {"c": [0.5, 1e-5]}, "d": "one"})
    assert [x.values for x in found] == [
        {"a.x": x, "b.c": c, "d": "one"} for x in (1, 2) for c in (0.5, 1e-5)
    ]
    assert [x.name for x in found][:2] == ["x=1,c=0.5,d=one", "x=1,c=1e-05,d=one"]


def test_grids_in_a_list_stand_side_by_side():
    found = combinations([{}, {"a": [1, 2]}, {"b": 3}])
    assert [x.name for x in found] == ["base", "a=1", "a=2", "b=3"]


def test_names_are_folders_and_differ():
    values = ["m:F/x y", {"name": "alpha", "a": 0.5}, {"low": 1, "high": [2, 3]}]
    values += [None, True, "true", "x" * 300, "x" * 301]
    found = combinations({"part": values})
    names = [x.name for x in found]
    assert len({*names}) == len(values)
    assert all(re.fullmatch(r"[A-Za-z0-9._=,+-]{1,120}", name) for name in names)
    assert names[:3] == ["part=m_F_x_y", "part=alpha-a=0.5", "part=low=1+high=2+3"]


def test_short_keys_tell_keys_apart():
    keys = ["objective.link.low", "objective.signal.low", "steps", "data.0.steps"]
    shown = short_keys(keys)
    assert shown["objective.link.low"] == "link.low"
    assert shown["objective.signal.low"] == "signal.low"
    assert shown["data.0.steps"] == "0.steps" and shown["steps"] == "steps"


def test_every_run_is_what_the_command_line_would_make(file):
    """By another way: `unipost run base.yaml KEY=VALUE ...`, through the loader."""
    sweep = load_sweep(file)
    assert len(sweep.runs) == 8
    for run in sweep.runs:
        given = [f"{k}={json.dumps(v)}" for k, v in run.combination.values.items()]
        base = file.parent / "base.yaml"
        alone = load(Experiment, base, [*given, f"seed={run.seed}"])
        assert to_tree(run.experiment) == to_tree(alone)


def test_overrides_change_the_file(file):
    given = ["base.steps=7", "seeds=[4]", f"grid.{RATE}=[0.5]", "metrics=[loss]"]
    sweep = load_sweep(file, given)
    assert [run.name for run in sweep.runs] == [
        "learning_rate=0.5,objective=sft/4",
        "learning_rate=0.5,objective=f_sft-divergence=pearson_chi2/4",
    ]
    assert {run.experiment.steps for run in sweep.runs} == {7}
    assert sweep.settings.metrics == ("loss",)


def test_the_base_may_be_written_in_the_sweep(file):
    whole = load_sweep(file)
    file.write_text(SWEEP.replace("base: base.yaml", "base: {extends: base.yaml}"))
    assert [r.config for r in load_sweep(file).runs] == [r.config for r in whole.runs]
    inline = BASE.replace("\n", "\n  ")
    inline = inline.replace("PATH", str(file.parent / "sums.jsonl"))
    file.write_text(SWEEP.replace("base: base.yaml", f"base:{inline}"))
    assert [r.config for r in load_sweep(file).runs] == [r.config for r in whole.runs]


def test_without_seeds_the_base_has_its_own(file):
    file.write_text(SWEEP.replace("seeds: [0, 1]", ""))
    assert {run.seed for run in load_sweep(file, ["base.seed=6"]).runs} == {6}


@pytest.mark.parametrize(
    "override, message",
    [
        ("steps=3", "command line: steps: no key of a sweep .*write base.steps"),
        ("base.stps=3", "combination .*sft: stps: unknown 'stps'; did you mean"),
        (f"grid.{RATE}=[-1]", "learning_rate=-1,objective=sft: optimizer"),
        (f"grid.{RATE}=[]", f"grid.{RATE}: no values"),
        (f"grid.{RATE}=[1.0e-2, 1e-2]", "0.01 is there twice"),
        ("grid.seed=[1]", "grid.seed: write seeds"),
        ("grid=[{}, {steps: 3}]", "base and steps=3 are the same experiment"),
        ("grid=[]", "grid: empty"),
        ("grid=4", "grid: 4 is no mapping"),
        ("seeds=[1, 1]", "seeds: .* write different numbers"),
        ("base=nowhere.yaml", "nowhere.yaml: cannot be read"),
        ("base=4", "base: expected a mapping, got 4"),
        ("skip=[{when: {steps: 9}, reason: x}]", "skip.0: .*fits no combination"),
        ("skip=[{when: {steps: 9}, reason: ''}]", "skip.0: write when"),
    ],
)
def test_wrong_files_are_refused_in_one_line(file, override, message):
    with pytest.raises(ConfigError, match=message) as found:
        load_sweep(file, [override])
    assert "\n" not in str(found.value)


def test_an_invalid_combination_has_to_be_named(file):
    """A grid with a point that is no experiment runs only where `skip` says why."""
    file.write_text(SWEEP.replace("seeds:", "  minibatches: [1, 3]\nseeds:"))
    with pytest.raises(ConfigError, match="minibatches=3.*do not divide"):
        load_sweep(file)
    skip = "skip=[{when: {minibatches: 3}, reason: four prompts}]"
    sweep = load_sweep(file, [skip])
    assert len(sweep.runs) == 8 and len(sweep.skipped) == 4
    assert {reason for _, reason in sweep.skipped} == {"four prompts"}
    with pytest.raises(ConfigError, match="skip: leaves no combination"):
        load_sweep(
            file,
            [skip.replace("minibatches: 3", f"{RATE}: 1.0e-3"), f"grid.{RATE}=[1e-3]"],
        )


def test_sampled_rows_keep_their_reference_by_seed(file):
    given = [
        "base.objective=dpo",
        "grid=[{objective.beta: [0.1, 0.2]}]",
        "base.reference_cache=kept",
        "base.data={name: sampled_preferences, group: 2, sampling: {max_tokens: 3}, "
        f"path: {file.parent}/sums.jsonl, prompts: 4, prompt_length: 4}}",
    ]
    places = [run.experiment.reference_cache for run in load_sweep(file, given).runs]
    assert places == ["kept/0", "kept/1"] * 2


@pytest.mark.parametrize("size", [1, 2, 5, 12, 48])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_shards_are_a_partition(size, count):
    items = [*range(size)]
    parts = [Shard(i, count).of(items) for i in range(1, count + 1)]
    assert [x for part in parts for x in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "a/b", "-1/2", "1/0"])
def test_wrong_shards_are_refused(text):
    with pytest.raises(ValueError, match=f"--shard {text}: "):
        Shard.parse(text)
    assert Shard.parse("2/4") == Shard(2, 4)


def test_runs_that_differ_in_numbers_alone_are_one_program(file, tmp_path):
    """By rate and seed they are one; another divergence is another program."""
    sweep, folders = load_sweep(file), Folders(tmp_path / "out")
    plan = make_plan(sweep, Shard(), folders, "together")
    names = [[run.name for run in unit.runs] for unit in plan.units]
    kinds = "sft", "f_sft-divergence=pearson_chi2"
    assert names == [
        [
            f"learning_rate={x},objective={kind}/{seed}"
            for x in (0.001, 0.01)
            for seed in (0, 1)
        ]
        for kind in kinds
    ]
    assert plan.alone == {}
    text = plan_text(sweep, Shard(), plan, folders)
    assert text.startswith(f"{file}: 4 combinations x 2 seeds = 8 runs\n")
    assert text.count("together  4 as one program: learning_rate=0.001") == 2
    # a part of the sweep goes together as far as it can
    plan = make_plan(sweep, Shard(2, 3), folders, "together")
    assert [len(unit.runs) for unit in plan.units] == [2, 1]
    assert [*plan.alone] == ["no other run has the same program"]
    # each of three processes has a part of them
    plan = make_plan(sweep, Shard(), folders, "together", 3)
    assert [len(unit.runs) for unit in plan.units] == [2, 2, 2, 2]
    assert len({run for unit in plan.units for run in unit.runs}) == 8
    plan = make_plan(sweep, Shard(), folders, "separate")
    assert [len(unit.runs) for unit in plan.units] == [1] * 8


def test_the_plan_says_why_runs_are_alone(file, tmp_path):
    sweep, folders = load_sweep(file, ["base.microbatches=2"]), Folders(tmp_path / "o")
    plan = make_plan(sweep, Shard(), folders, "together")
    text = plan_text(sweep, Shard(), plan, folders)
    assert "alone     8 (" in text and " and 5 more): microbatches: 2" in text


@pytest.mark.parametrize("file", ABLATIONS, ids=lambda f: f.stem)
def test_the_ablations_can_be_read(file, monkeypatch):
    """Each says what it tests and how it is run, and has several seeds."""
    monkeypatch.chdir(ROOT)
    sweep, text = load_sweep(file), file.read_text()
    assert text.startswith("# Claim: ") and "# Cost: " in text and "# Found" in text
    assert f"unipost sweep experiments/ablations/{file.name}" in text
    assert len(sweep.combinations) > 2 < len(sweep.seeds)
    assert sweep.settings.claim.endswith(".")
    check_files(sweep)
    assert all(len(g) > 1 for g in split([run.experiment for run in sweep.runs]))
