"""Gradient coefficients of every preset of a family, as small multiples.

A curve is computed from the object itself: the weight on grad log pi of one unit, for a
grid of log-probs, by `jax.grad`. Grey is the family's plainest member.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from unipost import Batch, Mixture, Objective, Streams
from unipost.advantages import Exponential, Shifted
from unipost.aggregation import Constant
from unipost.explain import curves
from unipost.listing import EXAMPLES
from unipost.objective import at_present
from unipost.presets import FAMILIES, PRESETS
from unipost.signals import Mean, Preference, Raw

POINTS = 121
UP, DOWN, PLAIN = "#117733", "#CC6677", "#aaaaaa"
LABELS = {
    "demonstrations": ("token probability p (reference and old at 0.3)", "sft"),
    "preferences": ("log-ratio of the response, the other one at 0", "dpo"),
    "rewards": ("log-ratio log(pi/old)", "grpo"),
    "off_policy": ("log-ratio to old or reference", "grpo"),
    "mixing": ("probability of the demonstrated token", "sft"),
}


def made(name: str):
    """The preset with its defaults and the arguments that have none."""
    (make,) = (family[name] for family in FAMILIES.values() if name in family)
    return make(**EXAMPLES.get(name, {}))


def _coefficient(objective, streams: Streams, batch: Batch) -> np.ndarray:
    """-dL/dlog pi over the weight that the unit would have in a plain mean."""

    def loss(policy):
        return objective(dataclasses.replace(streams, policy=policy), batch)[0]

    grad = np.asarray(jax.grad(loss)(streams.policy))
    terms = objective.terms if isinstance(objective, Mixture) else (objective,)
    prepared = terms[-1].prepare(at_present(terms[-1], streams, batch))
    weight = np.asarray(prepared.weight)
    pair = isinstance(terms[-1].signal, Preference)
    unit = weight.sum((1, 2), keepdims=True) if pair else weight
    return -grad / np.where(unit != 0, unit, 1.0)


def demonstration_curve(name: str):
    """p and the coefficient of a demonstrated token."""
    p = np.linspace(0.005, 0.995, POINTS)
    logps = jnp.log(jnp.asarray(p))[:, None, None]
    anchor = jnp.full_like(logps, np.log(0.3))
    batch = Batch(mask=jnp.ones_like(logps), reference=anchor, old=anchor)
    streams = Streams(policy=logps, lse=jnp.zeros_like(logps))
    return p, {"": _coefficient(made(name), streams, batch)[:, 0, 0]}


def preference_curve(name: str):
    """Log-ratio and the coefficients of chosen and rejected, the other at 0."""
    x, objective = np.linspace(-4, 4, POINTS), made(name)
    curves = {}
    for side, label in ((0, "chosen"), (1, "rejected")):
        base = jnp.full((POINTS, 2, 1), -6.0)
        policy = base.at[:, side, 0].add(jnp.asarray(x))
        rewards = jnp.tile(jnp.array([1.0, 0.0]), (POINTS, 1))
        batch = Batch(
            mask=jnp.ones_like(base),
            reference=base,
            rewards=rewards,
            mismatched=jnp.zeros((POINTS, 2)),
        )
        streams = Streams(policy=policy, collision=policy)
        curves[label] = _coefficient(objective, streams, batch)[:, side, 0]
    return x, curves


def reward_curve(name: str):
    """log u and the coefficients of a response with A = 1 and with A = -1.

    A group of two, the other response on policy with the opposite reward. In a mixed
    group the response is the demonstration. The sampler is at old/behavior = 1.5.
    """
    x, objective = np.linspace(-2.5, 2.5, POINTS), made(name)
    if not isinstance(objective, Objective):
        raise TypeError(f"{name}: the curve is that of one objective")
    if objective.penalty is not None:
        objective = dataclasses.replace(objective, penalty=None)
    if not isinstance(objective.signal, (Raw, Mean, Exponential, Shifted)):
        objective = dataclasses.replace(objective, signal=Raw())
    curves = {}
    for sign, label in ((1.0, "A = 1"), (-1.0, "A = -1")):
        anchor = jnp.full((POINTS, 2, 1), -3.0)
        batch = Batch(
            mask=jnp.ones_like(anchor),
            rewards=jnp.tile(jnp.array([sign, -sign]), (POINTS, 1)),
            old=anchor,
            behavior=anchor - np.log(1.5),
            reference=anchor,
            off_policy=jnp.tile(jnp.array([1.0, 0.0]), (POINTS, 1)),
        )
        streams = Streams(policy=anchor.at[:, 0, 0].add(jnp.asarray(x)))
        curves[label] = _coefficient(objective, streams, batch)[:, 0, 0]
    return x, curves


# without entropy bonuses, and as sums: one token is one unit
ALONE = {
    "luffy": {"max_length": 1.0},
    "rl_sft": {"max_length": 1.0},
    "srft": {"max_length": 1.0},
    "hpt": {"max_length": 1.0, "entropy": None},
    "relift": {"entropy": None},
    "prefix_rft": {"aggregation": Constant(1.0, "nothing"), "entropy": None},
}


def mixing_curve(name: str):
    """p and the coefficient of a demonstration of one token, right where 4 rows fail.

    The token's entropy is 1, and the snapshot is the policy itself.
    """
    p, objective = (
        np.linspace(0.005, 0.995, POINTS),
        PRESETS[name](**ALONE.get(name, {})),
    )
    last = jnp.array([[0.0, 0.0, 0.0, 0.0, 1.0]])
    fixed = jnp.full((1, 5, 1), np.log(0.3))

    def coefficient(log_p):
        policy = fixed.at[0, 4, 0].set(log_p)
        batch = Batch(
            mask=jnp.ones_like(policy),
            rewards=last,
            off_policy=last,
            old=policy,
            current_entropy=jnp.ones_like(policy),
        )

        def loss(policy):
            streams = Streams(policy=policy, entropy=jnp.ones_like(policy))
            return objective(streams, batch)[0]

        return -jax.grad(loss)(policy)[0, 4, 0]

    values = jax.vmap(coefficient)(jnp.log(jnp.asarray(p)))
    return p, {"demonstration": np.asarray(values)}


CURVES = {
    "demonstrations": demonstration_curve,
    "preferences": preference_curve,
    "rewards": reward_curve,
    "off_policy": reward_curve,
    "mixing": mixing_curve,
}


def family_figure(family: str, path: Path) -> None:
    """Write the figure of a family to `path` (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    names = list(FAMILIES[family])
    columns = 4
    rows = -(-len(names) // columns)
    height = 1.75 * rows + 0.9
    figure, axes = plt.subplots(
        rows, columns, figsize=(9, height), sharex=True, squeeze=False
    )
    label, plain = LABELS[family]
    (home,) = (name for name, members in FAMILIES.items() if plain in members)
    x, reference = CURVES[home](plain)
    for axis, name in zip(axes.flat, names, strict=False):
        for values in reference.values():
            axis.plot(x, values, color=PLAIN, lw=1)
        grid, curves = CURVES[family](name)
        for (key, values), color in zip(curves.items(), (UP, DOWN), strict=False):
            axis.plot(grid, values, color=color, lw=1.6, label=key or "preset")
        axis.set_ylim(*_limits(list(curves.values())))
        axis.axhline(0, color="#666666", lw=0.6)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7, labelbottom=True)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.supxlabel(label, fontsize=9)
    figure.supylabel("gradient coefficient", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    handles.append(Line2D([], [], color=PLAIN, lw=1))
    figure.legend(
        handles, [*labels, plain], loc="upper right", ncols=3, fontsize=8, frameon=False
    )
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / height))
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def vocabulary_figure(path: Path) -> None:
    """Write the figure of the whole-vocabulary objectives: two tokens in all."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for beta, line in ((0.4, "--"), (0.7, "-"), (1.0, ":")):
        panel = curves(PRESETS["gem"](beta=beta))[0]
        (values,) = panel.lines.values()
        left.plot(panel.x, values, line, color=UP, lw=1.6, label=f"gem, beta {beta:g}")
    left.set_xlabel("probability of the demonstrated token")
    for beta, color in ((0.0, "#332288"), (0.1, "#88CCEE"), (0.5, UP), (1.0, DOWN)):
        panel = curves(PRESETS["gkd"](beta=beta))[1]
        (values,) = panel.lines.values()
        right.plot(panel.x, values, color=color, lw=1.6, label=f"gkd, beta {beta:g}")
    right.set_xlabel("log(policy/teacher) of the token, policy at 0.3")
    for axis in (left, right):
        axis.axhline(0, color="#666666", lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    left.set_ylabel("gradient coefficient")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _limits(curves) -> tuple[float, float]:
    """All of the curves, cut where one runs away from its middle value."""
    largest = 6.0 * max(abs(values[POINTS // 2]) for values in curves) or 1.0
    low = max(min(float(values.min()) for values in curves), -largest)
    high = min(max(float(values.max()) for values in curves), largest)
    pad = 0.08 * (max(high, 0.0) - min(low, 0.0))
    return min(low, 0.0) - pad, max(high, 0.0) + pad


if __name__ == "__main__":
    folder = Path(__file__).parent / "figures"
    for family in CURVES:
        family_figure(family, folder / f"family_{family}.png")
    vocabulary_figure(folder / "family_vocabulary.png")
