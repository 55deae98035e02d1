"""The parser against programs whose collectives, products and loops are known."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from unipost.plan.collectives import by_kind, find_collectives, first_group
from unipost.plan.hlo import parse_program, parse_shapes
from unipost.plan.loops import count_runs
from unipost.plan.traffic import memory_bytes, product_flops

FIXTURES = Path(__file__).parent / "fixtures" / "plan"


def mesh_of(**axes):
    """A mesh over the first host devices."""
    count = int(np.prod(list(axes.values())))
    devices = np.array(jax.devices()[:count]).reshape(tuple(axes.values()))
    return jax.sharding.Mesh(devices, tuple(axes))


def program_of(function, *arrays):
    """(program, runs, compiled) of a function of arrays or shapes."""
    compiled = jax.jit(function).lower(*arrays).compile()
    program = parse_program(compiled.as_text())
    return program, count_runs(program), compiled


def f32(*sizes, sharding=None):
    return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=sharding)


def by_hand(mesh, spec, out, body):
    """`body` by hand on every device, run on an array spread by `spec`."""
    call = partial(jax.shard_map, mesh=mesh, check_vma=False)
    return call(body, in_specs=spec, out_specs=out)


# of an array of `sent` whole bytes, one chip of n sends this share
KINDS = {
    "all-reduce": (lambda x: jax.lax.psum(x, "a"), 4 * 1000, 2 * 7 / 8),
    "all-gather": (
        lambda x: jax.lax.all_gather(x, "a").sum(0),
        8 * 4 * 1000,
        7 / 8,
    ),
    "reduce-scatter": (
        lambda x: jnp.tile(jax.lax.psum_scatter(x, "a", tiled=True), 8),
        4 * 1000,
        7 / 8,
    ),
    "all-to-all": (
        lambda x: jax.lax.all_to_all(x.reshape(8, 125), "a", 0, 0).reshape(-1),
        4 * 1000,
        7 / 8,
    ),
    "collective-permute": (
        lambda x: jax.lax.ppermute(x, "a", [(i, (i + 1) % 8) for i in range(8)]),
        4 * 1000,
        1.0,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_collective_in_a_loop_counts_as_often_as_the_loop_turns(kind):
    """1000 floats on each of 8 devices, exchanged in each of 7 turns."""
    exchange, whole, share = KINDS[kind]

    def body(x):
        return jax.lax.scan(lambda y, _: (exchange(y) * 0.5, None), x, None, 7)[0]

    mesh = mesh_of(a=8)
    run = by_hand(mesh, P("a"), P("a"), body)
    spread = f32(8000, sharding=NamedSharding(mesh, P("a")))
    program, runs, _ = program_of(run, spread)
    found = by_kind(find_collectives(program, runs, 8))
    assert found.keys() == {kind}
    count, sent = found[kind]
    assert count == 7
    np.testing.assert_allclose(sent, 7 * whole * share, rtol=1e-12)
    assert runs.unknown == ()


def test_loops_inside_loops_multiply():
    def inner(x, _):
        return jnp.tanh(jax.lax.psum(x @ x, "a")), None

    def body(x):
        def outer(y, _):
            return jax.lax.scan(inner, y, None, 3)[0], None

        return jax.lax.scan(outer, x, None, 5)[0]

    mesh = mesh_of(a=4)
    program, runs, _ = program_of(by_hand(mesh, P(), P(), body), f32(16, 16))
    count, sent = by_kind(find_collectives(program, runs, 4))["all-reduce"]
    assert count == 15
    np.testing.assert_allclose(sent, 15 * 4 * 256 * 2 * 3 / 4)
    assert product_flops(program, runs) == 15 * 2 * 16**3


def test_a_group_is_that_of_its_axis():
    """A sum over the axis of 2 is a group of 2, over both one of 8."""
    mesh = mesh_of(a=4, b=2)
    for axes, size in (("b", 2), ("a", 4), (("a", "b"), 8)):
        reduce = partial(jax.lax.psum, axis_name=axes)
        program, runs, _ = program_of(by_hand(mesh, P(), P(), reduce), f32(64))
        (found,) = find_collectives(program, runs, 8)
        assert len(found.group) == size


def test_counts_down_and_from_another_start():
    def down(x):
        return jax.lax.fori_loop(0, 6, lambda i, y: y @ y * 0.1, x)

    def from_three(x):
        return jax.lax.fori_loop(3, 11, lambda i, y: y @ y * 0.1, x)

    for function, turns in ((down, 6), (from_three, 8)):
        program, runs, _ = program_of(function, f32(8, 8))
        assert product_flops(program, runs) == turns * 2 * 8**3

    def reverse(x):
        def step(y, z):
            return y @ y * z, y

        return jax.lax.scan(step, x, jnp.arange(9.0, dtype=x.dtype), reverse=True)

    program, runs, _ = program_of(reverse, f32(8, 8))
    assert product_flops(program, runs) == 9 * 2 * 8**3


def test_a_loop_that_ends_with_the_data_is_said_and_given_its_turns():
    def until(x):
        return jax.lax.while_loop(lambda y: y.sum() < 1.0, lambda y: y @ y, x)

    text = jax.jit(until).lower(f32(8, 8)).compile().as_text()
    program = parse_program(text)
    runs = count_runs(program, turns=12)
    assert len(runs.unknown) == 1
    assert product_flops(program, runs) == 12 * 2 * 8**3


def test_products_and_bytes_agree_with_xla_where_nothing_loops():
    def two(x, y):
        return jnp.tanh(x @ y) @ y.T

    program, runs, compiled = program_of(two, f32(64, 96), f32(96, 128))
    said = compiled.cost_analysis()
    assert product_flops(program, runs) == 2 * 2 * 64 * 96 * 128
    np.testing.assert_allclose(product_flops(program, runs), said["flops"], rtol=0.01)
    moved = memory_bytes(program, runs)
    np.testing.assert_allclose(moved, said["bytes accessed"], rtol=0.05)


def test_slices_of_a_stack_count_as_slices():
    """A scan over stacked matrices reads each of them once, not the stack each turn."""

    def run(stack, x):
        return jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), x, stack)[0]

    program, runs, _ = program_of(run, f32(50, 256, 256), f32(4, 256))
    once = 50 * 256 * 256 * 4
    # each matrix is cut out (read, written) and read again by its product
    assert once <= memory_bytes(program, runs) < 4 * once


def test_a_program_for_a_tpu():
    """A layer scan of libtpu, five turns on 4 x 4 chips, with fused and async forms.

    x [64, 1024] float32 over fsdp 4, w [5, 1024, 1024] over fsdp 4 and tensor 4, the
    products in bfloat16: what each collective carries is known from the shapes.
    """
    program = parse_program((FIXTURES / "scan_v5e_16.hlo").read_text())
    runs = count_runs(program)
    assert runs.unknown == ()
    found = find_collectives(program, runs, 16)
    by_size = {(x.kind, x.bytes, len(x.group)): 0.0 for x in found}
    for x in found:
        by_size[x.kind, x.bytes, len(x.group)] += x.count
    weights, stream = 1024 * 256 * 2, 16 * 1024 * 2
    assert by_size == {
        ("all-gather", weights, 4): 10,  # forward and backward, over fsdp
        ("all-gather", stream, 4): 10,  # over tensor
        ("reduce-scatter", 16 * 1024 * 4, 4): 5,  # the gradient of the stream
        ("all-reduce", 256 * 1024 * 4, 4): 5,  # the gradient of the weights
        ("all-reduce", 4, 16): 1,  # the loss
    }
    # three products of 16 rows: forward, and one for each gradient
    assert product_flops(program, runs) == 5 * 3 * 2 * 16 * 1024 * 256


def test_groups_in_every_spelling():
    assert first_group("{{0,1,2},{3,4,5}}", 6) == (0, 1, 2)
    assert first_group("[2,4]<=[8]", 8) == (0, 1, 2, 3)
    assert first_group("[4,2]<=[2,4]T(1,0)", 8) == (0, 4)
    assert first_group("mesh['a'=2,'b'=4] {'b'}", 8) == (0, 1, 2, 3)
    assert first_group("mesh['a'=2,'b'=4] {'a'}", 8) == (0, 4)
    assert first_group("mesh['a'=2,'b'=4] {'a','b'}", 8) == tuple(range(8))
    assert first_group("mesh['a'=2,'b'=4] {'b':(1)2}", 8) == (0, 2)
    assert first_group("mesh['a'=2,'b'=4] {'b':(2)2}", 8) == (0, 1)
    # the devices of an axis of 4 beside one of 2, numbered the other way round
    turned = "mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {%s}"
    assert first_group(turned % "'a'", 8) == (0, 1, 2, 3)
    assert first_group(turned % "'b'", 8) == (0, 4)
    assert first_group("{}", 3) == (0, 1, 2)
    for unknown in ("mesh['a'=2,'b'=4]", "[2,4]<=?", "other"):
        with pytest.raises(ValueError, match="^hlo: "):
            first_group(unknown, 8)


def test_sizes_of_arrays():
    text = "(bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, s4[8]{0}, pred[], f8e4m3fn[4])"
    shapes = list(parse_shapes(text))
    assert [x.bytes for x in shapes] == [12, 4, 1, 4]
    assert [x.on_core for x in shapes] == [True, False, False, False]


def test_text_that_is_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse_program("nothing")


def test_groups_of_a_mesh_in_another_order_are_read_whole():
    """The axes stand behind a comma, after the order of the devices."""
    groups = "mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'x'}"
    text = "\n".join(
        (
            "ENTRY %main (a: f32[8]) -> f32[8] {",
            "  %a = f32[8]{0} parameter(0)",
            f"  ROOT %b = f32[32]{{0}} all-gather(%a), channel_id=1, "
            f"replica_groups={groups}, dimensions={{0}}",
            "}",
        )
    )
    program = parse_program(text)
    (found,) = find_collectives(program, count_runs(program), 8)
    assert found.group == (0, 1, 2, 3) and found.bytes == 128


WINDOWS = {
    # a sum over 8 x 2048 rows, one of two blocks of the result by a window that slides
    "{size=2x8 pad=1_1x0_0 rhs_reversal=1x0}": (
        "bf16[64,2,16,1]",
        "bf16[8,32,64,1]",
        "bf16[8,32,2,16]",
        "1fb0_1i0o->b0f1",
        2 * 64 * 2 * 16 * 8 * 32,
    ),
    # two products side by side, the batch as a dilated axis
    "{size=2 lhs_dilate=2}": (
        "bf16[2,24,48]",
        "bf16[2,24,8]",
        "bf16[2,8,48]",
        "0bf_0io->0bf",
        2 * 2 * 24 * 48 * 8,
    ),
    # heads as an axis that a reversed window slides over
    "{size=1x4 pad=0_0x3_3 rhs_reversal=0x1}": (
        "bf16[8,32,4,16]",
        "bf16[8,32,64,1]",
        "bf16[4,16,64,1]",
        "0bf1_1oi0->0b1f",
        2 * 8 * 32 * 4 * 16 * 64,
    ),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_products_that_libtpu_writes_as_convolutions(window):
    out, left, right, labels, flops = WINDOWS[window]
    text = "\n".join(
        (
            f"ENTRY %main (a: {left}, b: {right}) -> {out} {{",
            f"  %a = {left}{{0}} parameter(0)",
            f"  %b = {right}{{0}} parameter(1)",
            f"  ROOT %c = {out}{{0}} convolution(%a, %b), window={window}, "
            f"dim_labels={labels}",
            "}",
        )
    )
    program = parse_program(text)
    assert product_flops(program, count_runs(program)) == flops


def test_a_convolution_counts_the_pairs_that_xla_counts():
    def run(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2,), [(3, 1)], lhs_dilation=(2,), rhs_dilation=(3,)
        )

    program, runs, compiled = program_of(run, f32(4, 6, 20), f32(10, 6, 5))
    said = compiled.cost_analysis()["flops"]
    assert product_flops(program, runs) == pytest.approx(said, rel=0.01)
