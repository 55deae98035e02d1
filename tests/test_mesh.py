"""A named mesh: sizes, rules, where rows lie; runs on it give one device's numbers."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from tiny_runs import TINY, experiment, lines, write_sums

from unipost import presets
from unipost.adapters import LoRA
from unipost.checkpoint import Checkpoints
from unipost.config import build, to_tree
from unipost.held_out import HeldOut
from unipost.mesh import RULES, Mesh, constrain, within
from unipost.mesh.rules import spec_of
from unipost.model import ModelConfig, init_params
from unipost.optimizers import Adafactor, AdamW
from unipost.scalar.critic import Critic
from unipost.train import load_model, train

WIDE = replace(TINY, hidden_size=32, num_attention_heads=4, num_key_value_heads=4)
# its vocabulary is 14 characters
RULES_14 = {"embedding": ["tensor?", "fsdp?"]}


def test_sizes_fill_up_what_is_left():
    """-1 is what the others leave; sizes multiply to the devices or are refused."""
    sizes = Mesh(fsdp=2, tensor=2).sizes(8)
    assert sizes == {"data": 2, "fsdp": 2, "expert": 1, "sequence": 1, "tensor": 2}
    assert Mesh(data=1, fsdp=-1).sizes(6)["fsdp"] == 6
    with pytest.raises(ValueError, match="fsdp 3 does not make 8 devices"):
        Mesh(fsdp=3).sizes(8)
    with pytest.raises(ValueError, match="data 2 x tensor 2 does not make 8 devices"):
        Mesh(data=2, tensor=2).sizes(8)
    with pytest.raises(ValueError, match="data and fsdp are -1; only one can be"):
        Mesh(fsdp=-1)
    for wrong in (0, -2, 2.0):
        with pytest.raises(ValueError, match="mesh.tensor"):
            Mesh(tensor=wrong)


def test_config_round_trip():
    """A config says it as a mapping; unknown axes are refused by name."""
    tree = {"data": -1, "fsdp": 4, "tensor": 2, "rules": {"embedding": [None, "fsdp"]}}
    mesh = build(Mesh, tree, "mesh", "x.yaml")
    assert mesh == Mesh(fsdp=4, tensor=2, rules={"embedding": [None, "fsdp"]})
    assert build(Mesh, to_tree(mesh), "mesh", "x.yaml") == mesh
    with pytest.raises(ValueError, match="tensr"):
        build(Mesh, {"tensr": 2}, "mesh", "x.yaml")


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("embedding", (64, 32), P(("tensor",), ("fsdp",))),
        ("head.kernel", (32, 64), P(("fsdp",), ("tensor",))),
        ("blocks.query.kernel", (4, 32, 64), P(None, ("fsdp",), ("tensor",))),
        ("blocks.down.kernel", (4, 64, 32), P(None, ("tensor",), ("fsdp",))),
        ("blocks.key.bias", (4, 64), P(None, ("tensor",))),
        ("blocks.up.kernel", (4, 8, 32, 64), P(None, None, ("fsdp",), ("tensor",))),
        ("blocks.mlp_norm.scale", (4, 32), P()),
        # the state of an optimiser and the parts of a larger model go by the same rules
        ("optimizer.0.mu.blocks.up.kernel", (4, 32, 64), P(None, "fsdp", "tensor")),
        ("base.blocks.up.kernel", (4, 32, 64), P(None, "fsdp", "tensor")),
        # factored moments have other dimensions; no name of ours ends so
        ("optimizer.v_row.blocks.up.kernel", (4, 32), P()),
        ("not_blocks.query.kernel", (4, 32, 64), P()),
        # low-rank factors divide or stay whole
        ("adapter.query.a", (4, 32, 6), P(None, ("fsdp",), None)),
        ("adapter.query.a", (4, 30, 6), P(None, None, None)),
        # large parameters of another model, along the longest that divides
        ("mine", (1023, 1028), P(None, "fsdp")),
        ("mine", (1027, 1025), P(None, None)),
        ("mine", (8, 8), P()),
    ],
)
def test_the_table(name, shape, spec):
    """Which axes each kind of parameter is spread over, fsdp 4 x tensor 2."""
    sizes = {"data": 1, "fsdp": 4, "expert": 1, "sequence": 1, "tensor": 2}
    assert spec_of(name, shape, sizes, RULES) == spec


def test_what_does_not_divide_is_named():
    """The parameter, the dimension and the axis; a question mark leaves it whole."""
    config = ModelConfig(14, **{k: v for k, v in sizes_of(WIDE).items()})
    params = init_params(config, 0)
    mesh = Mesh(fsdp=4, tensor=2)
    layout = mesh.open()
    spread = layout.spread(params)
    assert spread["embedding"].sharding.spec == P("tensor", "fsdp")
    with pytest.raises(ValueError) as error:
        Mesh(tensor=4, fsdp=2).open().spread(params)
    assert str(error.value) == (
        "mesh: parameter embedding, dimension 0 of 14 does not divide over tensor: 4; "
        "write another size, or a rule such as mesh.rules: {embedding: [...]} with "
        "tensor? to leave it whole"
    )
    soft = Mesh(tensor=4, fsdp=2, rules=RULES_14).open()
    assert soft.spread(params)["embedding"].sharding.spec == P(None, "fsdp")


def sizes_of(new):
    """The sizes of a new model that its config takes."""
    names = {"characters", "tokenizer"}
    return {k: v for k, v in vars(new).items() if k not in names}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"embeding": [None, "fsdp"]}, "embeding: matches no parameter; write the end"),
        ({"embedding": ["fsdp"]}, r"has 1 entries, but embedding has 2 dimensions"),
        ({"embedding": [None, "model"]}, "'model' is no axis; write data, fsdp"),
        ({"embedding": "fsdp"}, "write a list, an entry a dimension"),
        ({"embedding": ["fsdp", "fsdp"]}, "fsdp stands twice"),
        ({"(": [None]}, "is no regex"),
    ],
)
def test_rules_of_ones_own_are_checked(rules, message):
    """A rule that says nothing, or nonsense, is refused before anything runs."""
    params = init_params(ModelConfig(14, **sizes_of(WIDE)), 0)
    with pytest.raises(ValueError, match=message):
        Mesh(rules=rules).open().check(params)


def test_rows_fill_up_prompts_then_groups():
    """Row axes go over P while they divide it, the others over G; else refused."""
    layout = Mesh(data=2, fsdp=4).open(prompts=2, group=4)
    assert layout.rows((2, 4, 7)).spec == P(("data",), ("fsdp",))
    # the order of the axes is the one that fits
    layout = Mesh(data=4, fsdp=2).open(prompts=2, group=4)
    assert layout.mesh.axis_names[:2] == ("fsdp", "data")
    assert layout.rows((2, 4, 7)).spec == P(("fsdp",), ("data",))
    assert Mesh(data=8).open(prompts=16).rows((16, 1, 3)).spec == P(("data",), None)
    with pytest.raises(
        ValueError, match="2 prompts x 4 rows .* write data: 2, fsdp: 4"
    ):
        Mesh(data=8).open(prompts=2, group=4)
    with pytest.raises(ValueError, match="3 prompts x 2 rows .* or fewer devices"):
        Mesh(data=8).open(prompts=3, group=2)


def test_every_row_lies_somewhere_once():
    """Placed rows are the batch; shards over rows are disjoint, over others equal."""
    layout = Mesh(data=2, fsdp=2, tensor=2).open(prompts=4, group=1)
    rows = np.arange(4 * 3).reshape(4, 1, 3)
    tree = layout.place({"rows": rows, "one": np.arange(4), "number": np.float32(2)})
    assert np.array_equal(tree["rows"], rows)
    assert np.array_equal(tree["one"], np.arange(4)) and tree["number"] == 2
    parts = {}
    for shard in tree["rows"].addressable_shards:
        part = np.asarray(shard.data)
        parts.setdefault(int(part[0, 0, 0]), []).append(part)
    assert sorted(parts) == [0, 3, 6, 9]
    assert all(len(x) == 2 and (x[0] == x[1]).all() for x in parts.values())


def test_hints_do_nothing_without_a_mesh():
    """The program of one device is as if there were no hints; on a mesh it has them."""
    x = np.ones((8, 4))
    assert "sharding_constraint" not in str(jax.make_jaxpr(hinted)(x))
    layout = Mesh(data=4, tensor=2).open()
    with within(layout):
        out = jax.jit(hinted)(x)
    assert out.sharding.spec == P("data", "tensor")
    assert np.array_equal(out, 2 * x)


def hinted(x):
    """Rows and columns spread."""
    return constrain(x * 2, "batch", "tensor")


def test_a_checkpoint_is_read_to_where_it_goes(tmp_path):
    """Inside a run's mesh, parameters as the rules say, with the file's numbers."""
    model = load_model(WIDE, 3)
    model.save(tmp_path, model.params)
    layout = Mesh(fsdp=4, tensor=2).open()
    with within(layout):
        found = load_model(str(tmp_path / "final"), 0, layout=layout)
    assert found.mesh == layout
    pairs = zip(*map(jax.tree.leaves, (model.params, found.params)), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    spec = found.params["blocks"]["up"]["kernel"].sharding.spec
    assert spec == P(None, "fsdp", "tensor")


def differences(one, other):
    """The largest difference of each number over the steps."""
    assert len(one) == len(other) and one[0].keys() == other[0].keys()
    names = one[0].keys() - {"step"}
    pairs = list(zip(one, other, strict=True))
    return {k: max(abs(a[k] - b[k]) for a, b in pairs) for k in names}


def run_of(case: str, path: str):
    """A short run of eight prompts a step with what the case is about."""
    plain = {"model": WIDE, "evaluation": None, "checkpoints": None}
    kind = {"packed_adapter": "sft", "pieces": "sft"}.get(case, "grpo")
    run = experiment(kind, path, **plain)
    run = replace(run, data=replace(run.data, prompts=8))
    if case == "packed_adapter":
        held = HeldOut(replace(run.data, prompts=8), every=3)
        return replace(run, packed_length=12, lora=LoRA(rank=4), held_out=held)
    if case == "pieces":
        return replace(run, microbatches=2, optimizer=Adafactor(1e-2))
    critic = Critic(AdamW(1e-2))
    own = {"objective": presets.ppo(), "critic": critic, "minibatches": 2}
    return replace(run, steps=3, inner_epochs=2, staleness=1, sync_every=2, **own)


@pytest.mark.parametrize("case", ["packed_adapter", "pieces", "ppo"])
def test_same_numbers(case, tmp_path):
    """One device and data 2 x fsdp 2 x tensor 2 agree in every number of every step."""
    run = run_of(case, write_sums(tmp_path, 16))
    mesh = Mesh(data=2, fsdp=2, tensor=2, rules=RULES_14)
    alone = train(run, tmp_path / "alone")
    spread = train(replace(run, mesh=mesh), tmp_path / "spread")
    found = differences(lines(tmp_path / "alone"), lines(tmp_path / "spread"))
    assert max(found.values()) < 1e-5, found
    for a, b in zip(*map(jax.tree.leaves, (alone.params, spread.params)), strict=True):
        assert len(b.devices()) == 8
        np.testing.assert_allclose(a, b, atol=2e-5)
    timing = lines(tmp_path / "spread", "timing")
    # the state comes back where it was: nothing is compiled again
    assert timing[-1]["compile_seconds"] == 0


def test_a_run_goes_on_on_another_mesh(tmp_path):
    """Two steps on fsdp 4 x tensor 2, two on data 8, the rest on one device."""
    run = experiment("sft", write_sums(tmp_path, 16), model=WIDE, evaluation=None)
    run = replace(run, data=replace(run.data, prompts=8), checkpoints=Checkpoints(2))
    train(run, tmp_path / "alone")
    folder = tmp_path / "moved"
    for stop, mesh in (
        (2, Mesh(data=1, fsdp=4, tensor=2, rules=RULES_14)),
        (4, Mesh(data=8)),
        (6, None),
    ):
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, stop)
            try:
                train(replace(run, mesh=mesh), folder)
            except InterruptedError:
                assert stop < 6
    found = differences(lines(tmp_path / "alone"), lines(folder))
    assert found["loss"] < 1e-5 and found["grad_norm"] < 1e-5


def stop_after(patch, step: int) -> None:
    """Break the run off in the step after a save."""
    from unipost.loop import Loop

    taken = Loop.step

    def one(self, carried, at, ahead):
        if at >= step:
            raise InterruptedError
        return taken(self, carried, at, ahead)

    patch.setattr(Loop, "step", one)
