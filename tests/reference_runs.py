"""Small runs with a cache of reference log-probs, and what is counted of them."""

import pytest
from tiny_runs import MODEL, demonstrations, experiment

from unipost import loading, presets, reference_cache
from unipost.classical import ReverseKL
from unipost.runs import RunError
from unipost.sources import Fixed, Setting


def dpo(path: str, **changes):
    """Six steps of DPO on pairs, not evaluated and not saved."""
    bare = {"objective": presets.dpo(), "evaluation": None, "checkpoints": None}
    return experiment("orpo", path, **(bare | changes))


def f_sft(path: str, **changes):
    """A gauge that reads both streams of the reference."""
    objective = presets.f_sft(ReverseKL(), gauge="lsediff")
    return dpo(path, data=demonstrations(path), objective=objective, **changes)


def filled(experiment, model=MODEL, place=None):
    """The stream of an experiment with its cached log-probs."""
    setting = Setting(model.policy, model.params, model.tokenizer, experiment.seed)
    stream = experiment.data.open(setting)
    return reference_cache.with_reference(experiment, model, place, stream)


def kept(experiment, model=MODEL):
    """The cached log-probs [N, T] of an experiment on one file."""
    stream = filled(experiment, model)
    assert isinstance(stream, Fixed)
    return stream.streams["reference"]


def refused(run, error: type[Exception] = RunError) -> str:
    """The one line with which `run()` refuses."""
    with pytest.raises(error) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def count_scored(monkeypatch) -> list[int]:
    """The lines of every batch that the reference scores from now on."""
    sizes, annotate = [], reference_cache.annotate

    def counted(policy, params, rows, extras):
        sizes.append(rows.response.shape[0])
        return annotate(policy, params, rows, extras)

    monkeypatch.setattr(reference_cache, "annotate", counted)
    return sizes


def count_loads(monkeypatch) -> list[str]:
    """The folders that a reference is loaded from, from now on."""
    folders, load = [], loading.load_model

    def counted(model, *args, **kwargs):
        folders.append(model)
        return load(model, *args, **kwargs)

    monkeypatch.setattr(loading, "load_model", counted)
    return folders
