"""The programs of a step over a mesh, against what a real run holds and compiles."""

import dataclasses

import jax
import numpy as np
import pytest
from planned import experiment_of, folder_of

from unipost.batch import Batch
from unipost.hf.config import parse_config
from unipost.mesh import Mesh
from unipost.model import init_params
from unipost.plan import abstract
from unipost.plan.compiled import measure, read_memory, read_overflow
from unipost.plan.estimate import estimate_memory, resident_bytes, spread_of
from unipost.plan.flops import work_of
from unipost.plan.programs import open_step, parts_of
from unipost.update import State, update

MESHES = ({"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2})


def layout_of(experiment, sizes):
    mesh = Mesh(**sizes)
    pieces = experiment.minibatches * experiment.microbatches
    prompts = experiment.data.prompts // pieces
    return mesh.open(jax.devices()[:8], prompts=prompts, group=experiment.data.rows)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_what_stays_is_what_a_chip_holds(sizes, tmp_path):
    """Bytes by shape equal those of the first device's shards of real arrays."""
    folder = folder_of(tmp_path / "m")
    experiment = experiment_of(folder, "preferences")
    layout = layout_of(experiment, sizes)
    step = open_step(experiment, layout)
    config = parse_config(abstract.read_json(tmp_path / "m" / "config.json"), tmp_path)
    params = layout.spread(init_params(config, 0))
    params = jax.tree.map(lambda x: x.astype(np.float32), params)
    inner = layout.spread(experiment.optimizer.init(params))

    def held(tree):
        return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))

    real = {
        "parameters": held(params),
        "optimiser": held(inner),
        "reference": held(params),
    }
    assert step.resident == real
    spread = spread_of(Mesh(**sizes), 8)
    assert resident_bytes(experiment, step.subject, spread) == real


def test_an_adapter_and_its_frozen_base(tmp_path):
    """The base is the reference: held once, and only the adapter has moments."""
    folder = folder_of(tmp_path / "m")
    experiment = experiment_of(folder, "preferences", lora={"rank": 1})
    step = open_step(experiment, layout_of(experiment, MESHES[0]))
    base = open_step(
        experiment_of(folder, "preferences"), layout_of(experiment, MESHES[0])
    )
    assert "reference" not in step.resident
    assert step.resident["optimiser"] < base.resident["optimiser"] / 4
    assert step.resident["parameters"] > base.resident["parameters"]
    spread = spread_of(Mesh(**MESHES[0]), 8)
    assert resident_bytes(experiment, step.subject, spread) == step.resident


def test_the_update_is_that_of_a_run(tmp_path):
    """Its arguments are the state and the batch, and it computes on real arrays."""
    folder = folder_of(tmp_path / "m")
    experiment = experiment_of(folder, "preferences", microbatches=2)
    layout = layout_of(experiment, MESHES[1])
    step = open_step(experiment, layout)
    parts = {part.name: part for part in parts_of(step)}
    assert list(parts) == ["update", "score"]
    with jax.set_mesh(layout.mesh):
        lowered = parts["update"].lower()
        compiled = lowered.compile()
    memory = read_memory(compiled.memory_analysis())
    batch = abstract.held_bytes((step.rows, step.scored))
    stays = step.resident["parameters"] + step.resident["optimiser"]
    # beside them the schedule's steps and the objective's and optimiser's numbers
    assert 0 <= memory.arguments - stays - batch < 500
    assert memory.aliased >= stays
    filled = jax.tree.map(_filled, (step.state, step.rows, step.scored))
    with jax.set_mesh(layout.mesh):
        state, metrics = update(
            step.subject.policy,
            experiment.objective,
            experiment.optimizer,
            *filled,
            experiment.microbatches,
            np.int32(10),
            None,
            None,
            layout,
        )
    assert isinstance(state, State) and np.isfinite(float(metrics["loss"]))


def _filled(leaf):
    """Real zeros where an abstract array says; masks are True."""
    value = np.full(leaf.shape, leaf.dtype == np.bool_, leaf.dtype)
    return jax.device_put(value, leaf.sharding)


def test_the_programs_of_a_step_with_rollouts(tmp_path):
    """Score, signal and sampler beside the update; the sampler's end is data."""
    folder = folder_of(tmp_path / "m")
    asked = {"minibatches": 2, "objective": {"name": "grpo", "kl": 0.04}}
    experiment = experiment_of(folder, "rollouts", **asked)
    layout = layout_of(experiment, MESHES[0])
    step = open_step(experiment, layout)
    found = {}
    for part in parts_of(step):
        with jax.set_mesh(layout.mesh):
            found[part.name] = measure(part.name, part.lower(), 8, part.turns)
    assert list(found) == ["update", "score", "signal", "sample"]
    assert [x.overflow for x in found.values()] == [None] * 4
    assert len(found["sample"].loops) == 1
    assert found["update"].loops == ()
    assert step.signal is not None
    # 24 turns of 64 rows through 3 layers and the head, at the least
    entries = 3 * 64 * (16 * 12 + 3 * 160) + 64 * 512
    assert found["sample"].flops * 8 > 2 * 24 * 64 * entries * 0.9


def test_batches_have_what_their_source_gives(tmp_path):
    folder = folder_of(tmp_path / "m")
    experiment = experiment_of(folder, "rollouts")
    data = dataclasses.replace(experiment.data, truncated="masked")
    sizes = abstract.sizes_of(data)
    assert (sizes.prompts, sizes.group, sizes.prompt, sizes.response) == (16, 4, 8, 24)
    batch = abstract.batch_of(data, sizes)
    assert isinstance(batch, Batch)
    given = {n: x.shape for n, x in vars(batch).items() if x is not None}
    assert given == {
        "mask": (16, 4, 24),
        "rewards": (16, 4),
        "behavior": (16, 4, 24),
        "off_policy": (16, 4),
        "weight": (16, 4),
    }


def test_packed_rows_have_the_shape_of_full_texts(tmp_path):
    """16 texts of 31 tokens, two in a row of 64, on 8 devices."""
    experiment = experiment_of(folder_of(tmp_path / "m"), packed_length=64)
    step = open_step(experiment, layout_of(experiment, MESHES[0]))
    assert step.rows.packed.tokens.shape == (1, 8, 64)
    (update_part,) = parts_of(step)
    with jax.set_mesh(step.layout.mesh):
        assert measure("update", update_part.lower(), 8).memory is not None


def test_what_the_compiler_says_when_memory_is_short():
    said = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
        "memory space hbm. Used 34.03G of 15.75G hbm. Exceeded hbm capacity by 18.28G."
    )
    found = read_overflow(said)
    assert found is not None
    assert found.wanted == int(34.03 * 2**30) and found.there == int(15.75 * 2**30)
    other = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
        "HLO temporaries (35.26G) exceeds available HBM (15.75G)."
    )
    found = read_overflow(other)
    assert found is not None and found.wanted == int(35.26 * 2**30)
    assert read_overflow("INVALID_ARGUMENT: something else") is None


def test_estimates_grow_with_what_they_are_made_of(tmp_path):
    """Twice the rows: twice the activations; more microbatches: less of them."""
    folder = folder_of(tmp_path / "m", hidden_size=256, intermediate_size=1024)
    spread = spread_of(Mesh(data=1, fsdp=2), 2)

    def made(**settings):
        return estimate_memory(experiment_of(folder, **settings), spread, "tpu")

    one, cut = made(), made(microbatches=4)
    assert cut.activations == one.activations / 4
    assert cut.gradients == one.gradients == cut.sums and one.sums == 0
    whole = made(compute={"remat": "none"})
    dots = made(compute={"remat": "dots"})
    assert whole.activations > dots.activations > one.activations
    assert one.resident["optimiser"] == 2 * one.resident["parameters"] + 8 - 4
    narrow = {"name": "adamw", "learning_rate": 1e-3, "mu_dtype": "bfloat16"}
    half = made(optimizer=narrow)
    assert half.resident["optimiser"] < one.resident["optimiser"]


def test_a_parameter_that_does_not_divide_is_named(tmp_path):
    folder = folder_of(tmp_path / "m", intermediate_size=162)
    spread = spread_of(Mesh(data=1, fsdp=2, tensor=4), 8)
    with pytest.raises(ValueError, match=r"blocks\.\w+\.kernel, dimension \d of 162"):
        estimate_memory(experiment_of(folder), spread, "tpu")


def test_a_critic_is_a_model_of_its_own(tmp_path):
    """PPO: its state stays beside the policy's, and two programs more."""
    folder = folder_of(tmp_path / "m")
    critic = {"optimizer": {"name": "adamw", "learning_rate": 1e-3}}
    asked = {"objective": "ppo", "critic": critic, "minibatches": 2}
    experiment = experiment_of(folder, "rollouts", **asked)
    layout = layout_of(experiment, MESHES[0])
    step = open_step(experiment, layout)
    table = (
        step.resident["parameters"]
        * 512
        * 64
        // sum(x.size for x in jax.tree.leaves(step.whole))
    )
    # thrice its trunk, which has no table to the logits
    assert step.resident["critic"] == pytest.approx(
        step.resident["parameters"] + step.resident["optimiser"] - 3 * table, rel=0.01
    )
    spread = spread_of(Mesh(**MESHES[0]), 8)
    assert resident_bytes(experiment, step.subject, spread) == step.resident
    config = step.subject.config
    works = work_of(experiment, config, step.sizes, layout.sizes, "cpu")
    for part in parts_of(step):
        if part.name in ("values", "critic"):
            with jax.set_mesh(layout.mesh):
                found = measure(part.name, part.lower(), 8, part.turns)
            assert found.memory is not None
            ran = found.flops * 8 * part.runs
            assert ran == pytest.approx(works[part.name].hardware, rel=0.3)
