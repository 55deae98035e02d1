"""Trajectories of SFT and DPO in the policy-reward subspace."""

import statistics

from claims import claim_rows, told
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, Look, look_of, new_figure, rest, title

ABOUT = About(
    title="SFT and DPO in the policy-reward subspace",
    paper="2507.00018",
    item="The optimal policy-reward subspace of SFT and DPO",
    claim="SFT's and DPO's policies are each the optimum of their own implicit reward "
    "and of no other's; the rewards that the two learn correlate, and most of DPO's "
    "lies in the plane in which SFT moves.",
    data=("subspace.json",),
    command="python -m experiments.papers.subspace",
    differs="That a policy is the optimum of its own implicit reward is an identity. "
    "The paper's own picture was not to be had: here log policy/base of the base's "
    "chains, less each prompt's mean, on the principal axes of all runs together. "
    "Three seeds, dots at 0, 1, 2, 5, 10, 20, 30 and 40 steps.",
)
ARMS = {
    "sft": ("SFT", look_of("sft")),
    "dpo": ("DPO from the base", look_of("dpo")),
    "sft_dpo": ("DPO after SFT", Look("#56b4e9", "D", "-.")),
}


def rows(stored: Stored) -> Rows:
    """Every snapshot's coordinates, the enumerated pairs, then the claims."""
    tree = stored.json("subspace")
    found = [{"what": "snapshot", **row, "at": row["step"]} for row in tree["rows"]]
    groups = {}
    for row in tree["pairs"]:
        groups.setdefault((row["reward"], row["policy"]), []).append(row["variation"])
    for (reward, policy), values in groups.items():
        row = {"what": "pair", "arm": policy, "reward": reward}
        found.append(row | {"mean": statistics.fmean(values), "high": max(values)})
    for i, share in enumerate(tree["explained"]):
        found.append({"what": "explained", "at": i, "mean": share})
    return found + claim_rows(tree)


def _paths(axes, found: Rows, x: str, y: str) -> None:
    for arm, (name, look) in ARMS.items():
        for seed in range(3):
            own = [r for r in found if (r["what"], r.get("arm")) == ("snapshot", arm)]
            own = [r for r in own if r["seed"] == seed]
            style = {"color": look.color, "ls": look.line, "lw": 0.9}
            label = name if seed == 0 else None
            xs, ys = [r[x] for r in own], [r[y] for r in own]
            axes.plot(xs, ys, marker=look.marker, ms=3, label=label, **style)
    axes.plot(0, 0, "o", color="black", ms=5, zorder=6, label="base")


def draw(found: Rows):
    """Mean rewards of right and wrong chains, the plane, and who is whose optimum."""
    figure = new_figure(PAGE, 2.7)
    means, plane, pairs = figure.subplots(1, 3)
    _paths(means, found, "right", "wrong")
    title(means, "mean log policy/base, nats")
    means.set_xlabel("right chains")
    means.set_ylabel("wrong chains")
    rest(means)
    rest(means, way="v")
    _paths(plane, found, "first", "second")
    first, second = (100 * r["mean"] for r in found if r["what"] == "explained")
    title(plane, "principal axes, nats per chain")
    plane.set_xlabel(f"first ({first:.0f}% of variance)")
    plane.set_ylabel(f"second ({second:.0f}%)")
    held = [r for r in found if r["what"] == "pair"]
    names = list(ARMS)
    for row in held:
        _, look = ARMS[row["arm"]]
        x = names.index(row["reward"]) + (names.index(row["arm"]) - 1) * 0.2
        pairs.plot(x, max(row["mean"], 1e-9), look.marker, color=look.color, ms=5)
    pairs.set_yscale("log")
    pairs.set_xticks(range(3), ["SFT", "DPO", "both"])
    pairs.set_xlim(-0.5, 2.5)
    pairs.set_xlabel("reward of")
    title(pairs, "variation from its optimum")
    handles, labels = means.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def verdict(found: Rows) -> str:
    """The claims of the script, as stored."""
    return told(found)


if __name__ == "__main__":
    main(__file__)
