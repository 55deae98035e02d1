"""Why a loss is 0, or its gradient: what the parts say, and what a batch says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unipost import advantages, baselines, links, signals
from unipost.aggregation import SequenceMean, TokenMean
from unipost.batch import Batch, Prepared, Streams
from unipost.components import NormaliseThenSum, SumThenNormalise
from unipost.explain.spelling import number_text
from unipost.mixed_groups import content
from unipost.mixture import Mixture
from unipost.objective import Objective, at_present
from unipost.objectives import AnyObjective
from unipost.pair_links import PairLink
from unipost.parts import concrete
from unipost.reference_points import OrderStatistics
from unipost.vocabulary import Distillation

Array = jax.Array
RATIO = (links.Clipped, links.Importance)
# links whose gradient is proportional to A
PROPORTIONAL = (*RATIO, links.Linear, links.Weighted, links.SoftGate)
FLAT_IS_ZERO = (signals.Mean, signals.LeaveOneOut, signals.ZScore)
FLAT_IS_ZERO += (baselines.LengthWeighted, baselines.InformativeMean)
ADDS_UP_TO_ZERO = (signals.Mean, signals.LeaveOneOut, signals.ZScore)
ADDS_UP_TO_ZERO += (signals.BatchZScore, advantages.Standardised, NormaliseThenSum)
TINY = 1e-12


def zero_lines(objective: AnyObjective) -> tuple[str, ...]:
    """When value and gradient are 0 whatever the batch, in words."""
    if isinstance(objective, Mixture):
        pairs = enumerate(map(zero_lines, objective.terms))
        return tuple(f"term {k}: {line}" for k, lines in pairs for line in lines)
    if isinstance(objective, Objective):
        return tuple(_of_parts(objective))
    if isinstance(objective, Distillation):
        return ("0 with zero gradient where the policy is the teacher",)
    return ()


def _of_parts(o: Objective) -> Iterator[str]:
    link = o.link
    if isinstance(link, PairLink):
        yield _pair_start(link, o)
    elif (start := _start(o)) is not None:
        yield start
    demonstrated = isinstance(content(o.signal), signals.Ones | signals.Chosen)
    if isinstance(link, links.Clipped) and (where := _clipped(link, demonstrated)):
        yield f"no gradient from the link where {where}"
    if isinstance(link, PROPORTIONAL) and _flat_is_zero(o.signal):
        yield "no gradient from the link in groups of equal rewards: A = 0"
    if (penalty := o.penalty) is not None and penalty.estimator != "in_reward":
        name = penalty.estimator if penalty.gradient == "own" else penalty.gradient
        kinked = name in ("k1", "abs") or penalty.divergence.curvature is None
        also = "not its gradient" if kinked else "with zero gradient"
        yield f"the penalty is 0 where policy = reference, {also}"


def _start(o: Objective) -> str | None:
    """The value of a pointwise link where the policy is still its anchor."""
    link, where = o.link, f"where policy = {o.anchor}"
    demonstrated = isinstance(content(o.signal), signals.Ones | signals.Chosen)
    mean = isinstance(o.aggregation, TokenMean | SequenceMean)
    if isinstance(link, links.Gain):
        return "half of mean |A| where z = 0; the gradient fades on both sides"
    if isinstance(link, links.Linear) and demonstrated and o.anchor == "none":
        only = "0 only where every token has probability 1"
        return only if o.divergence.centred else None
    if isinstance(link, RATIO) and demonstrated:
        return f"-1 {where}" if mean and not o.corrections else None
    if isinstance(link, RATIO) and o.anchor == "none":
        return None  # a probability, which never was the anchor's
    if isinstance(link, RATIO):
        where = "always" if o.anchor == "self" else where
        where += " (on-policy rows)" if o.off_policy is not None else ""
        zero = isinstance(o.aggregation, SequenceMean) and _adds_up_to_zero(o.signal)
        value = "-mean c A" if o.corrections else f"-mean A{' = 0' if zero else ''}"
        return f"{value} {where}; the gradient there is that of -A log pi"
    if isinstance(link, links.Residual):
        value = "mean A^2/2" if link.centre == "none" else "half the variance of A"
        return f"{value} {where}; the gradient there is that of -A z"
    return None


def _clipped(link: links.Clipped, demonstrated: bool) -> str:
    """Where the clip takes the gradient away."""
    found = []
    for bound, end, side in (
        (link.high, "A > 0 and u > ", 1.0),
        (link.low, "A < 0 and u < ", -1.0),
    ):
        known = concrete(bound)
        if known is None:
            return "the clip binds"
        if known != float("inf") and not (demonstrated and side < 0):
            end = end.removeprefix("A > 0 and ") if demonstrated else end
            found.append(end + number_text(1.0 + side * known))
    if not demonstrated:
        for ceiling in (link.dual, _cap(link)):
            if (known := concrete(ceiling)) is not None:
                found.append("A < 0 and u > " + number_text(known))
    return ", or ".join(found)


def _cap(link: links.Clipped) -> float | None:
    """Where `cap` ends the gradient of A < 0; A > 0 meets the band's end first."""
    cap, high = concrete(link.cap), concrete(link.high)
    return None if cap is None or high is None else max(1.0 + high, cap)


def _pair_start(link: PairLink, o: Objective) -> str:
    value = float(link.loss(jnp.zeros(1), jnp.zeros(1))[0])
    point = o.reference_point is None or isinstance(o.reference_point, OrderStatistics)
    reference = point and o.anchor == "reference"
    where = "policy = reference" if reference else "rewards z of 0"
    named = "log 2 = " if abs(value - np.log(2.0)) < 1e-6 else ""
    times = " times c" if o.corrections else ""
    other = ", not 0" if value else ""
    return f"{named}{value:.4g}{times} at {where}{other}; ties are left out"


def _adds_up_to_zero(signal: signals.Signal) -> bool:
    """Whether A of outcome rewards has a mean of 0 over rows that are all scored."""
    outcome = getattr(signal, "supervision", "outcome") == "outcome"
    return outcome and isinstance(_inner(signal), ADDS_UP_TO_ZERO)


def _flat_is_zero(signal: signals.Signal) -> bool:
    """Whether A is 0 in a group whose rewards are all equal."""
    inner = _inner(signal)
    if isinstance(inner, signals.BatchZScore):
        return inner.center == "group"
    return isinstance(inner, FLAT_IS_ZERO)


def _inner(signal: signals.Signal) -> signals.Signal:
    signal = content(signal)
    return signal.advantage if isinstance(signal, SumThenNormalise) else signal


def why_zero(
    objective: AnyObjective, batch: Batch, logps: Array | Streams
) -> tuple[str, ...]:
    """Value and gradient on a batch, then what in it makes them small, with numbers.

    The first line says whether loss and gradient are 0; then one line for every cause
    found: no token, unscored rows, groups without spread, ties, weights of 0, clipped
    or clamped units, a value that cancels, a penalty at the reference. `logps` [P, G,
    T] or `Streams`, as the objective takes them. Terms of a mixture are told apart.
    """
    streams = logps if isinstance(logps, Streams) else Streams(jnp.asarray(logps))
    prepared: Any = objective.prepare(at_present(objective, streams, batch))

    def whole(given: Streams):
        return objective.loss(given, prepared)[0]

    value, grad = jax.value_and_grad(whole)(streams)
    sizes = [np.nan_to_num(np.abs(np.asarray(x))) for x in jax.tree.leaves(grad)]
    largest = max(float(x.max(initial=0.0)) for x in sizes)
    head = f"loss {_number(value)}, largest |dL/dlog pi| {_number(largest)}"
    if not (np.asarray(batch.mask) > 0).any():
        return (head, "the batch is empty: no token in its mask")
    if isinstance(objective, Mixture):
        found = []
        for k, term in enumerate(objective.terms):
            found += [f"term {k}: {line}" for line in why_zero(term, batch, streams)]
        return (head, *found)
    if not isinstance(objective, Objective):
        return (head,)
    batch = at_present(objective, streams, batch)
    causes = _of_batch(objective, batch, prepared)
    numbers = _of_numbers(objective, streams, prepared, np.asarray(grad.policy))
    return (head, *causes, *numbers)


def _number(value: Any) -> str:
    return "0" if abs(float(value)) < TINY else f"{float(value):.4g}"


def _of_batch(o: Objective, batch: Batch, prepared: Prepared) -> Iterator[str]:
    """Rows and groups that have nothing to say."""
    seen = np.asarray(batch.mask) > 0
    kept = np.asarray(prepared.batch.mask) > 0
    rows = seen.any(-1)
    if (empty := int((~rows).sum())) > 0:
        yield f"{empty} of {rows.size} rows are empty"
    if "rewards" in o.signal.needs and batch.rewards is not None:
        nan = np.isnan(np.asarray(batch.rewards))
        nan = nan & rows if nan.ndim == 2 else (nan & seen).any(-1)
        if nan.any():
            yield f"{nan.sum()} of {rows.sum()} rows are unscored (NaN): A = 0"
    if isinstance(o.link, PairLink):
        undecided = int((seen.any((1, 2)) & ~kept.any((1, 2))).sum())
        if undecided:
            yield f"{undecided} of {len(kept)} pairs are ties or half empty: left out"
    else:
        yield from _silent(np.asarray(prepared.signal), kept)
    if (off := kept & (np.asarray(prepared.weight) == 0)).any():
        yield f"row weights are 0 on {off.sum()} of {kept.sum()} tokens"


def _silent(signal: np.ndarray, kept: np.ndarray) -> Iterator[str]:
    """Groups and rows whose advantage is 0 on every token."""
    pushed = ((signal != 0) & kept).any(-1)
    groups, some = kept.any((1, 2)), pushed.any(-1)
    if (still := int((groups & ~some).sum())) > 0:
        yield f"{still} of {groups.sum()} groups have A = 0 on every token"
    rows = kept.any(-1)
    alone = int((rows & ~pushed & some[:, None]).sum())
    if alone:
        yield f"{alone} of {rows.sum()} rows have A = 0 in a group that has others"


SHARES = {
    "clip_share": "clipped the way A pushes: no gradient from the link",
    "dual_clip_share": "beyond the dual clip: no gradient from the link",
    "clamp_share": "beyond the clamp on log u: no gradient from the link",
    "penalty_clamp_share": "beyond the clamp on log u in the penalty",
}


def _of_numbers(
    o: Objective, streams: Streams, prepared: Prepared, grad: np.ndarray
) -> Iterator[str]:
    """Units without a gradient, a value that cancels, the penalty."""
    kept = np.asarray(prepared.batch.mask) > 0
    value, metrics = o.loss(streams, prepared)
    for name, words in SHARES.items():
        if (share := float(metrics.get(name, 0.0))) > 0:
            yield f"{100 * share:.3g} % of the units are {words}"
    signal = np.asarray(prepared.signal)
    if (still := kept & (signal != 0) & (grad == 0)).any():
        yield f"{still.sum()} of {kept.sum()} tokens have A != 0 and no gradient"
    size = float(np.abs(signal)[kept].mean()) if kept.any() else 0.0
    if isinstance(o.link, PairLink):
        yield f"mean margin z_w - z_l {_number(metrics['margin'])}"
    elif isinstance(o.link, RATIO) and abs(float(value)) < TINY < size:
        yield f"the value -mean A u cancels, with mean |A| {_number(size)}"
    if o.penalty is not None and abs(float(metrics["penalty"])) < TINY:
        yield "the penalty is 0: the policy is the reference on these tokens"
