"""Compiling for TPUs that are not there; collected where libtpu is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from planned import folder_of

from unipost.plan.compiled import measure, open_devices
from unipost.plan.topology import parse_topology

ROOT = Path(__file__).parent.parent
SETTINGS = (
    "data.prompts=16",
    "data.prompt_length=64",
    "data.response_length=65",
)


def plan(tmp_path, *arguments, file="experiments/plan/sft_8b.yaml"):
    """(stdout and stderr, the record) of the command, in a process of its own."""
    out = tmp_path / "plan.json"
    command = [sys.executable, "-m", "unipost", "plan", file, *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"}
    done = subprocess.run(
        [*command, "--json", str(out)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, json.loads(out.read_text())


@pytest.fixture
def tiny(tmp_path):
    """A model with heads of 128, so that attention is the TPU's kernel."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 128}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return folder_of(tmp_path / "model", vocab_size=1024, **sizes, **heads)


def test_a_step_is_compiled_for_a_pod(tiny, tmp_path):
    arguments = ("--model", tiny, "--topology", "v5e-16", *SETTINGS)
    text, tree = plan(tmp_path, *arguments)
    assert "v5e-16: 16 chips TPU v5e (4x4)" in text and "fits:" in text
    (update,) = tree["programs"]
    memory = update["memory"]
    assert tree["peak"] == memory["peak"] >= memory["arguments"]
    state = tree["parts"]["parameters"] + tree["parts"]["optimiser"]
    assert 0 <= memory["arguments"] - state < 2**20
    assert memory["aliased"] >= state
    # the kernel's products are not XLA's: the rest agrees with the formula
    rest = update["hardware_flops"] - update["kernel_flops"]
    assert update["kernel_flops"] > 0
    assert update["flops"] * 16 == pytest.approx(rest, rel=0.02)
    # weights of three layers over 16 chips, gathered forward and backward
    assert update["collectives"]["all-gather"][0] >= 2 * 3
    assert tree["seconds"]["least"] > 0


def test_names_count_as_google_counts(tiny, tmp_path):
    """v5p-8 is four chips, one program of DPO with its scoring pass."""
    arguments = ("--model", tiny, "--topology", "v5p-8", *SETTINGS)
    file = "experiments/plan/dpo_8b.yaml"
    text, tree = plan(tmp_path, *arguments, file=file)
    assert tree["chips"] == 4 and "v5p-8: 4 chips TPU v5p (2x2x1)" in text
    assert [x["name"] for x in tree["programs"]] == ["update", "score"]
    assert tree["parts"]["reference"] == tree["parts"]["parameters"]


def test_a_step_that_is_too_large_is_refused_by_the_compiler(tmp_path):
    """8 billion parameters on four chips of 16 GB: by how much, and what to do."""
    text, tree = plan(tmp_path, "--topology", "v5e-4")
    (update,) = tree["programs"]
    assert update["memory"] is None and not tree["fits"]
    assert update["overflow"]["wanted"] > update["overflow"]["there"] > 15 * 2**30
    assert "does not fit: the compiler asks for" in text and "too much" in text


@pytest.mark.parametrize("name", ["v4-8", "v5e-4", "v5p-8", "v6e-4"])
def test_the_memory_of_a_chip_is_what_the_compiler_has(name):
    """A program of 400 GiB is refused, with the memory that there is."""
    topology = parse_topology(name)
    devices = open_devices(topology)
    assert len(devices) == topology.chips
    mesh = jax.sharding.Mesh(np.array(devices), ("a",))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    array = jax.ShapeDtypeStruct((50 * 2**30,), jnp.float32, sharding=whole)
    found = measure(name, jax.jit(lambda x: x + 1).lower(array), topology.chips)
    assert found.overflow is not None
    assert found.overflow.there == pytest.approx(topology.chip.memory, rel=1e-3)
