"""Leaves as the library's in small, and steps of an optimiser on them."""

import jax
import jax.numpy as jnp
import numpy as np

RATE, STEPS = 1e-2, 3


def draw(seed, dtype=jnp.float32):
    """Leaves as the library's: a table, a head, and two stacked layers."""
    shapes = {
        ("embedding",): (7, 6),
        ("head", "kernel"): (6, 7),
        ("blocks", "query", "kernel"): (2, 6, 8),
        ("blocks", "query", "bias"): (2, 8),
        ("blocks", "norm", "scale"): (2, 6),
    }
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    tree = {}
    for key, (path, shape) in zip(keys, shapes.items(), strict=True):
        *above, last = path
        inner = tree
        for step in above:
            inner = inner.setdefault(step, {})
        inner[last] = jax.random.normal(key, shape, dtype)
    return tree


# of unequal size, so that clipping changes their shares in a running mean
SIZES = 1.0, 10.0, 0.1
PARAMS = draw(0)
GRADS = [
    jax.tree.map(lambda x, size=size: size * x, draw(1 + i))
    for i, size in enumerate(SIZES)
]


def unstacked(tree):
    """The same leaves with every layer a leaf of its own."""
    blocks = tree["blocks"]
    layers = [jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(2)]
    return tree | {"blocks": {str(i): layer for i, layer in enumerate(layers)}}


@jax.jit
def step(optimizer, state, params, grads, i):
    return optimizer.update(grads, state, params, i, STEPS)


def trained(optimizer, params=PARAMS, grads=GRADS):
    """(parameters, state, numbers) after the steps."""
    state, numbers = optimizer.init(params), {}
    for i, g in enumerate(grads):
        params, state, numbers = step(optimizer, state, params, g, i)
    return params, state, numbers


def same(one, other, rtol=1e-5):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * 0.1)


def differ(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any(float(jnp.abs(a - b).max()) > 1e-7 for a, b in pairs)
