"""The folder of reference log-probs: its key, what a kill leaves, what is damaged."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reference_runs import count_loads, count_scored, dpo, filled, kept, refused
from tiny_runs import (
    MODEL,
    TINY,
    params_of,
    write_labels,
)

from unipost import reference_cache, reference_key, reference_store
from unipost.adapters import LoRA
from unipost.loading import load_model
from unipost.model import Compute
from unipost.tokenizer import ByteTokenizer, CharTokenizer


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


def changed(kind: str, run, folder: Path):
    """(experiment, model) with one part of the key changed, and its name."""
    tokenizer = CharTokenizer("+=0123456789")
    rows = Path(run.data.path).read_text().splitlines(keepends=True)
    (folder / "fewer.jsonl").write_text("".join(rows[:-1]))
    data = run.data
    return {
        "model": (run, replace(MODEL, params=params_of(6))),
        "tokenizer": (run, replace(MODEL, tokenizer=tokenizer)),
        "data": (
            replace(run, data=replace(data, path=str(folder / "fewer.jsonl"))),
            MODEL,
        ),
        "data: a length": (replace(run, data=replace(data, response_length=5)), MODEL),
        "compute": (replace(run, compute=Compute("bfloat16")), MODEL),
    }[kind]


PARTS = {
    "model": "model (drawn from a seed; its content differs)",
    "tokenizer": "tokenizer (CharTokenizer of 14 tokens; its content differs)",
    "data": "data (PATH: 24 x (4 + 3) tokens there, FEWER: 22 x (4 + 3) tokens here)",
    "data: a length": (
        "data (PATH: 24 x (4 + 3) tokens there, PATH: 24 x (4 + 5) tokens here)"
    ),
    "compute": (
        "compute (float32 products of float32 parameters there, bfloat16 products of "
        "float32 parameters here)"
    ),
}


@pytest.mark.parametrize("kind", PARTS)
def test_another_key_is_refused_and_named(kind, pairs, tmp_path):
    folder = tmp_path / "cache"
    run = dpo(pairs, reference_cache=str(folder))
    filled(run)
    before = {x: x.read_bytes() for x in folder.iterdir()}
    other, model = changed(kind, run, tmp_path)
    part = PARTS[kind].replace("FEWER", str(tmp_path / "fewer.jsonl"))
    message = refused(lambda: filled(other, model))
    assert f"{folder}: holds reference log-probs of another key: " in message
    assert part.replace("PATH", pairs) in message
    assert message.endswith("; delete it or write another reference_cache")
    assert ("data (" in message) == (kind in ("data", "data: a length", "tokenizer"))
    assert {x: x.read_bytes() for x in folder.iterdir()} == before


def test_a_chat_template_and_a_config_are_part_of_the_key():
    """The rows are the same in both cases, and so are all parameters."""
    one, other = ByteTokenizer(), ByteTokenizer(ByteTokenizer().chat_template + " ")
    digests = [reference_key.tokenizer_part(t)["digest"] for t in (one, one, other)]
    assert digests[0] == digests[1] != digests[2]
    assert MODEL.config is not None
    turned = replace(MODEL.config, rms_norm_eps=0.5)
    digest = reference_key.parameters_digest
    assert digest(MODEL.config, MODEL.params) != digest(turned, MODEL.params)


def test_a_folder_and_its_model_in_memory_are_one_key(pairs, tmp_path, loads):
    """By its files where they are known, else by its parameters; loaded if need be."""
    for name, seed in (("base", 0), ("other", 7)):
        MODEL.save(tmp_path, params_of(seed))
        (tmp_path / "final").rename(tmp_path / name)
    base = str(tmp_path / "base")
    run = dpo(pairs, model=base, reference_cache=str(tmp_path / "cache"))
    model = load_model(base, 0)
    filled(run, model)
    filled(run, model, base)
    filled(replace(run, model=TINY, reference=base))
    record = json.loads((tmp_path / "cache" / "key.json").read_text())
    assert record["model"]["files"] is None and record["model"]["what"] == base
    assert loads == [base]
    other = str(tmp_path / "other")
    message = refused(lambda: filled(replace(run, reference=other)))
    assert f"another key: model ({base} there, {other} here);" in message
    trained = replace(model, params=params_of(7))
    assert "model" in refused(lambda: filled(run, trained))


def test_a_folder_is_known_by_its_files(pairs, tmp_path, loads, scored):
    """A second run loads nothing; other weights in the same folder are refused."""
    MODEL.save(tmp_path, MODEL.params)
    base = str(tmp_path / "final")
    run = dpo(pairs, reference=base, reference_cache=str(tmp_path / "cache"))
    filled(run)
    filled(run)
    assert loads == [base] and len(scored) == 3
    MODEL.save(tmp_path, params_of(3))
    message = refused(lambda: filled(run))
    assert f"another key: model ({base}; its content differs); delete it" in message


def test_an_adapter_is_known_by_its_files_and_its_base(pairs, tmp_path, loads):
    """A folder in PEFT's layout names the folder of its base."""
    MODEL.save(tmp_path, MODEL.params)
    base = (tmp_path / "final").rename(tmp_path / "base")
    adapted = load_model(str(base), 0, LoRA(rank=2))
    adapted.save(tmp_path, adapted.params)
    folder = str(tmp_path / "final")
    cache = str(tmp_path / "cache")
    run = dpo(pairs, reference=folder, reference_cache=cache)
    filled(run)
    filled(run)
    assert loads == [folder]
    MODEL.save(tmp_path / "new", params_of(3))
    (tmp_path / "new" / "final" / "model.safetensors").replace(
        base / "model.safetensors"
    )
    assert "another key: model" in refused(lambda: filled(run))


class Killed(BaseException):
    """What stops a computation between two instructions."""


def test_a_killed_computation_goes_on(pairs, tmp_path, monkeypatch, capsys):
    """Between two files and in the middle of one: what is whole stays."""
    monkeypatch.setattr(reference_cache, "LINES", 8)
    run = dpo(pairs, reference_cache=str(tmp_path / "cache"))
    whole = kept(replace(run, reference_cache=str(tmp_path / "whole")))
    annotate, put = reference_cache.annotate, reference_store.os.replace
    calls = []

    def dying(*args):
        calls.append(args)
        if len(calls) == 2:
            raise Killed
        return annotate(*args)

    def torn(*args):
        if "reference-16" in str(args[1]):
            raise Killed
        return put(*args)

    with monkeypatch.context() as patched:
        patched.setattr(reference_cache, "annotate", dying)
        with pytest.raises(Killed):
            filled(run)
    with monkeypatch.context() as patched:
        patched.setattr(reference_store.os, "replace", torn)
        with pytest.raises(Killed):
            filled(run)
    capsys.readouterr()
    stream = kept(run)
    text = capsys.readouterr().err
    assert "reference log-probs: 8 lines in " in text and "(16 were there)" in text
    np.testing.assert_array_equal(stream, whole)


def test_two_at_once_leave_a_whole_cache(pairs, tmp_path, monkeypatch):
    """One fills the folder amid the other; then one of another key comes between."""
    monkeypatch.setattr(reference_cache, "LINES", 8)
    run = dpo(pairs, reference_cache=str(tmp_path / "cache"))
    annotate, others = reference_cache.annotate, []

    def interrupted(*args):
        if not others:
            others.append(None)
            others.append(kept(run))
        return annotate(*args)

    monkeypatch.setattr(reference_cache, "annotate", interrupted)
    stream = kept(run)
    for each in (others[1], kept(run)):
        np.testing.assert_array_equal(stream, each)
    before = {x.name for x in (tmp_path / "cache").iterdir()}
    (tmp_path / "cache" / "key.json").unlink()
    late = reference_store.claim

    def at_the_same_moment(folder, key):
        monkeypatch.setattr(reference_store, "_empty", lambda _: True)
        return late(folder, key)

    monkeypatch.setattr(reference_cache, "claim", at_the_same_moment)
    other = kept(run, replace(MODEL, params=params_of(2)))
    assert not np.allclose(other, stream)
    after = {x.name for x in (tmp_path / "cache").iterdir()}
    assert len(after - before) == 3 and before <= after


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "flipped", "short"])
def test_a_damaged_file_is_named(damage, pairs, tmp_path):
    run = dpo(pairs, reference_cache=str(tmp_path / "cache"))
    stream = kept(run)
    (path,) = (tmp_path / "cache").glob("*-reference-0.npz")
    good = path.read_bytes()
    if damage == "short":
        reference_store.put_array(path, np.zeros((3, 3), np.float32))
    else:
        place = len(good) // 2
        flipped = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
        content = {"cut": good[:-40], "empty": b"", "noise": b"x" * 99}
        path.write_bytes(content.get(damage, flipped))
    message = refused(lambda: filled(run))
    assert message.startswith(f"{path}: ")
    assert message.endswith("; delete it, and its lines are computed anew")
    path.unlink()
    np.testing.assert_array_equal(kept(run), stream)


def test_a_folder_that_cannot_be_used_is_named(pairs, tmp_path):
    folder = tmp_path / "cache"
    run = dpo(pairs, reference_cache=str(folder))
    filled(run)
    for text in ("{", "[]", '{"model": {}}'):
        (folder / "key.json").write_text(text)
        message = refused(lambda: filled(run))
        assert message == f"{folder}/key.json: damaged; delete {folder} and run again"
    (folder / "key.json").unlink()
    (folder / "notes.txt").write_text("mine")
    something = "holds something else than reference log-probs; write another"
    assert f"{folder}: {something} reference_cache" == refused(lambda: filled(run))
    file = replace(run, reference_cache=pairs)
    assert refused(lambda: filled(file)) == f"{pairs}: {something} reference_cache"
    inside = replace(run, reference_cache=f"{pairs}/cache")
    message = refused(lambda: filled(inside), error=OSError)
    assert message == f"{pairs}/cache/key.json: cannot be written: Not a directory"
