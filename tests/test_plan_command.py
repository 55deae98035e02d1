"""The verb: what it prints and refuses, where nothing is compiled."""

import dataclasses
import json
from pathlib import Path

import pytest
from planned import experiment_of, folder_of

from unipost.cli import main
from unipost.plan import compiled
from unipost.plan.plan import estimate_plan
from unipost.plan.search import candidates, fits, quickest, remedies, smallest
from unipost.plan.topology import parse_topology
from unipost.plan.verb import parse_mesh, with_mesh

ROOT = Path(__file__).parent.parent
PLANS = sorted((ROOT / "experiments" / "plan").glob("*.yaml"))
SFT = "experiments/plan/sft_8b.yaml"


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def told(capsys, *arguments):
    """(exit code, stdout, stderr) of `unipost plan`."""
    code = main(["plan", *arguments])
    return code, *capsys.readouterr()


@pytest.mark.parametrize("file", PLANS, ids=lambda p: p.stem)
def test_every_plan_is_estimated_for_gpus(file, capsys, tmp_path):
    """Labelled ESTIMATE wherever a figure is not exact; data and weights are absent."""
    out = tmp_path / "plan.json"
    asked = ("--topology", "h100x8x4", "--mesh", "auto", "--json", str(out))
    code, text, _ = told(capsys, str(file), *asked)
    assert code == 0, text
    assert "h100x8x4: 4 x 8 H100 80 GB SXM" in text
    assert text.count("ESTIMATE") >= 3
    tree = json.loads(out.read_text())
    assert tree["method"] == "ESTIMATE" and tree["chips"] == 32
    assert tree["peak"] > sum(
        tree["parts"][name] for name in ("parameters", "optimiser")
    )
    assert 0 < tree["mfu"][0] <= tree["mfu"][1] < 1


def test_parameters_are_those_of_the_models():
    counts = {}
    for name in ("qwen2.5-0.5b", "llama-3.1-8b", "llama-3.1-70b"):
        experiment = experiment_of(f"experiments/shapes/{name}")
        counts[name] = estimate_plan(experiment, parse_topology("a100x8")).parameters
    assert counts == {
        "qwen2.5-0.5b": 494_032_768,
        "llama-3.1-8b": 8_030_261_248,
        "llama-3.1-70b": 70_553_706_496,
    }


def test_a_tpu_without_libtpu_is_one_line(capsys, monkeypatch):
    from jax.experimental import topologies

    def missing(*_, **__):
        raise RuntimeError("Unable to initialize backend 'tpu': not found\nlibtpu")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    monkeypatch.setattr(compiled, "has_libtpu", lambda: False)
    code, out, error = told(capsys, SFT, "--topology", "v5e-256")
    assert code == 2 and out == ""
    assert error.strip().endswith(
        "unipost: --topology v5e-256: compiling for a TPU needs libtpu; write pip "
        "install 'unipost[tpu]' (GPU topologies are estimated without it)"
    )


REFUSED = {
    "no such topology": ((SFT, "--topology", "v5e-17"), "there is no v5e-17"),
    "no such axis": (
        (SFT, "--topology", "h100x8", "--mesh", "model=4"),
        "--mesh: 'model=4' is no axis=size",
    ),
    "sizes that make no mesh": (
        (SFT, "--topology", "h100x8", "--mesh", "fsdp=3"),
        "fsdp 3 does not make 8 devices",
    ),
    "a study": (
        ("experiments/quickstart.yaml", "--topology", "h100x8"),
        "quickstart.yaml: holds several runs",
    ),
    "a folder without a model": (
        (SFT, "--topology", "h100x8", "--model", "experiments/data"),
        "experiments/data/config.json: not found",
    ),
    "a parameter that does not divide": (
        (SFT, "--topology", "h100x5", "--mesh", "tensor=5"),
        "does not divide over tensor: 5",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_one_line(case, capsys):
    arguments, said = REFUSED[case]
    code, out, error = told(capsys, *arguments)
    assert code == 2 and said in error
    assert len(error.strip().splitlines()) == 1


def test_meshes_as_the_command_line_writes_them():
    assert parse_mesh("fsdp=4,tensor=2", {}).sizes(16)["data"] == 2
    assert parse_mesh("fsdp=-1", {}).sizes(16)["fsdp"] == 16
    assert parse_mesh("data=2,fsdp=-1", {}).sizes(16)["fsdp"] == 8
    for wrong in ("fsdp", "fsdp=", "fsdp=x", "=4", "fsdp=4;tensor=2"):
        with pytest.raises(ValueError, match="--mesh: .* is no axis=size"):
            parse_mesh(wrong, {})


def test_auto_takes_the_quickest_that_fits(tmp_path):
    experiment = experiment_of("experiments/shapes/llama-3.1-8b")
    topology = parse_topology("h100x8")
    every = candidates(experiment, topology)
    best, least = quickest(experiment, topology), smallest(experiment, topology)
    assert best is not None and least is not None
    assert fits(best, topology) and fits(least, topology)
    fitting = [c for c in every if fits(c, topology)]
    assert best.time.most == min(c.time.most for c in fitting)
    spread = [c.mesh.fsdp * c.mesh.tensor for c in fitting]
    assert least.mesh.fsdp * least.mesh.tensor == min(spread)
    assert with_mesh(experiment, "auto", topology).mesh == best.mesh
    # every mesh has all chips and divides 16 rows
    for one in every:
        assert one.mesh.data * one.mesh.fsdp * one.mesh.tensor == 8
        assert 16 % (one.mesh.data * one.mesh.fsdp) == 0


def test_what_to_change_is_checked(tmp_path):
    """Every change that is named makes some mesh fit, by the estimate that says so."""
    folder = "experiments/shapes/llama-3.1-8b"
    data = {"prompt_length": 512, "response_length": 1536, "prompts": 256}
    experiment = experiment_of(
        folder,
        data="demonstrations",
        compute={"dtype": "bfloat16", "remat": "none"},
    )
    experiment = dataclasses.replace(
        experiment, data=dataclasses.replace(experiment.data, **data)
    )
    topology = parse_topology("a100x8")
    assert smallest(experiment, topology) is None
    found = list(remedies(experiment, topology))
    assert found
    for one in found:
        assert fits(one, topology) and one.change
    changes = " ".join(one.change for one in found)
    assert "compute.remat=full" in changes and "microbatches=" in changes


def test_a_step_that_does_not_fit_says_by_how_much_and_what_to_do(capsys):
    code, text, _ = told(capsys, SFT, "--topology", "a100x4", "--mesh", "auto")
    assert code == 0
    assert "ESTIMATE: does not fit:" in text and "too much" in text
    assert "what fits, the least change first" in text
    assert "microbatches=" in text and "(estimate)" in text


def test_nothing_fits_whatever_is_changed(capsys):
    arguments = ("experiments/plan/sft_70b.yaml", "--topology", "a100x2")
    code, text, _ = told(capsys, *arguments)
    assert code == 0 and "no mesh of 2 chips fits by estimate" in text


def test_longer_rows_take_more(tmp_path):
    folder = folder_of(tmp_path / "m")
    topology = parse_topology("h100x8")
    short = estimate_plan(experiment_of(folder), topology)
    long = estimate_plan(experiment_of(folder, packed_length=64), topology)
    assert long.items[0].work.model > short.items[0].work.model


def test_what_is_left_out_is_said(capsys):
    arguments = ("experiments/plan/grpo_8b.yaml", "--topology", "h100x8x4")
    _, text, _ = told(capsys, *arguments)
    assert "not in the plan" not in text
    more = ("data.sampler=continuous", "data.groups=resample")
    _, text, _ = told(capsys, *arguments, *more)
    said = "not in the plan: the sampler ContinuousSampler, up to 3 more rounds"
    assert said in text
