"""unipost plan: what a step takes on a pod, before one is there."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unipost.experiment import Experiment
    from unipost.mesh import Mesh
    from unipost.plan.plan import Plan
    from unipost.plan.search import Candidate
    from unipost.plan.topology import Topology

TRIED = 3
"""Suggestions that are compiled at most, until one fits."""

PLAN = """\
Compile the training step of an experiment for a TPU that is not there, and say what
each chip would hold, compute and send, how long a step would take, and whether it fits;
if not, what to change. GPUs are estimated from shapes.

  unipost plan experiments/plan/sft_8b.yaml --topology v5e-256
  unipost plan experiments/plan/dpo_8b.yaml --topology v5p-16 --mesh fsdp=4,tensor=2
  unipost plan experiments/plan/sft_8b.yaml --topology v5e-16 --mesh auto
  unipost plan experiments/plan/sft_8b.yaml --topology h100x8x4 microbatches=8
  unipost plan experiments/plan/sft_8b.yaml --topology v6e-64 --estimate --json out.json

Names are Google's: v4-N and v5p-N count TensorCores, two a chip; v5e-N and v6e-N count
chips. h100x8x4 is 4 hosts of 8. Neither weights nor data are read: a model is the
config.json of its folder, and every row is as long as it may be. Compiling needs
libtpu: pip install 'unipost[tpu]'.
"""


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    from unipost.model_verbs import OVERRIDE

    parser.add_argument("file", type=Path, metavar="EXPERIMENT", help="one experiment")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE)
    parser.add_argument(
        "--topology", required=True, metavar="NAME", help="v5p-16, v5e-256, h100x8x4"
    )
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...|auto",
        help="in place of the experiment's; auto: the quickest that fits, by estimate",
    )
    parser.add_argument("--model", metavar="FOLDER", help="short for model=FOLDER")
    parser.add_argument(
        "--estimate", action="store_true", help="from shapes, nothing is compiled"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")


def run_plan(options: argparse.Namespace) -> None:
    """unipost plan EXPERIMENT --topology NAME."""
    import sys

    import jax

    # the programs are traced on the CPU, whatever accelerator this machine has
    jax.config.update("jax_platforms", "cpu")
    from unipost.plan.page import page
    from unipost.plan.plan import compile_plan, estimate_plan
    from unipost.plan.topology import parse_topology

    topology = parse_topology(options.topology)
    experiment = with_mesh(_experiment(options), options.mesh, topology)
    if options.estimate or not topology.is_tpu:
        found = estimate_plan(experiment, topology)
    else:
        found = compile_plan(experiment, topology, partial(print, file=sys.stderr))
    if options.json is not None:
        write_record(found, options)
    print(page(found))
    if not found.fits:
        print(advice(experiment, topology, found))


def write_record(found: Plan, options: argparse.Namespace) -> None:
    """Write the numbers of a plan to the file of --json."""
    import json

    from unipost.plan.record import record

    tree = record(found, str(options.file), options.overrides)
    options.json.write_text(json.dumps(tree, indent=1) + "\n")


def _experiment(options: argparse.Namespace) -> Experiment:
    import json

    from unipost.config import load
    from unipost.pipeline import is_pipeline
    from unipost.study import is_study
    from unipost.train import Experiment
    from unipost.tree import load_tree

    if options.model is not None:
        options.overrides.append(f"model={json.dumps(options.model)}")
    tree = load_tree(options.file, options.overrides)
    if is_study(tree) or is_pipeline(tree):
        raise ValueError(
            f"{options.file}: holds several runs; write an experiment of one, with "
            "model, data and objective"
        )
    return load(Experiment, options.file, options.overrides)


def parse_mesh(text: str, rules: dict[str, Any]) -> Mesh:
    """`fsdp=4,tensor=2` as a Mesh with these rules. ValueError for anything else."""
    from unipost.mesh import AXES, Mesh

    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.strip().partition("=")
        if axis not in AXES or not size.removeprefix("-").isdecimal():
            raise ValueError(
                f"--mesh: {part!r} is no axis=size; write such as fsdp=8,tensor=2 "
                f"(axes: {', '.join(AXES)}), or auto"
            )
        sizes[axis] = int(size)
    if "data" not in sizes and -1 not in sizes.values():
        sizes["data"] = -1
    return Mesh(**({"data": 1} | sizes), rules=rules)


def with_mesh(
    experiment: Experiment, asked: str | None, topology: Topology
) -> Experiment:
    """`experiment` on the mesh that is asked for; without any, the one that fits."""
    import dataclasses

    from unipost.plan.search import quickest, roomiest

    if asked is None and experiment.mesh is not None:
        return experiment
    if asked not in (None, "auto"):
        rules = {} if experiment.mesh is None else experiment.mesh.rules
        mesh = parse_mesh(str(asked), rules)
        return dataclasses.replace(experiment, mesh=mesh)
    found = quickest(experiment, topology) or roomiest(experiment, topology)
    if found is None:
        raise ValueError(
            f"--mesh: {experiment.data.prompts} prompts x {experiment.data.rows} rows "
            f"divide over no mesh of {topology.chips} chips; write other data.prompts"
        )
    return found.experiment


def advice(experiment: Experiment, topology: Topology, found: Plan) -> str:
    """What to change where a step does not fit, each with how it is known.

    The least spread mesh and the quickest one as things are, then changed settings, by
    estimate. Where the step was compiled, so is the first of them that holds.
    """
    from unipost.plan.page import suggestion
    from unipost.plan.search import quickest, remedies, smallest

    same = [f(experiment, topology) for f in (smallest, quickest)]
    every = [c for c in same if c is not None]
    every = [
        c for i, c in enumerate(every) if c.mesh not in [x.mesh for x in every[:i]]
    ]
    every += remedies(experiment, topology)
    if not every:
        chips = topology.chips
        return f"\nno mesh of {chips} chips fits by estimate, whatever is changed"
    lines, holds = [], found.method != "compiled"
    for one in every:
        how = "estimate"
        if not holds and len(lines) < TRIED:
            how, holds = _tried(one, topology)
        lines.append(suggestion(one, how))
    return "\n".join(("", "what fits, the least change first:", *lines))


def _tried(one: Candidate, topology: Topology) -> tuple[str, bool]:
    """What compiling a suggestion says, and whether it holds."""
    import sys

    from unipost.plan.page import gib, verdict
    from unipost.plan.plan import compile_plan

    made = compile_plan(one.experiment, topology, partial(print, file=sys.stderr))
    if made.fits:
        return f"estimate; compiled: fits with {gib(made.peak)}", True
    return f"estimate; compiled: {verdict(made)}", False
