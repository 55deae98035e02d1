"""One of two processes of `test_hf_streaming`: reads its slices, helps to write all.

Prints the bytes that it read of each tensor, as JSON.
"""

import json
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unipost.hf import load, save_pretrained

PORT, SOURCE, TARGET, RANK = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{PORT}", 2, int(RANK))
# devices of one process hold the same half
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("process", "copy"))
read, fill = {}, load.fill


def count(leaves, stored, held):
    read[stored.name] = fill(leaves, stored, held)
    return read[stored.name]


def place(path, shape):
    spec = [None] * len(shape)
    if path[-1] != "scale":
        spec[-1] = "process"
    return NamedSharding(mesh, PartitionSpec(*spec))


load.fill = count
config, params, _ = load.load_pretrained(SOURCE, sharding=place)
for leaf in jax.tree.leaves(params):
    assert not leaf.is_fully_addressable
save_pretrained(TARGET, config, params, limit=50_000)
print(json.dumps(read))
