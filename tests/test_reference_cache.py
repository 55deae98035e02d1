"""Reference log-probs on disk: equal to those computed online, and computed once."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from reference_runs import count_loads, count_scored, dpo, f_sft, filled, refused
from tiny_runs import (
    COLD,
    MODEL,
    TINY,
    demonstrations,
    experiment,
    labelled,
    length,
    lines,
    params_of,
    preferences,
    rollouts,
    write_labels,
    write_sums,
)

from unipost import presets
from unipost import train as loop
from unipost.adapters import LoRA
from unipost.cli import main
from unipost.loading import load_model
from unipost.rollouts import SampledPreferences
from unipost.sources import Mixture, Setting
from unipost.study import Arm, load_study
from unipost.train import train
from unipost.tree import ConfigError
from unipost.update import with_streams


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A file of twelve pairs of sums."""
    return write_labels(tmp_path_factory.mktemp("pairs"), pairs=True)


@pytest.fixture
def scored(monkeypatch):
    """The lines of every batch that the reference has scored."""
    return count_scored(monkeypatch)


@pytest.fixture
def loads(monkeypatch):
    """The folders that a reference has been loaded from."""
    return count_loads(monkeypatch)


def mixed(path):
    """Two sources side by side, of several lengths of file."""
    short = replace(preferences(path), prompts=1)
    return Mixture((preferences(path), Mixture((short,))))


def length_of_one(response: str, answer: str) -> float:
    """A reward that a response loses with every character."""
    return -length(response, answer)


UNPAIRED = dataclasses.replace(presets.kto(), reference_point=None)


def sampled(path: str) -> SampledPreferences:
    """Pairs of which any response is the rejected one."""
    return SampledPreferences(path, 4, 4, 4, COLD, length_of_one)


def case(name: str, folder: Path):
    """An experiment of each kind of data that may be cached."""
    pairs, sums = write_labels(folder, pairs=True), write_sums(folder)
    labels = write_labels(folder)
    return {
        "pairs": lambda: dpo(pairs),
        "microbatches": lambda: dpo(pairs, minibatches=2, microbatches=2),
        "packed": lambda: dpo(pairs, packed_length=14, microbatches=2),
        "mixture": lambda: dpo(pairs, data=mixed(pairs)),
        "both streams": lambda: f_sft(sums),
        "labelled": lambda: dpo(labels, data=labelled(labels), objective=UNPAIRED),
        "sampled": lambda: dpo(sums, data=sampled(sums)),
    }[name]()


KINDS = "pairs", "microbatches", "packed", "mixture", "both streams"
KINDS += "labelled", "sampled"


@pytest.mark.parametrize("kind", KINDS)
def test_lines_have_the_log_probs_computed_online(kind, tmp_path):
    """Read by line at every step, in whatever order the steps draw them."""
    cached = replace(case(kind, tmp_path), reference_cache=str(tmp_path / "cache"))
    setting = Setting(MODEL.policy, MODEL.params, MODEL.tokenizer, cached.seed)
    plain, stream = cached.data.open(setting), filled(cached)
    again = filled(cached)
    for step in range(5):
        rows, batch, _ = plain.batch(step, None)[:3]
        wanted = with_streams(
            cached.objective, MODEL.policy, rows, batch, None, MODEL.params
        )
        assert wanted.reference is not None
        for each in (stream, again):
            given, found, _ = each.batch(step, None)[:3]
            for x, y in zip(rows, given, strict=True):
                np.testing.assert_array_equal(x, y)
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
                wanted,
                with_streams(cached.objective, MODEL.policy, rows, found, None, None),
            )


def test_a_run_has_the_metrics_of_one_without_bit_for_bit(pairs, tmp_path):
    """24 lines in batches of 8, as they come at each step: the same computation."""
    train(dpo(pairs), tmp_path / "online", model=MODEL)
    cached = dpo(pairs, reference_cache=str(tmp_path / "cache"))
    for folder in (tmp_path / "first", tmp_path / "second"):
        train(cached, folder, model=MODEL)
        assert lines(folder) == lines(tmp_path / "online")


def test_the_reference_of_an_adapter_is_its_base(pairs, tmp_path):
    """Also after training: the adapted and the whole model share a cache."""
    lora = LoRA(rank=2)
    runs = dpo(pairs, lora=lora), dpo(pairs, lora=lora, reference_cache=str(tmp_path))
    for name, run in zip(("online", "cached"), runs, strict=True):
        train(run, tmp_path / f".{name}", model=load_model(TINY, 0, lora))
    online, cached = (lines(tmp_path / f".{n}") for n in ("online", "cached"))
    for one, other in zip(online, cached, strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert online[0]["margin"] == pytest.approx(0, abs=1e-6) != online[-1]["margin"]
    filled(dpo(pairs, reference_cache=str(tmp_path)))


def test_it_is_scored_once_for_all_that_share_it(pairs, tmp_path, scored, capsys):
    """Other objectives, seeds, and batches; a stream that is missing is added."""
    folder = str(tmp_path / "cache")
    cached = dpo(pairs, reference_cache=folder)
    filled(cached)
    assert scored == [8, 8, 8]
    assert "24 lines in 0." in capsys.readouterr().err
    others = [
        replace(cached, objective=presets.ipo(), seed=3),
        replace(cached, data=replace(preferences(pairs), prompts=6), microbatches=3),
    ]
    for other in others:
        filled(other)
        assert (
            f"reference log-probs: 24 lines from {folder}\n" == capsys.readouterr().err
        )
    assert len(scored) == 3
    sums = write_sums(tmp_path)
    alone = f_sft(sums, reference_cache=str(tmp_path / "sums"))
    filled(replace(alone, objective=presets.iw_sft()))
    before = sorted(x.name for x in (tmp_path / "sums").iterdir())
    filled(alone)
    assert len(scored) == 3 + 3 + 3
    assert len(before) == 2 and len(list((tmp_path / "sums").iterdir())) == 3


def test_a_reference_is_loaded_only_to_be_scored(pairs, tmp_path, loads, monkeypatch):
    """Not where the cache is whole, nor where the objective reads none."""
    folder = str(tmp_path / "other")
    other = replace(MODEL, params=params_of(5))
    other.save(tmp_path, other.params)
    (tmp_path / "final").rename(folder)
    monkeypatch.setattr(loop, "load_model", lambda *_: load_model(TINY, 0))
    online = dpo(pairs, reference=folder)
    train(online, tmp_path / "online")
    assert loads == [folder]
    cached = replace(online, reference_cache=str(tmp_path / "cache"))
    train(cached, tmp_path / "first")
    assert loads == [folder] * 2
    train(cached, tmp_path / "second")
    train(dpo(pairs, objective=presets.orpo()), tmp_path / "orpo")
    train(dpo(pairs), tmp_path / "itself")
    assert loads == [folder] * 2
    assert lines(tmp_path / "second") == lines(tmp_path / "online")
    assert lines(tmp_path / "itself")[3] != lines(tmp_path / "online")[3]


@pytest.mark.parametrize("kind", ["sft", "cached", "online", "measured", "given"])
def test_the_first_parameters_are_kept_only_where_they_are_read(
    kind, pairs, tmp_path, monkeypatch
):
    """Else training overwrites them, and one model is in memory."""
    own = load_model(TINY, 0)
    monkeypatch.setattr(loop, "open_model", lambda *_: own)
    run = dpo(pairs, reference_cache=str(tmp_path / "cache"))
    if kind in ("sft", "online"):
        objective = presets.orpo() if kind == "sft" else presets.dpo()
        run = dpo(pairs, objective=objective)
    if kind == "measured":
        sums = write_sums(tmp_path)
        run = replace(run, evaluation=experiment("sft", sums).evaluation)
    result = train(run, tmp_path / "run", model=own if kind == "given" else None)
    gone = {x.is_deleted() for x in jax.tree.leaves(own.params)}
    assert gone == {kind in ("sft", "cached")}
    assert result.model.params is result.params


class Drifting:
    """A stream whose rows are its own affair."""

    size = 4

    def batch(self, step, params):
        raise AssertionError("not drawn from")


@dataclasses.dataclass(frozen=True)
class Own(type(preferences(""))):
    """A source of one's own."""

    def open(self, setting):
        return Drifting()


def test_what_cannot_be_cached_is_refused(pairs, tmp_path):
    sums, labels = write_sums(tmp_path), write_labels(tmp_path)
    for expected, make in {
        "reference_cache: c, but the objective reads log-probs of pairs that change "
        "with the batch; leave it out": lambda: experiment(
            "kto", labels, reference_cache="c"
        ),
        "reference_cache: c, but the objective reads no reference; leave it out": (
            lambda: dpo(pairs, objective=presets.orpo(), reference_cache="c")
        ),
        "reference_cache: c, but Rollouts gives other rows at each step; leave it "
        "out": lambda: experiment(
            "grpo", sums, objective=presets.grpo(kl=0.1), reference_cache="c"
        ),
        "reference_cache: c, but Mixture gives other rows at each step; leave it "
        "out": lambda: experiment(
            "grpo",
            sums,
            data=Mixture((rollouts(sums), rollouts(sums))),
            objective=presets.grpo(kl=0.1),
            reference_cache="c",
        ),
        "reference_cache: c, but the objective reads log-probs over the whole "
        "vocabulary, too large to keep; leave it out": lambda: dpo(
            sums,
            data=demonstrations(sums),
            objective=presets.gkd(),
            reference="teacher",
            reference_cache="c",
        ),
        "reference_cache: empty; write a folder, or leave it out": lambda: dpo(
            pairs, reference_cache=""
        ),
    }.items():
        assert refused(make, error=ValueError) == expected
    own = dpo(pairs, data=Own(**vars(preferences(pairs))), reference_cache="c")
    assert refused(lambda: filled(own)) == (
        "reference_cache: c, but Own opens a Drifting, whose rows may change; leave it "
        "out"
    )


RUN = """
model: {characters: "0123456789+=", hidden_size: 16, intermediate_size: 32,
  num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8}
data: {name: preferences, path: PATH, prompts: 4, prompt_length: 4, response_length: 3}
objective: {name: dpo, beta: 0.2}
optimizer: {name: sgd, learning_rate: 0.1}
steps: 3
reference_cache: CACHE
"""


def test_the_command_line_says_what_is_computed_and_what_is_there(
    pairs, tmp_path, capsys
):
    file, cache = tmp_path / "run.yaml", tmp_path / "cache"
    file.write_text(RUN.replace("PATH", pairs).replace("CACHE", str(cache)))
    arguments = ["run", str(file), "--out"]
    assert main([*arguments, str(tmp_path / "a")]) == 0
    text = capsys.readouterr().err
    assert text.count("reference log-probs: 24 lines in ") == 1
    assert f" s -> {cache}\n" in text
    assert main([*arguments, str(tmp_path / "b"), "objective=ipo"]) == 0
    assert f"reference log-probs: 24 lines from {cache}\n" in capsys.readouterr().err
    plain = [*arguments, str(tmp_path / "c"), "reference_cache=null"]
    assert main(plain) == 0
    assert lines(tmp_path / "c") == lines(tmp_path / "a")
    assert main([*arguments, str(tmp_path / "d"), "model.hidden_size=8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith(
        f"unipost: {cache}: holds reference log-probs of another key"
    )


ARMS = """
name: shared
claim: One reference serves all.
base: BASE
seeds: [0, 1]
rule: {task: sums, metric: greedy}
evaluation: {tasks: {sums: {path: SUMS, prompt_length: 4, response_length: 3}}}
common:
  steps: 2
  optimizer: {name: sgd, learning_rate: 0.1}
  data:
    {name: preferences, path: PATH, prompts: 4, prompt_length: 4, response_length: 3}
  reference_cache: CACHE
arms:
  dpo: {title: DPO, objective: dpo}
  ipo: {title: IPO, objective: ipo}
"""


def test_the_arms_of_a_study_share_it(pairs, tmp_path, scored, capsys):
    MODEL.save(tmp_path, MODEL.params)
    names = {
        "BASE": str(tmp_path / "final"),
        "SUMS": write_sums(tmp_path),
        "PATH": pairs,
        "CACHE": str(tmp_path / "cache"),
    }
    text = ARMS
    for name, value in names.items():
        text = text.replace(name, value)
    file = tmp_path / "study.yaml"
    file.write_text(text)
    assert main(["run", str(file), "--out", str(tmp_path / "out")]) == 0
    said = [x for x in capsys.readouterr().err.splitlines() if "log-probs" in x]
    assert len(scored) == 3 and len(said) == 4
    file.write_text(text.replace("objective: ipo", "objective: simpo"))
    message = refused(lambda: load_study(file), error=ConfigError)
    assert "arms.ipo" in message and "the objective reads no reference" in message


def test_an_arm_whose_rows_change_with_the_seed_has_a_folder_per_seed(tmp_path):
    """Its pairs are sampled: a folder for all seeds would refuse the second."""
    sums = write_sums(tmp_path)
    data = sampled(sums)
    arm = Arm("DPO", data, presets.dpo(), dpo(sums).optimizer, 2, reference_cache="c")
    fixed = replace(arm, data=preferences(sums))
    study = load_study(Path(__file__).parents[1] / "experiments" / "quickstart.yaml")
    study = replace(study, arms={"a": arm, "b": fixed}, comparisons=())
    assert study.experiment("a", 3, "base").reference_cache == "c/3"
    assert study.experiment("b", 3, "base").reference_cache == "c"
    assert Mixture((data, fixed.data)).varies == "seed"
