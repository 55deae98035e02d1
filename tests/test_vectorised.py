"""Runs trained together: the numbers, the folders and the ends of separate runs."""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_runs import (
    MODEL,
    STEPS,
    evaluation,
    experiment,
    lines,
    rollouts,
    write_labels,
    write_sums,
)

from unipost import loop, preemption, presets
from unipost.adapters import LoRA
from unipost.annealed import Annealed
from unipost.checkpoint import Checkpoints
from unipost.completions import Completions
from unipost.hf import load_pretrained
from unipost.optimizers import SGD, AdamW
from unipost.parametric import Alpha
from unipost.rollouts import Resample
from unipost.sampling import ContinuousSampler
from unipost.sources import EMPTY, Source
from unipost.train import train
from unipost.vectorised import Failed, split, steps, train_together, why_not
from unipost.vectorised.steps import Steps

RATES = 1e-2, 3e-3, 3e-3


def files(folder: Path) -> dict[str, str]:
    """The paths in the folders of a sweep's two kinds of rows, by their name."""
    pairs = folder / "pairs"
    pairs.mkdir()
    return {"sums": write_sums(folder), "pairs": write_labels(pairs, pairs=True)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    MODEL.save(folder, MODEL.params)
    return files(folder) | {"base": str(folder / "final")}


def sweep(kind: str, path: str, objectives=None, **changes):
    """Three runs that differ in seed, learning rate and, if given, objective."""
    runs = []
    for i, rate in enumerate(RATES):
        own = {
            "seed": i // 2,
            "optimizer": AdamW(rate, "cosine", 2),
            "evaluation": None,
        }
        if objectives is not None:
            own["objective"] = objectives[i]
        runs.append(experiment(kind, path, **own | {"checkpoints": None} | changes))
    return runs


def folders_of(folder: Path, runs) -> list[Path]:
    return [folder / str(i) for i in range(len(runs))]


def apart(runs, folder: Path) -> list[Path]:
    """The folders of the runs trained one after the other."""
    places = folders_of(folder / "apart", runs)
    for run, place in zip(runs, places, strict=True):
        train(run, place)
    return places


def close(one: Path, other: Path, name: str = "metrics", tolerance=1e-5) -> None:
    """The lines of two folders have the same names and numbers."""
    mine, its = lines(one, name), lines(other, name)
    assert [list(x) for x in mine] == [list(x) for x in its]
    for a, b in zip(mine, its, strict=True):
        np.testing.assert_allclose(
            [*a.values()], [*b.values()], rtol=tolerance, atol=tolerance
        )


def same_files(one: Path, other: Path) -> None:
    names = [{str(x.relative_to(f)) for x in f.glob("*")} for f in (one, other)]
    assert names[0] == names[1]
    assert (one / "config.yaml").read_text() == (other / "config.yaml").read_text()
    for name in ("metrics", "timing"):
        assert len(lines(one, name)) == len(lines(other, name))
        assert set(lines(one, name)[0]) >= {"step"}


@dataclass(frozen=True)
class Replayed(Source):
    """Rollouts of the tiny model as it starts, whatever the policy has become."""

    path: str
    prompts: int = 4

    @property
    def gives(self):
        return "rewards"

    def open(self, setting):
        stream = rollouts(self.path, time_limit=None).open(
            replace(setting, params=MODEL.params)
        )
        drawn = [stream.batch(step, MODEL.params) for step in range(STEPS)]
        stream.close()
        return Recorded(drawn)


@dataclass(frozen=True)
class Recorded:
    drawn: list
    size: int = 10

    def batch(self, step, params, memory=EMPTY):
        return self.drawn[step]


def alphas() -> list:
    """f-DPO whose divergence and inverse temperature vary."""
    settings = (0.3, 0.1), (0.5, 0.1), (0.5, 0.3)
    return [presets.f_dpo(Alpha(alpha), beta) for alpha, beta in settings]


def clips() -> list:
    return [presets.grpo(low, 0.3, 0.1) for low in (0.01, 0.2, 0.2)]


def annealed() -> list:
    return [presets.dpo(beta=Annealed(0.5, end, 4)) for end in (0.1, 0.1, 0.3)]


def groups(data) -> dict:
    """Sweeps by name: what varies beside the seed and the learning rate."""
    sums, pairs = data["sums"], data["pairs"]
    updates = {"inner_epochs": 2, "minibatches": 2, "data": Replayed(sums)}
    lora = {"lora": LoRA(rank=2, alpha=4.0), "objectives": alphas()}
    return {
        "sft": lambda: sweep("sft", sums, steps=20),
        "f_dpo": lambda: sweep("orpo", pairs, alphas(), steps=20),
        "annealed": lambda: sweep("orpo", pairs, annealed(), minibatches=2),
        "replayed": lambda: sweep("grpo", sums, clips(), **updates),
        "adapters": lambda: sweep("orpo", pairs, model=data["base"], **lora),
    }


@pytest.mark.parametrize("name", ["sft", "f_dpo", "annealed", "replayed", "adapters"])
def test_numbers_are_those_of_separate_runs(name, data, tmp_path):
    runs = groups(data)[name]()
    assert split(runs) == [[0, 1, 2]]
    places = folders_of(tmp_path / "together", runs)
    train_together(runs, places, way="vmap")
    for mine, its in zip(places, apart(runs, tmp_path), strict=True):
        close(mine, its)
        same_files(mine, its)


@pytest.mark.parametrize("groups", [{}, {"groups": Resample(rounds=2)}])
def test_rollouts_are_those_of_separate_runs(groups, data, tmp_path):
    # one rounded draw may flip later on
    rows = rollouts(data["sums"], time_limit=None, **groups)
    runs = sweep("grpo", data["sums"], clips(), data=rows, steps=4)
    places = folders_of(tmp_path / "together", runs)
    train_together(runs, places, way="vmap")
    for mine, its in zip(places, apart(runs, tmp_path), strict=True):
        close(mine, its)


def test_a_group_cut_into_parts_gives_the_same_numbers(data, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "cores", lambda: 2)
    runs = sweep("grpo", data["sums"], clips(), data=Replayed(data["sums"]))
    places = folders_of(tmp_path / "together", runs)
    results = train_together(runs, places)
    for mine, its in zip(places, apart(runs, tmp_path), strict=True):
        close(mine, its)
    for result, place in zip(results, places, strict=True):
        _, params, _ = load_pretrained(place / "final")
        jax.tree.map(np.testing.assert_array_equal, result.params, params)


def saved_sweep(data, **changes):
    """Runs that are saved after every second step and measured after every third."""
    measured = evaluation(data["sums"])
    sums = replace(measured.tasks["sums"], time_limit=None)
    measured = replace(measured, tasks={"sums": sums})
    own = {"checkpoints": Checkpoints(every=2), "evaluation": measured}
    return sweep("grpo", data["sums"], clips(), **own | changes)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """Folders of `saved_sweep` trained together without a break."""
    folder = tmp_path_factory.mktemp("undisturbed")
    runs = saved_sweep(data)
    places = folders_of(folder / "together", runs)
    train_together(runs, places, way="vmap")
    return places


def stopping(monkeypatch, at: int, error: BaseException) -> None:
    """Let the step after `at` steps raise `error`."""
    step = Steps.step

    def stop(self, number):
        if number == at:
            raise error
        return step(self, number)

    monkeypatch.setattr(Steps, "step", stop)


def test_a_killed_group_goes_on_although_one_run_went_ahead_alone(
    data, undisturbed, tmp_path, monkeypatch
):
    runs = saved_sweep(data)
    places = folders_of(tmp_path, runs)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        stopping(patched, 5, KeyboardInterrupt())
        train_together(runs, places, way="vmap")
    assert [len(lines(place)) for place in places] == [4, 4, 4]
    train(runs[1], places[1])
    train_together(runs, places, way="vmap")
    for mine, its in zip(places, undisturbed, strict=True):
        close(mine, its)
        close(mine, its, "evaluation")
        same_files(mine, its)


def test_sigterm_saves_every_run(data, undisturbed, tmp_path, monkeypatch):
    runs = saved_sweep(data)
    places = folders_of(tmp_path, runs)
    with monkeypatch.context() as patched, pytest.raises(preemption.Stopped) as caught:
        patched.setattr(loop, "asked", lambda step: step == 3)
        train_together(runs, places, way="vmap")
    assert "after step 3" in str(caught.value)
    steps = [[int(x.name) for x in (p / "checkpoints").glob("[0-9]*")] for p in places]
    assert [max(x) for x in steps] == [3, 3, 3]
    train_together(runs, places, way="vmap")
    for mine, its in zip(places, undisturbed, strict=True):
        close(mine, its)
        close(mine, its, "evaluation")


@pytest.mark.parametrize("way", ["vmap", "map"])
def test_a_run_that_diverges_stops_alone(way, data, tmp_path):
    runs = sweep("sft", data["sums"], checkpoints=Checkpoints(every=2))
    bad = replace(runs[1], optimizer=replace(runs[1].optimizer, learning_rate=1e38))
    mixed = [runs[0], bad, runs[2]]
    assert split(mixed) == [[0, 1, 2]]
    places = folders_of(tmp_path / "together", mixed)
    with pytest.raises(Failed) as caught:
        train_together(mixed, places, way=way)
    assert list(caught.value.failures) == [1]
    assert str(places[1]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (places[1] / "final").exists()
    assert [result is None for result in caught.value.results] == [False, True, False]
    others = [runs[0], runs[2]]
    kept = [places[0], places[2]]
    for mine, its in zip(kept, apart(others, tmp_path), strict=True):
        close(mine, its)
        same_files(mine, its)


def test_a_folder_that_holds_another_run_does_not_stop_the_others(data, tmp_path):
    runs = sweep("sft", data["sums"], steps=2)
    places = folders_of(tmp_path, runs)
    train(replace(runs[0], steps=1), places[0])
    with pytest.raises(Failed, match="other settings") as caught:
        train_together(runs, places)
    assert list(caught.value.failures) == [0]
    assert [len(lines(place)) for place in places[1:]] == [2, 2]


def test_a_finished_run_is_not_taken_again(data, undisturbed):
    before = [(place / "metrics.jsonl").read_bytes() for place in undisturbed]
    train_together(saved_sweep(data), undisturbed, way="vmap")
    train(saved_sweep(data)[2], undisturbed[2])
    assert before == [(place / "metrics.jsonl").read_bytes() for place in undisturbed]


def test_split_by_what_a_program_is_compiled_for(data):
    sums, pairs = data["sums"], data["pairs"]
    one = experiment("grpo", sums)
    other = [
        replace(one, seed=5),
        replace(one, objective=presets.grpo(kl=0.3)),
        replace(one, objective=presets.grpo(ddof=0)),
        replace(one, objective=presets.grpo(kl=None)),
        replace(one, steps=7),
        replace(one, optimizer=SGD(1e-2)),
        replace(one, optimizer=replace(one.optimizer, warmup=1)),
        replace(one, optimizer=replace(one.optimizer, b2=0.9)),
        experiment("orpo", pairs),
        replace(one, data=replace(one.data, prompts=2)),
    ]
    groups = split([one, *other])
    assert groups == [[0, 1, 2, 8], [3], [4], [5], [6], [7], [9], [10]]
    assert sorted(sum(groups, [])) == [*range(11)]


def test_what_cannot_be_trained_together_is_refused(data, tmp_path):
    one = experiment("grpo", data["sums"])
    refused = {
        "completions": replace(one, completions=Completions(every=1)),
        "microbatches": replace(one, microbatches=2),
        "packed_length": replace(one, packed_length=8),
        "staleness": replace(one, staleness=1),
        "sync_every": replace(one, sync_every=2),
        "data.sampler": replace(
            one, data=replace(one.data, sampler=ContinuousSampler())
        ),
    }
    for name, each in refused.items():
        assert (why_not(each) or "").startswith(f"{name}: ")
        assert split([each, replace(each, seed=1)]) == [[0], [1]]
        with pytest.raises(ValueError, match=name):
            train_together([one, each], [tmp_path / "a", tmp_path / "b"])
    assert why_not(one) is None
    for runs, folders, match in (
        ([one, replace(one, steps=3)], ["a", "b"], "differ in steps"),
        ([one, one], ["a", "a"], "one folder"),
        ([one], [], "one folder for each"),
    ):
        with pytest.raises(ValueError, match=match):
            train_together(runs, [tmp_path / name for name in folders])
    assert not list(tmp_path.iterdir())
