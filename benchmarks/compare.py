"""unipost beside TRL, transformers, Tunix and EasyDeL: a table of ratios.

    python benchmarks/compare.py --torch-python PATH --tunix-python PATH \\
        --easydel-python PATH [--rounds 2] [--repeats 7] [--prefix "chrt -r 1"]

Each PATH is the interpreter of an environment that holds the other library; rows of
one that is not given are left out. Every case runs in a process of its own, ours and
theirs in turn, `--rounds` times; the best repetition of all counts, for both. Run it
on a machine that does nothing else: PyTorch's threads spin, and lose more by company
than JAX's. `--prefix` stands before every command, for a scheduler or a cpu set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
    "ACCELERATE_USE_CPU": "true",
    "JAX_PLATFORMS": "cpu",
}


@dataclass(frozen=True)
class Row:
    """Our case against another library's.

    target is the most that ours may take of their time; None: told, not judged.
    """

    script: str
    ours: str
    peer: str
    theirs: str
    target: float | None


ROWS = (
    Row("torch_shapes.py", "sft", "torch", "sft_logits", 1.25),
    Row("torch_shapes.py", "sft", "torch", "sft", 0.95),
    Row("torch_shapes.py", "dpo", "torch", "dpo", 0.70),
    Row("torch_shapes.py", "dpo_precomp", "torch", "dpo_precomp", 0.90),
    Row("torch_shapes.py", "grpo_loss", "torch", "grpo_loss", 0.92),
    Row("torch_shapes.py", "logps", "torch", "logps", None),
    Row("torch_shapes.py", "gen8", "torch", "gen8", None),
    Row("torch_shapes.py", "gen64", "torch", "gen64", 1 / 1.6),
    Row("jax_shapes.py", "dpo", "tunix", "dpo", 0.70),
    Row("jax_shapes.py", "grpo", "tunix", "grpo", 0.80),
    Row("jax_shapes.py", "sample", "tunix", "sample", 1 / 1.3),
    Row("jax_shapes.py", "dpo", "easydel", "dpo", 0.65),
    Row("jax_shapes.py", "grpo", "easydel", "grpo", None),
)
MOST_MEMORY = 1.2e9
Case = tuple[str, str, str]
Results = dict[Case, dict[str, float]]


def run(python: str, script: Path, case: str, args: Any) -> dict[str, float]:
    """The numbers of one case in a process of its own."""
    # the command's own folder would hide a library of the same name as a script's
    paths = [str(HERE), str(HERE.parent)] if script.parent == HERE else [str(HERE)]
    env = os.environ | OFFLINE | {"PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [*args.prefix.split(), python, str(script), "--only", case]
        command += ["--repeats", str(args.repeats), "--json", str(out)]
        done = subprocess.run(
            command, env=env, cwd=folder, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"compare: {' '.join(command)} failed:\n{done.stderr}")
        results = json.loads(out.read_text())
    return {"peak_bytes": results.get("peak_bytes", 0.0)} | results[case]


def collect(rows: list[Row], pythons: dict[str, str], args: Any) -> Results:
    """The best numbers of every case that the rows name."""
    best: Results = {}
    for _ in range(args.rounds):
        for kind, script, case in cases(rows):
            key = kind, script.name, case
            new = run(pythons[kind], script, case, args)
            old = best.get(key, new)
            best[key] = {name: min(new[name], old[name]) for name in new}
            told = f"{new['wall_s']:.3f} s, load {new['load']:.1f}"
            print(f"{kind:8s} {case:12s} {told}", file=sys.stderr, flush=True)
    return best


def cases(rows: list[Row]) -> list[tuple[str, Path, str]]:
    """(whose, script, case) of every row in turn, none twice."""
    found = {}
    for row in rows:
        found["ours", HERE / row.script, row.ours] = None
        theirs = HERE / "peers" / f"{row.peer}_shapes.py"
        found[row.peer, theirs, row.theirs] = None
    return list(found)


def table(rows: list[Row], best: Results) -> list[str]:
    """The lines of the table, in Markdown."""
    lines = [
        "| unipost | beside | ours s | theirs s | ratio | CPU ratio | at most | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = best["ours", row.script, row.ours]
        theirs = best[row.peer, f"{row.peer}_shapes.py", row.theirs]
        ratio, cpu = (ours[k] / theirs[k] for k in ("wall_s", "cpu_s"))
        target = "" if row.target is None else f"{row.target:.3f}"
        met = "" if row.target is None else "yes" if ratio <= row.target else "NO"
        lines.append(
            f"| {row.ours} | {row.peer} {row.theirs} | {ours['wall_s']:.3f} | "
            f"{theirs['wall_s']:.3f} | {ratio:.2f} | {cpu:.2f} | {target} | {met} |"
        )
    return lines


def memory(best: Results) -> list[str]:
    """Peak memory of the cases at the shape of the JAX libraries."""
    lines = []
    for (kind, script, case), numbers in sorted(best.items()):
        if script == "torch_shapes.py":
            continue
        peak = numbers["peak_bytes"]
        limit = ""
        if kind == "ours":
            limit = f", at most {MOST_MEMORY / 1e9} GB"
            limit += ": yes" if peak <= MOST_MEMORY else ": NO"
        lines.append(f"peak memory of {kind} {case}: {peak / 1e9:.2f} GB{limit}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("torch", "tunix", "easydel"):
        parser.add_argument(f"--{name}-python")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    pythons = {"ours": sys.executable}
    for name in ("torch", "tunix", "easydel"):
        path = getattr(args, f"{name}_python")
        if path:
            pythons[name] = path
        else:
            print(f"{name}: no --{name}-python, so its rows are left out")
    rows = [row for row in ROWS if row.peer in pythons]
    if not rows:
        raise SystemExit("compare: no other library's interpreter is given")
    best = collect(rows, pythons, args)
    print("\n".join([*table(rows, best), "", *memory(best)]))
    print(f"{os.cpu_count()} cores, {args.rounds} rounds of {args.repeats}")
    if args.json:
        named = {" ".join(key): numbers for key, numbers in best.items()}
        Path(args.json).write_text(json.dumps(named, indent=1) + "\n")


if __name__ == "__main__":
    main()
