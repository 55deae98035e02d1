"""Whether the trainer recomputes the log-probs that the sampler drew its tokens at.

With the parameters that sampled (staleness 0), temperature 1 and no cut of the
distribution, log pi(y_t | s_t) of the two is one number, computed in another order. A
larger difference is the silent error behind biased ratios: another padding, position,
window, precision, or weights that were never synchronised.

At another temperature, or with top-p, top-k or min-p, the behaviour stream is that of
the distribution that tokens were really drawn from, which is not pi: the two differ by
design, the ratio policy/behavior says so, and nothing is checked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax

from unipost.sampling.distribution import Sampling

Dtype = Literal["float32", "bfloat16"]
PRECISION = "jax_default_matmul_precision"


class Tolerance(NamedTuple):
    """Largest |log pi - log behavior| in nats: the mean of a batch, and of a token."""

    mean: float
    token: float


TOLERANCES: dict[Dtype, Tolerance] = {
    "float32": Tolerance(1e-3, 1e-2),
    "bfloat16": Tolerance(1e-1, 1.0),
}
"""By the precision of products.

What is seen (docs/diagnostics.md): float32 means of 2e-6 and tokens of 2e-5 in shallow
models, 8e-5 and 5e-4 in one of 28 layers; bfloat16 means of 2e-2 and tokens of 0.25.
"""


def tolerance(dtype: Dtype) -> Tolerance:
    """What rounding may cause on this machine where products are in `dtype`.

    Accelerators round float32 to TF32 or bfloat16 inside products, unless PRECISION,
    a setting of jax, is "float32" or "highest".
    """
    whole = getattr(jax.config, PRECISION) in ("float32", "highest")
    if jax.default_backend() != "cpu" and not whole:
        return TOLERANCES["bfloat16"]
    return TOLERANCES[dtype]


def is_policy(sampling: Sampling) -> bool:
    """Whether tokens are drawn from the policy itself: temperature 1 and no cut."""
    temperature = float(sampling.temperature)
    cuts = sampling.top_k, sampling.top_p or 1.0, sampling.min_p or 0.0
    return temperature == 1.0 and cuts == (None, 1.0, 0.0)


def check_agreement(
    metrics: Mapping[str, float],
    sampling: Sampling | None,
    staleness: float,
    dtype: Dtype,
) -> str | None:
    """A warning of one line where sampler and trainer disagree, or None.

    metrics    of a step, with `sampler_gap` and `sampler_gap_max` (the mean and the
               largest |log old - log behavior| over the tokens that the sampler
               reported); without them there is nothing to check
    sampling   how the tokens were drawn; None where nothing was sampled
    staleness  updates between the parameters that sampled and those that recompute
    dtype      of products in both
    """
    mean = metrics.get("sampler_gap")
    if mean is None or sampling is None or staleness > 0 or not is_policy(sampling):
        return None
    largest, allowed = metrics.get("sampler_gap_max", mean), tolerance(dtype)
    if mean <= allowed.mean and largest <= allowed.token:
        return None
    return (
        f"sampler and trainer disagree: |log old - log behavior| is {mean:.2g} on "
        f"average and {largest:.2g} at most, where {dtype} allows {allowed.mean:g} and "
        f"{allowed.token:g}; look at the sampler's weights, precision, chat template "
        "and temperature, or correct for it with sampler_correction"
    )
