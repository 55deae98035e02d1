"""The page docs/plan.md and its figure, from the records in docs/plan/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from make_plan import SCALING, TABLE, Cell, cells, found

DOCS = Path(__file__).parent
GIB, GIGA = 2**30, 10**9
MODELS = (
    ("sft_0.5b", "0.5B, SFT"),
    ("sft_8b", "8B, SFT"),
    ("dpo_8b", "8B, DPO"),
    ("sft_70b", "70B, SFT"),
)
KINDS = {
    "all-gather": ("#4477AA", "o"),
    "all-reduce": ("#CC6677", "s"),
    "reduce-scatter": ("#117733", "^"),
    "all-to-all": ("#DDCC77", "D"),
    "collective-permute": ("#882255", "v"),
}
PARTS = {"parameters": "#4477AA", "optimiser": "#88CCEE", "temporaries": "#DDCC77"}


def page() -> str:
    """docs/plan.md: the text of plan.txt with the tables in their places."""
    text = (DOCS / "plan.txt").read_text()
    for name, table in (
        ("TABLE", "\n\n".join(_table(*model) for model in MODELS)),
        ("SCALING", scaling_table()),
        ("ESTIMATES", estimate_table()),
        ("ROLLOUTS", _rollouts()),
    ):
        text = text.replace(f"[{name}]", table)
    return text


def _table(experiment: str, title: str) -> str:
    columns = (
        "topology | chips | mesh | micro-batches | GiB of a chip | arguments | "
        "temporaries | fits | TFLOP a chip | GB sent | step, s | MFU"
    )
    head = f"### {title}\n\n| {columns} |\n{'| --- ' * 12}|"
    rows = [_row(Cell(experiment, name)) for name in TABLE]
    return "\n".join((head, *filter(None, rows)))


def _row(cell: Cell) -> str:
    tree = found(cell)
    if tree is None:
        return ""
    first = tree["programs"][0]
    cells_ = [tree["topology"], tree["chips"], _mesh(tree), tree["microbatches"]]
    if first["memory"] is None:
        wanted, there = (first["overflow"][k] / GIB for k in ("wanted", "there"))
        short = f"**{wanted:.0f}** of {there:.1f}"
        return _cells([*cells_, short, "", "", "no", *_flops(tree), "", ""])
    memory, peak = first["memory"], tree["peak"] / GIB
    there = tree["memory_there"] / GIB
    held = [memory["arguments"] / GIB, (memory["peak"] - memory["arguments"]) / GIB]
    sent = sum(x[1] for x in tree["collectives"].values()) / GIGA
    seconds, mfu = tree["seconds"], tree["mfu"]
    return _cells(
        [
            *cells_,
            f"**{peak:.1f}** of {there:.1f}",
            *(f"{x:.2f}" for x in held),
            "yes" if tree["fits"] else "no",
            *_flops(tree)[:1],
            f"{sent:.0f}",
            f"{seconds['least']:.2g} to {seconds['most']:.2g}",
            f"{100 * mfu[0]:.0f} to {100 * mfu[1]:.0f} %",
        ]
    )


def _flops(tree: dict[str, Any]) -> list[str]:
    return [f"{tree['model_flops'] / 1e12:.0f}", ""]


def _cells(values: Sequence[Any]) -> str:
    return "| " + " | ".join(str(x) for x in values) + " |"


def _mesh(tree: dict[str, Any]) -> str:
    return " ".join(f"{axis} {size}" for axis, size in tree["mesh"].items())


def scaling() -> list[dict[str, Any]]:
    """The records of the 8B step from 8 to 256 chips."""
    trees = [found(Cell("sft_8b", name, "fsdp=-1")) for name in SCALING]
    return [tree for tree in trees if tree is not None]


def scaling_table() -> str:
    """Collectives and bytes of one chip, by chips."""
    lines = [
        "| chips | GiB of a chip | all-gather | GB | all-reduce | GB | others, GB |",
        "| --- " * 7 + "|",
    ]
    for tree in scaling():
        kinds = dict(tree["collectives"])
        gather, reduce = (kinds.pop(k, (0, 0)) for k in ("all-gather", "all-reduce"))
        rest = sum(x[1] for x in kinds.values()) / GIGA
        values = [tree["chips"], f"{tree['peak'] / GIB:.1f}"]
        for count, sent in (gather, reduce):
            values += [f"{count:.0f}", f"{sent / GIGA:.1f}"]
        lines.append(_cells([*values, f"{rest:.1f}"]))
    return "\n".join(lines)


def _rollouts() -> str:
    """The programs of the GRPO steps."""
    lines = [
        "| topology | mesh | program | GiB of a chip, with what stays | compiled in, s "
        "| GB sent | s |",
        "| --- " * 7 + "|",
    ]
    for cell in cells():
        tree = found(cell) if cell.experiment == "grpo_8b" else None
        for item in tree["programs"] if tree is not None else ():
            if item["memory"] is None:
                continue
            sent = sum(x[1] for x in item["collectives"].values()) * item["runs"]
            time = item["seconds"]
            most = sum(time.values())
            least = max(time.values())
            where = [tree["topology"], _mesh(tree)] if tree else ["", ""]
            lines.append(
                _cells(
                    [
                        *where,
                        item["name"],
                        f"{item['total'] / GIB:.1f}",
                        f"{item['compile_seconds']:.0f}",
                        f"{sent / GIGA:.0f}",
                        f"{least:.2g} to {most:.2g}" if most > 1e-3 else "0",
                    ]
                )
            )
    return "\n".join(lines)


def errors() -> list[tuple[dict[str, Any], float, float]]:
    """(record, compiled, estimated): bytes of one chip in the update, of every cell."""
    from unipost.config import load
    from unipost.mesh import Mesh
    from unipost.plan.estimate import estimate_memory, spread_of
    from unipost.train import Experiment

    made, seen = [], set()
    for cell in cells():
        tree = found(cell)
        if tree is None or tree["programs"][0]["memory"] is None:
            continue
        # a cell of the table and one of the figure may be the same program
        same = tree["experiment"], tree["topology"], _mesh(tree), tree["microbatches"]
        if same in seen:
            continue
        seen.add(same)
        experiment = load(Experiment, tree["experiment"], tree["overrides"])
        spread = spread_of(Mesh(**({"data": 1} | tree["mesh"])), tree["chips"])
        guess = estimate_memory(experiment, spread, "tpu")
        state = sum(guess.resident[k] for k in ("parameters", "optimiser"))
        peak = tree["programs"][0]["memory"]["peak"]
        made.append((tree, peak, state + guess.temporaries))
    return made


def estimate_table() -> str:
    """The estimator against the compiler."""
    lines = [
        "| experiment | topology | mesh | micro-batches | compiled, GiB | estimate "
        "| error |",
        "| --- " * 7 + "|",
    ]
    for tree, peak, guess in errors():
        values = [Path(tree["experiment"]).stem, tree["topology"], _mesh(tree)]
        values += [tree["microbatches"], f"{peak / GIB:.2f}", f"{guess / GIB:.2f}"]
        lines.append(_cells([*values, f"{100 * (guess / peak - 1):+.0f} %"]))
    return "\n".join(lines)


def scaling_figure(path: Path) -> None:
    """Bytes sent, collectives and memory of one chip against the number of chips."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    trees = scaling()
    chips = [tree["chips"] for tree in trees]
    figure = Figure(figsize=(10.5, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    sent, count, memory = figure.subplots(1, 3)
    for kind, (color, marker) in KINDS.items():
        pairs = [tree["collectives"].get(kind, (0.0, 0.0)) for tree in trees]
        if not any(pair[1] > 2e9 for pair in pairs):
            continue
        look = {"color": color, "marker": marker, "ms": 5, "label": kind}
        sent.plot(chips, [pair[1] / GIGA or None for pair in pairs], **look)
        count.plot(chips, [pair[0] or None for pair in pairs], **look)
    whole = [sum(pair[1] for pair in t["collectives"].values()) / GIGA for t in trees]
    sent.plot(chips, whole, color="#999999", ls="--", lw=1, label="all together")
    below = [0.0] * len(trees)
    places = range(len(trees))
    for name, color in PARTS.items():
        sizes = [tree["parts"].get(name, 0.0) / GIB for tree in trees]
        memory.bar(places, sizes, bottom=below, color=color, label=name, width=0.7)
        below = [a + b for a, b in zip(below, sizes, strict=True)]
    memory.set_xticks(places, [str(n) for n in chips])
    for axes, title in ((sent, "GB sent by a chip"), (count, "collectives")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(chips, [str(n) for n in chips])
        axes.set_ylim(bottom=0)
        axes.set_title(f"{title}, per step", loc="left", fontsize=10)
    memory.set_title("GiB held by a chip", loc="left", fontsize=10)
    for axes in (sent, count, memory):
        axes.set_xlabel("chips (v5p)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def write_page() -> None:
    """The page, and the figure where there is something to draw."""
    (DOCS / "plan.md").write_text(page())
    if scaling():
        scaling_figure(DOCS / "figures" / "plan_scaling.png")
