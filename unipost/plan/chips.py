"""Accelerator chips as data: what one chip computes, holds and moves.

Numbers are per chip, in FLOP/s, bytes and bytes/s. `links` are the wires of a chip to
its neighbours, `link` what one of them carries in one direction. Sources: TPU,
cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e} (which states inter-chip bandwidth as the
sum over all links and both directions: 2 links x link); NVIDIA, the data sheets of
A100, H100, H200 and B200 (dense bfloat16; NVLink as the sum of both directions), and
those of the DGX systems for the network.
"""

from __future__ import annotations

from dataclasses import dataclass

TERA, GIGA, GIB = 10**12, 10**9, 2**30


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    flops      peak FLOP/s of products in bfloat16; float32 ones run at `float32`
    float32    peak of products of float32 arrays: on a TPU bfloat16's, because XLA
               multiplies them in one bfloat16 pass; on a GPU TF32's
    memory     bytes of HBM that a program can use
    bandwidth  bytes/s of HBM
    links      of a torus: 6 in three dimensions, 4 in two; 1 of a GPU: its NVLink
    link       bytes/s of one link, in one direction
    network    bytes/s of one chip to other hosts, in one direction; None within a
               TPU slice, which is one network
    """

    kind: str
    flops: float
    float32: float
    memory: int
    bandwidth: float
    links: int
    link: float
    network: float | None = None

    def peak(self, dtype: str) -> float:
        """FLOP/s of products in `dtype`: bfloat16 or float32."""
        return self.flops if dtype == "bfloat16" else self.float32


def _tpu(kind, tera, memory, bandwidth, links, link) -> Chip:
    flops, room = tera * TERA, int(memory * GIB)
    return Chip(kind, flops, flops, room, bandwidth * GIGA, links, link * GIGA)


def _gpu(kind, tera, tf32, memory, bandwidth, link, network) -> Chip:
    room = int(memory * GIGA * 0.95)  # the driver and the runtime take the rest
    rates = tera * TERA, tf32 * TERA, room, bandwidth * GIGA
    return Chip(kind, *rates, 1, link * GIGA, network * GIGA)


CHIPS: dict[str, Chip] = {
    # memory: what the compiler says is available, less than the data sheet's
    "v4": _tpu("TPU v4", 275, 30.75, 1200, 6, 50),
    "v5e": _tpu("TPU v5e", 197, 15.75, 819, 4, 50),
    "v5p": _tpu("TPU v5p", 459, 95.74, 2765, 6, 100),
    "v6e": _tpu("TPU v6e", 918, 31.25, 1638, 4, 100),
    # 200, 400 and 400 Gbit/s of network for each GPU
    "a100": _gpu("A100 80 GB SXM", 312, 156, 80, 2039, 300, 25),
    "h100": _gpu("H100 80 GB SXM", 989, 494, 80, 3350, 450, 50),
    "h200": _gpu("H200 141 GB SXM", 989, 494, 141, 4800, 450, 50),
    "b200": _gpu("B200 180 GB SXM", 2250, 1125, 180, 8000, 900, 50),
}
"""Chips by the name that a topology begins with."""
