"""Names of topologies, the wires of a slice, and the roofline, by hand."""

import pytest

from unipost.plan.chips import CHIPS
from unipost.plan.collectives import Collective
from unipost.plan.roofline import (
    COMPUTE,
    MEMORY,
    NETWORK,
    bandwidth,
    places_of,
    time_of,
)
from unipost.plan.topology import CORES, SHAPES, parse_topology


@pytest.mark.parametrize(
    ("name", "chips", "libtpu"),
    [
        ("v5p-8", 4, "v5p:2x2x1"),
        ("v5p-16", 8, "v5p:2x2x2"),
        ("v5p-128", 64, "v5p:4x4x4"),
        ("v5p-256", 128, "v5p:4x4x8"),
        ("v4-32", 16, "v4:2x2x4"),
        ("v5e-1", 1, "v5e:1x1"),
        ("v5e-16", 16, "v5e:4x4"),
        ("v5e-256", 256, "v5e:16x16"),
        ("v6e-64", 64, "v6e:8x8"),
        ("V6E-8", 8, "v6e:2x4"),
        ("v5p:4x4x12", 192, "v5p:4x4x12"),
    ],
)
def test_google_names(name, chips, libtpu):
    """v4 and v5p count TensorCores, v5e and v6e chips."""
    topology = parse_topology(name)
    assert (topology.chips, topology.libtpu, topology.is_tpu) == (chips, libtpu, True)


def test_every_standard_shape_holds_its_chips():
    for family, shapes in SHAPES.items():
        for chips in shapes:
            found = parse_topology(f"{family}-{chips * CORES[family]}")
            assert found.chips == chips


def test_gpu_names():
    four = parse_topology("h100x8x4")
    assert (four.chips, four.shape, four.is_tpu) == (32, (8, 4), False)
    assert str(four) == "h100x8x4: 4 x 8 H100 80 GB SXM"
    assert parse_topology("a100x8").chips == 8
    assert parse_topology("h200x4").shape == (4, 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5p-24", "there is no v5p-24 .v5p counts TensorCores.; write v5p-16 or"),
        ("v5p-4", "write v5p-8, or the shape in chips, v5p:2x2x1"),
        ("v5e-512", "v5e counts chips.; write v5e-256"),
        ("v5e-100", "write v5e-64 or v5e-128"),
        ("v5litepod-16", "'v5litepod-16' is unknown; write such as v5p-16"),
        ("v5p:2x2", "'v5p:2x2' is unknown"),
        ("h100x3x2", "hosts of 8 .h100x8x4.$"),
        ("h100x9", "1 to 8 GPUs of one host"),
        ("h100", "'h100' is unknown"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(name, said):
    with pytest.raises(ValueError, match=f"^--topology: .*{said}") as caught:
        parse_topology(name)
    assert "\n" not in str(caught.value)


def test_rings_close_over_cubes_and_whole_pods():
    assert parse_topology("v5p-128").wrapped == (True, True, True)
    assert parse_topology("v5p-16").wrapped == (False, False, False)
    assert parse_topology("v5e-256").wrapped == (True, True)
    assert parse_topology("v5e-128").wrapped == (False, True)


def test_wires_of_a_group_are_those_of_its_sides():
    pod = parse_topology("v5e-256")
    places = places_of(pod)
    assert len(set(places)) == 256
    link = CHIPS["v5e"].link
    row = [p for p in places if p[0] == 0]
    assert bandwidth(pod, row) == 2 * link  # one closed side, both ways
    assert bandwidth(pod, places) == 4 * link
    assert bandwidth(pod, row[:4]) == link  # a part of a side is open
    small = parse_topology("v5p-16")
    assert bandwidth(small, places_of(small)) == 3 * CHIPS["v5p"].link


def test_gpus_leave_their_host_over_the_network():
    hosts = parse_topology("h100x8x2")
    places = places_of(hosts)
    chip = CHIPS["h100"]
    assert bandwidth(hosts, places[:8]) == chip.link
    # one GPU of each host: half of an array crosses to the other
    assert bandwidth(hosts, [places[0], places[8]]) == pytest.approx(chip.network)
    # all 16: an eighth of the half that crosses goes over each card
    wanted = min(chip.link, chip.network * 16 * 15 / 16)
    assert bandwidth(hosts, places) == pytest.approx(wanted)


def test_the_roofline_is_three_quotients():
    topology = parse_topology("v5e-256")
    chip, places = topology.chip, places_of(topology)
    row = tuple(i for i, p in enumerate(places) if p[0] == 0)
    gather = Collective("all-gather", 3, 16 * 10**9, row, "bf16")
    time = time_of(topology, 1e15, 1e12, (gather,), places, "bfloat16")
    assert time.compute == pytest.approx(1e15 / (197e12 * COMPUTE))
    assert time.memory == pytest.approx(1e12 / (819e9 * MEMORY))
    sent = 3 * 16e9 * 15 / 16
    assert time.network == pytest.approx(sent / (2 * 50e9 * NETWORK))
    step = Collective("collective-permute", 1, 10**9, row[:2], "bf16")
    both = time_of(topology, 0.0, 0.0, (step,), places, "bfloat16")
    assert both.network == pytest.approx(1e9 / (2 * 50e9 * NETWORK))
    assert time.least == time.compute and time.bound == "compute"
    assert time.most == time.compute + time.memory + time.network
    assert (time + time).most == pytest.approx((time * 2).most)
    assert chip.peak("float32") == chip.peak("bfloat16")
    assert CHIPS["h100"].peak("float32") < CHIPS["h100"].peak("bfloat16")
