"""The gradient coefficient as curves: against probability, against log-ratios.

One response of one token, policy and anchors equal but for what an axis varies. The
other response of a pair (or of a group, with the opposite A) stays where all are equal.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unipost.batch import Batch, Streams
from unipost.explain.coefficient import check, of_prepared
from unipost.links import Balance, Contrast, Residual
from unipost.mixed_groups import Selection, content
from unipost.objective import Objective
from unipost.objectives import AnyObjective, terms
from unipost.pair_links import PairLink
from unipost.signals import Chosen, Desirability, Ones, Preference, Zeros
from unipost.vocabulary import Vocabulary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = jax.Array
P = 0.3  # probability of the token while a log-ratio varies
PROBABILITIES = np.geomspace(1e-3, 0.99, 301)
LOG_RATIOS = np.linspace(-1.5, 1.5, 301)
# Okabe and Ito's blue, vermilion and green, told apart by line as well
STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))


class Panel(NamedTuple):
    """One axis: what varies, its values [N], and GC [N] of every line by its label."""

    over: str
    label: str
    x: np.ndarray
    lines: dict[str, np.ndarray]


def curves(objective: AnyObjective) -> list[Panel]:
    """GC of one token against its probability, then against each log-ratio it reads.

    Against the probability every ratio is 1. Raises ValueError where the gradient is
    not one number per token, as `gradient_coefficient`.
    """
    check(objective)
    panels = [_panel(objective, "probability", "probability of the token")]
    for anchor in _anchors(objective):
        other = "old" if anchor == "behavior" else "policy"
        panels.append(_panel(objective, anchor, f"log({other}/{anchor})"))
    return panels


def plot_coefficient(objective: AnyObjective, path: str | Path) -> None:
    """Draw `curves` into a file, whose suffix says the format (.png, .pdf, .svg).

    All axes share one scale, which ends at five times the size that a quarter
    of the values exceeds.
    """
    from matplotlib.figure import Figure

    panels = curves(objective)
    figure = Figure(figsize=(max(3.2 * len(panels), 4.4), 3.1), layout="constrained")
    axes = np.atleast_1d(np.asarray(figure.subplots(1, len(panels), sharey=True)))
    for axis, panel in zip(axes, panels, strict=True):
        _draw(axis, panel)
    axes[0].set_ylabel("gradient coefficient GC")
    sizes = np.abs(
        np.concatenate([y for panel in panels for y in panel.lines.values()])
    )
    end = 5.0 * max(float(np.percentile(sizes, 75)), 1e-6)
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(max(low, -end), min(high, end))
    if len(panels[0].lines) > 1:
        shown = axes[0].get_legend_handles_labels()
        figure.legend(*shown, loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=200)


def _draw(axis: Axes, panel: Panel) -> None:
    for (label, y), (color, line) in zip(panel.lines.items(), STYLES, strict=False):
        axis.plot(panel.x, y, line, color=color, label=label, linewidth=1.8)
    axis.axhline(0.0, color="#888888", linewidth=0.6, zorder=0)
    if panel.over == "probability":
        axis.set_xscale("log")
    else:
        axis.axvline(0.0, color="#888888", linewidth=0.6, zorder=0)
        axis.set_xticks([-1.0, 0.0, 1.0])
    axis.set_xlabel(panel.label)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.0)


def _anchors(objective: AnyObjective) -> list[str]:
    """The streams that the policy is compared with, the main anchor first."""
    found = []
    for term in terms(objective):
        if isinstance(term, Objective):
            scores = [term] if term.off_policy is None else [term, term.off_policy]
            found += [score.anchor for score in scores]
            found += [getattr(score.link, "over", "none") for score in scores]
        elif "reference_vocab" in term.needs:
            found.append("reference")
    wanted = objective.needs & {"old", "reference", "behavior"}
    hidden = {"old", "reference"} if _in_reward(objective) else set()
    return [
        name
        for name in dict.fromkeys([*found, *sorted(wanted - hidden)])
        if name not in ("none", "self")
    ]


def _in_reward(objective: AnyObjective) -> bool:
    penalties = [getattr(term, "penalty", None) for term in terms(objective)]
    return any(p is not None and p.estimator == "in_reward" for p in penalties)


def _panel(objective: AnyObjective, over: str, label: str) -> Panel:
    x = PROBABILITIES if over == "probability" else LOG_RATIOS
    if isinstance(objective, Vocabulary):
        return _vocabulary_panel(objective, over, label)
    lines = {}
    for name, signal, off in _lines(objective):

        def at(value, signal=signal, off=off):
            return _at(objective, over, value, signal, off)

        lines[name] = np.asarray(jax.vmap(at)(jnp.asarray(x)))
    return Panel(over, label, x, lines)


def _lines(objective: AnyObjective) -> list[tuple[str, float, bool]]:
    """(label, A, whether the row is a demonstration in a mixed group)."""
    found = [term for term in terms(objective) if isinstance(term, Objective)]
    if any(isinstance(term.link, PairLink) for term in found):
        return [("chosen", 1.0, False), ("rejected", -1.0, False)]
    mixed = [term for term in found if isinstance(term.signal, Selection)]
    if mixed:
        return [
            ("own row, A = 1", 1.0, False),
            ("own row, A = -1", -1.0, False),
            ("demonstration, A = 1", 1.0, True),
        ]
    if all(isinstance(term.signal, Ones | Zeros) for term in found):
        return [("demonstration", 1.0, False)]
    both = [("A = 1", 1.0, False), ("A = -1", -1.0, False)]
    if any(term.off_policy is not None for term in found):
        both += [(f"{name}, off-policy row", a, True) for name, a, _ in both]
    return both


def _at(objective: AnyObjective, over: str, value: Any, signal: float, off: bool):
    """GC of the first of one or two responses of one token."""
    grouped = Balance | Contrast | Residual | PairLink
    group = 1
    for term in terms(objective):
        pair = isinstance(getattr(term, "signal", None), Preference)
        if pair or isinstance(getattr(term, "link", None), grouped):
            group = 2
    mine = jnp.log(value) if over == "probability" else jnp.log(P) + 0.0 * value
    row = jnp.full((1, group, 1), jnp.log(P)).at[0, 0, 0].set(mine)
    moved = row.at[0, 0, 0].add(0.0 if over == "probability" else -value)
    anchors = {"old": row, "behavior": row, "reference": row}
    if over != "probability":
        anchors[over] = moved
    if over == "old":  # the sampler is the snapshot
        anchors["behavior"] = moved
    sign = jnp.asarray((signal, -signal)[:group])[None]
    batch = _batch(row, sign, anchors, off)
    streams = Streams(row, jnp.zeros_like(row), None, None, row)
    signals = [_signal(term, sign[..., None]) for term in terms(objective)]
    # a mixture takes one signal per term
    given: Any = tuple(signals) if len(signals) > 1 else signals[0]
    prepared = objective.prepare(batch, given)
    return of_prepared(objective, streams, prepared, batch.mask)[0, 0, 0]


def _batch(row: Array, sign: Array, anchors: dict[str, Array], off: bool) -> Batch:
    """Everything that an objective may read, of no consequence but the anchors."""
    zero, one = jnp.zeros_like(row), jnp.ones_like(row)
    fields = {f.name for f in dataclasses.fields(Batch)}
    rest = {
        "rewards": sign,
        "off_policy": jnp.full(sign.shape, float(off)),
        "mismatched": jnp.zeros_like(sign),
        "baseline": jnp.zeros_like(sign),
        "components": sign[..., None],
        "reference_rewards": jnp.zeros_like(sign),
        "current": row,
        "current_entropy": zero,
        "values": zero,
        "advantage": sign,
        "text": one,
        "importance": one,
        "steps": one,
    }
    known = {k: v for k, v in rest.items() if k in fields}
    return Batch(mask=one, **(known | anchors))


def _signal(term: Any, sign: Array) -> Array | None:
    """A as it is asked for; None for a signal that follows from the labels."""
    labels = Ones | Chosen | Preference | Desirability | Zeros
    return None if isinstance(content(term.signal), labels) else sign


def _vocabulary_panel(objective: Vocabulary, over: str, label: str) -> Panel:
    """GC of a token that shares the vocabulary with one other."""
    if over == "probability":
        x = PROBABILITIES
        p, q = jnp.asarray(x), jnp.asarray(x)
    else:
        x = np.linspace(np.log(P) + 0.05, 1.5, 301)  # the teacher's stays below 1
        p, q = jnp.full(len(x), P), P * jnp.exp(-jnp.asarray(x))
    vocab, teacher = (
        jnp.log(jnp.stack([a, 1.0 - a], -1))[:, None, None] for a in (p, q)
    )
    streams = Streams(policy=vocab[..., 0], vocab=vocab)
    batch = Batch(mask=jnp.ones(vocab.shape[:3]), reference_vocab=teacher)
    prepared = objective.prepare(batch)
    value = of_prepared(objective, streams, prepared, batch.mask)[:, 0, 0, 0]
    return Panel(over, label, x, {"the token": np.asarray(value)})
