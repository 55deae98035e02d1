"""Several processes as one program: what each does, and what all have in the end."""

import json

import numpy as np
import pytest
from many_processes import TESTS, begun, ended, environ_of, free_port, slurm
from process_jobs import grading, sampled
from process_runs import cached_run, whole_run
from safetensors.numpy import load_file
from test_learned_rewards import written
from test_remote import serving, vllm
from tiny_runs import MODEL, lines, params_of, write_labels, write_sums

from unipost.cli import main
from unipost.train import train

# a run without a mesh, which several processes refuse
NO_MESH = """
model: {characters: "0123456789+="}
data: {name: demonstrations, path: SUMS, prompts: 8, prompt_length: 4,
       response_length: 3}
objective: sft
optimizer: {name: adamw, learning_rate: 0.01}
steps: 2
"""
TASKS = """
mesh: {data: -1}
evaluation:
  rows: 8
  distance: sums
  tasks: {sums: {path: SUMS, prompt_length: 4, response_length: 3, samples: 2,
                 limit: 6}}
"""
LOWEST = 61440
"""jax takes the port of the coordinator from the number of the SLURM job."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("processes")
    path = write_sums(place)
    write_labels(place, pairs=True)
    for name, text in (("no_mesh", NO_MESH), ("tasks", TASKS)):
        (place / f"{name}.yaml").write_text(text.replace("SUMS", path))
    MODEL.save(place / "first", params_of(3))
    (place / "first" / "final").rename(place / "base")
    written(place / "reward", 1, "sequence")
    return place


@pytest.fixture(scope="module")
def done(folder):
    """(what each process found, what it printed, requests that the server got)."""
    with serving(vllm) as (server, url):
        job = {"SLURM_JOB_ID": str(free_port(LOWEST) - LOWEST), "SERVER": url}
        environs = [environ_of(4, **slurm(2, i), **job) for i in range(2)]
        script = [str(TESTS / "process_jobs.py"), str(folder)]
        said = ended(begun(script, environs))
        asked = [tuple(body["prompt"]) for body in server.bodies]
    for code, out, err in said:
        assert code == 2, out + err
    found = [json.loads((folder / f"found-{i}.json").read_text()) for i in range(2)]
    return found, said, asked


@pytest.fixture(scope="module")
def alone(folder):
    """What one process finds on one device, and requests that the server got."""
    with serving(vllm) as (server, url):
        return sampled(url, None), grading(folder), server.bodies


def test_slurm_starts_a_run_and_says_who_is_who(done):
    found, _, _ = done
    assert [x["processes"] for x in found] == [x["again"] for x in found] == [2, 2]
    assert [x["exchanges"]["index"] for x in found] == [0, 1]


def test_what_is_computed_once_is_known_to_all(done):
    one, other = (x["exchanges"] for x in done[0])
    assert one["first"] == other["first"]
    assert one["long"] == other["long"] == 10000
    assert one["everyones"] == other["everyones"] == ["a" * 5000, "b" * 5000]
    assert [one["split"], other["split"]] == [[0, 2], [2, 5]]


def test_an_error_in_one_process_is_raised_in_all(done):
    one, other = (x["exchanges"] for x in done[0])
    assert one["refused"] == other["refused"] == "OSError: disk full"
    assert one["here_alone"] == other["here_alone"] == "KeyError: 'only in the second'"
    assert one["no_pickle"] == other["no_pickle"]
    assert "pickle" in one["no_pickle"]


def test_every_row_is_on_as_many_devices_as_the_mesh_says(done):
    one, other = (x["rows"] for x in done[0])
    copies = {'{"data": 2, "fsdp": 4}': 1, '{"data": 2, "tensor": 4}': 4}
    copies['{"fsdp": 4, "tensor": 2}'] = 2
    assert one.keys() == copies.keys()
    for mesh, count in copies.items():
        own, others = one[mesh], other[mesh]
        assert sorted(own[0] + others[0]) == sorted(list(range(16)) * count)
        assert own[1] and others[1]


def test_groups_are_graded_once_and_grades_are_those_of_one_process(done, alone):
    one, other = (x["grading"] for x in done[0])
    whole = alone[1]
    assert one.pop("asked") + other.pop("asked") == whole.pop("asked")
    # the reward counts its calls' samples: the notes of both are added
    assert one == other
    assert np.allclose(one.pop("model"), whole.pop("model"), rtol=1e-6)
    assert one == whole


def test_samplers_draw_the_same_on_a_mesh_of_processes(done, alone):
    found, _, asked = done
    expected, _, bodies = alone
    assert found[0]["sampled"] == found[1]["sampled"] == expected
    assert sorted(asked) == sorted(tuple(body["prompt"]) for body in bodies)


def test_a_run_is_that_of_one_process(done, folder, tmp_path_factory):
    """Numbers of every kind, the pages and the model of a run in two processes."""
    place = tmp_path_factory.mktemp("one")
    train(whole_run(folder), place)
    there = folder / "run"
    for name in ("metrics", "evaluation"):
        for one, other in zip(lines(place, name), lines(there, name), strict=True):
            assert one.keys() == other.keys()
            for key in one:
                assert float(one[key]) == pytest.approx(float(other[key]), abs=1e-5)
    pages = [sorted(x.name for x in p.glob("completions/*")) for p in (place, there)]
    assert pages[0] == pages[1] and len(pages[0]) > 2
    assert_same_files(place, there, "final/model.safetensors")
    assert json.loads((there / "environment.json").read_text())["processes"] == 2


def assert_same_files(one, other, name):
    """Arrays of two safetensors files agree."""
    whole, there = (load_file(folder / name) for folder in (one, other))
    assert whole.keys() == there.keys()
    for key, value in whole.items():
        assert np.allclose(value, there[key], atol=1e-5), key


def test_reference_log_probs_are_kept_once(done, folder, tmp_path):
    """The cache of two processes is that of one; the adapter alone is written."""
    train(cached_run(folder, tmp_path / "cache"), tmp_path / "one")
    caches = tmp_path / "cache", folder / "cache"
    names = [sorted(x.name for x in place.iterdir()) for place in caches]
    assert names[0] == names[1] and len(names[0]) == 2
    keys = [json.loads((place / "key.json").read_text()) for place in caches]
    assert keys[0] == keys[1]
    (name,) = (x for x in names[0] if x.endswith(".npz"))
    one, other = (np.load(place / name)["logps"] for place in caches)
    assert np.allclose(one, other, atol=1e-5)
    (line,), (there,) = lines(tmp_path / "one"), lines(folder / "cached")
    assert line["loss"] == pytest.approx(there["loss"], abs=1e-5)
    weights = "final/adapter_model.safetensors"
    assert_same_files(tmp_path / "one", folder / "cached", weights)


def test_an_evaluation_is_that_of_one_device(done, folder, capsys):
    arguments = [str(folder / "run" / "final"), str(folder / "tasks.yaml")]
    arguments += ["mesh=null", "--reference", str(folder / "base")]
    assert main(["eval", *arguments]) == 0
    # gloo says on standard output, too, who is connected
    printed = done[1][0][1]
    one = json.loads(capsys.readouterr().out)
    other = json.loads(printed[printed.index("{") :])
    assert one.keys() == other.keys() >= {"kl_reverse", "sums/sampled"}
    for key in one:
        assert one[key] == pytest.approx(other[key], abs=1e-5)


def test_only_the_first_prints(done):
    (_, out, err), (_, *others) = done[1]
    assert out and "step 2/2" in err
    refused = "unipost: process 0: mesh: null, but there are 2 processes; write mesh: "
    assert err.splitlines()[-1].startswith(refused)
    # what XLA says of its own goes past Python
    assert not any("unipost" in text or "step" in text for text in others)
