"""The config loader: what is built, what is merged, and the way back."""

import dataclasses
import math
from pathlib import Path

import pytest
from config_schema import (
    REGISTRIES,
    RULERS,
    Clip,
    Experiment,
    Family,
    Left,
    Loss,
    Other,
    Plain,
    Reward,
    Right,
    Ruler,
    dpo,
    grpo,
    numeric,
    refusal,
    write,
)

from unipost import config
from unipost.config import Bound, build, dump_tree, load, load_tree, to_tree


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for kind, registry in REGISTRIES.items():
        monkeypatch.setitem(config.CHOICES, kind, registry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# what is built


def test_names_arguments_and_defaults():
    assert build(Ruler, "plain") == Plain()
    assert build(Ruler, {"name": "family", "a": 0.3}) == Family(0.3)
    assert build(Loss, "dpo") == dpo()
    assert build(Loss, {"name": "dpo", "divergence": "other"}) == dpo(0.1, Other())
    assert build(RULERS, {"name": "family", "a": "1e-6"}) == Family(1e-6)


def test_every_kind_of_field(folder):
    file = write(
        folder,
        """
        objective: dpo
        steps: 1e3
        rate: 1e-6
        name: second
        data: a/b.jsonl
        reward: {name: numeric, tolerance: 0.5}
        shape: [2, 4]
        groups: {math: [gsm8k, svamp]}
        warm: true
        clip: {high: 0.3}
        window: 5
        extra: [1, {b: null}]
        """,
    )
    assert load(Experiment, file) == Experiment(
        objective=dpo(),
        steps=1000,
        rate=1e-6,
        name="second",
        data=Path("a/b.jsonl"),
        reward=Bound(numeric, (("tolerance", 0.5),)),
        shape=(2, 4),
        groups={"math": ("gsm8k", "svamp")},
        warm=True,
        clip=Clip(0.5, 0.3),  # an edit of the field's default
        window=5,
        extra=[1, {"b": None}],
    )
    assert isinstance(load(Experiment, file).steps, int)


def test_a_function_as_a_value_is_called_only_with_texts():
    assert build(Reward, "numeric") is numeric
    near = build(Reward, {"name": "numeric", "tolerance": 1})
    assert near("2", "3") == 1.0 and numeric("2", "3") == 0.0
    assert hash(near) == hash(build(Reward, {"name": "numeric", "tolerance": 1.0}))


def test_any_field_of_a_preset_can_be_swapped_or_edited():
    made = build(Loss, {"name": "grpo", "kl": 0.1, "clip": {"low": 0.3}})
    assert made == Loss(Family(0.5), Clip(0.3, 0.28), beta=0.1)
    made = build(Loss, {"name": "grpo", "ruler": {"a": 0.1}, "level": "sequence"})
    assert made == Loss(Family(0.1), Clip(0.2, 0.28), 0.04, "sequence")
    made = build(Loss, {"name": "grpo", "ruler": "other", "clip": None})
    assert made == Loss(Other(), None, 0.04)
    made = build(Loss, {"name": "dpo", "penalties": ["plain", {"name": "other"}]})
    assert made.penalties == (Plain(), Other())
    # doubled() is annotated with the abstract type: its result decides what is a field
    made = build(Ruler, {"name": "doubled", "inner": "plain", "a": 0.75})
    assert made == Family(0.75)


def test_two_abstract_types_may_share_a_registry():
    either = {"name": "right", "tau": 0.25}
    made = build(Loss, {"name": "dpo", "either": either})
    assert made.either == Right(0.25)
    assert build(Loss, {"name": "dpo", "either": "left"}).either == Left()
    assert build(Loss, {"name": "dpo", "either": None}).either is None
    assert to_tree(made, Loss)["either"] == {"name": "right", "tau": 0.25, "size": 1.0}
    assert build(Loss, to_tree(made, Loss)) == made


def test_infinity_only_where_the_default_is_infinite_or_the_part_decides():
    assert build(Clip, {"cap": math.inf}) == Clip()
    assert build(Clip, {"cap": 3}) == Clip(cap=3.0)
    assert build(Loss, {"name": "dpo", "beta": math.inf}).beta == math.inf
    message = refusal(build, Clip, {"low": math.inf}, "clip", "x.yaml")
    assert message == "x.yaml: clip.low: expected a finite number, got inf"
    message = refusal(build, Loss, {"name": "dpo", "beta": math.nan}, "o", "x.yaml")
    assert message == "x.yaml: o.beta: expected a finite number, got nan"


def test_parts_of_ones_own_by_dotted_path(folder, monkeypatch):
    (folder / "mine_parts.py").write_text(
        "import dataclasses\n"
        "from config_schema import Plain, Family\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Own(Plain):\n    c: float = 2.0\n"
        "class Stranger: pass\n"
        "def strange(): return 3\n"
        "ready = Family(0.5)\n"
    )
    (folder / "broken_parts.py").write_text("1/0\n")
    own = build(Ruler, {"name": "mine_parts:Own", "c": 3})
    assert isinstance(own, Plain)
    assert dataclasses.asdict(own) == {"c": 3.0}
    assert to_tree(own, Ruler) == {"name": "mine_parts:Own", "c": 3.0}
    assert build(Ruler, {"name": "mine_parts:ready", "a": 0.1}) == Family(0.1)

    def message(name):
        return refusal(build, Ruler, name, "objective.divergence", "x.yaml")

    at = "x.yaml: objective.divergence: "
    assert message("mine_parts:Stranger") == at + (
        "'mine_parts:Stranger' is not a Ruler"
    )
    assert message("mine_parts:strange") == at + (
        "'mine_parts:strange' makes a int, not a Ruler"
    )
    assert message("mine_parts:Owm") == at + (
        "unknown 'Owm'; did you mean 'Own'? (not in module mine_parts)"
    )
    assert message("no_such_parts:Own") == at + (
        "cannot import 'no_such_parts': ModuleNotFoundError: "
        "No module named 'no_such_parts'"
    )
    assert message("broken_parts:Own") == at + (
        "cannot import 'broken_parts': ZeroDivisionError: division by zero"
    )


# merging


SWAP = "objective: {name: dpo, beta: 0.2, divergence: {name: family, a: 0.3}}\n"


@pytest.mark.parametrize(
    "overrides, expected",
    [
        ([], dpo(0.2, Family(0.3))),
        (["objective.divergence=plain"], dpo(0.2, Plain())),
        (["objective.divergence.name=plain"], dpo(0.2, Plain())),
        (["objective.divergence={name: family, a: .5}"], dpo(0.2, Family(0.5))),
        (["objective.divergence.a=0.4"], dpo(0.2, Family(0.4))),
        (
            ["objective.divergence=plain", "objective.divergence=family"]
            + ["objective.divergence.a=1e-3"],
            dpo(0.2, Family(1e-3)),
        ),
        (["objective=dpo"], dpo()),
        (["objective=grpo", "objective.clip.low=0.1"], grpo(low=0.1)),
        (
            ["objective.penalties=[plain]"],
            Loss(Family(0.3), None, 0.2, "sequence", (Plain(),)),
        ),
    ],
)
def test_naming_a_part_anew_drops_its_old_arguments(folder, overrides, expected):
    assert load(Experiment, write(folder, SWAP), overrides).objective == expected


def test_base_files_merge_by_the_same_rules(folder):
    (folder / "sub").mkdir()
    write(folder, SWAP + "steps: 5\nname: first\n", "base.yaml")
    write(folder, "extends: ../base.yaml\nobjective: {beta: 0.3}\n", "sub/middle.yaml")
    file = write(
        folder, "extends: middle.yaml\nobjective: {divergence: other}\n", "sub/top.yaml"
    )
    assert load_tree(file, ["name=last"]) == {
        "objective": {"name": "dpo", "beta": 0.3, "divergence": "other"},
        "steps": 5,
        "name": "last",
    }
    assert load(Experiment, file).objective == dpo(0.3, Other())


def test_merging_leaves_the_layers_alone():
    from unipost.tree import merge

    old, new = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merge(old, new) == {"a": {"b": 1, "c": 2}}
    assert (old, new) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_scalars_follow_yaml_1_2(folder):
    text = "[1e-6, 1E5, 12, -0.5, .5, true, yes, on, 010, 12:30:00, 2024-01-01, ~, 1.]"
    tree = load_tree(write(folder, f"a: {text}\nb: '1e-6'\n"))
    day, clock = "2024-01-01", "12:30:00"
    expected = [1e-6, 1e5, 12, -0.5, 0.5, True, "yes", "on", "010", clock, day, None]
    assert tree == {"a": [*expected, 1.0], "b": "1e-6"}
    assert [type(v) for v in tree["a"]][:3] == [float, float, int]


# back to a tree


def test_to_tree_is_undone_by_build_and_by_yaml(folder):
    experiment = Experiment(
        objective=Loss(Family(1e-7), Clip(cap=2.0), penalties=(Other(), Plain())),
        rate=1e-6,
        name="1e-6",
        reward=Bound(numeric, (("tolerance", 0.25),)),
        groups={"on": ("no", "null", "")},
        window="all",
        extra={"a": [1, "x"]},
    )
    tree = to_tree(experiment)
    assert build(Experiment, tree) == experiment
    assert load(Experiment, write(folder, dump_tree(tree))) == experiment
    assert tree["objective"]["ruler"] == {"name": "family", "a": 1e-7}
    assert tree["objective"]["name"] == "custom"
    assert set(tree) == {f.name for f in dataclasses.fields(Experiment)}
    assert to_tree(experiment.reward, Reward) == {"name": "numeric", "tolerance": 0.25}
    assert to_tree(numeric, Reward) == "numeric"


@pytest.mark.parametrize("preset", [dpo, grpo])
def test_the_tree_of_a_preset_holds_its_parts(preset):
    tree = to_tree(preset(), Loss)
    assert tree["ruler"]["name"] in RULERS
    assert build(Loss, tree) == preset()


def test_array_settings_are_written_as_numbers():
    import jax.numpy as jnp

    assert to_tree(Family(jnp.float32(0.5)), Ruler) == {"name": "family", "a": 0.5}
    message = refusal(to_tree, Experiment(dpo(), extra=Plain()))
    assert message == (
        "extra: its type is Any, so Plain() cannot be built again from YAML"
    )
