"""unipost sweep FILE [KEY=VALUE ...]: what the command line says and does."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

SWEEP = """\
Run every combination of a grid with every seed, each as a run directory of its own:

  unipost sweep experiments/ablations/dpo_beta_divergence.yaml
  unipost sweep FILE seeds='[0]' base.steps=50 grid.objective.beta='[0.1, 0.3]'
  unipost sweep FILE --shard $SLURM_ARRAY_TASK_ID/8     (with --array=1-8)

FILE holds claim, base (an experiment), grid {dotted.key: [values]}, seeds, skip and
metrics. Everything is built and checked before anything runs, and the plan is printed.
Started again, finished runs are left, others go on from their last checkpoint, and what
failed is tried again. Runs that differ in numbers alone are trained as one program.
SIGTERM and Ctrl-C let the runs save and end with code 75.

  DIR/COMBINATION/SEED/    a run, as `unipost run` makes it
  DIR/summary.md, .csv     means over seeds, intervals, differences to the first one
  DIR/logs/                what the runs printed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    from unipost.model_verbs import CACHE, OVERRIDE

    parser.add_argument("file", type=Path, metavar="FILE", help="the sweep")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE)
    parser.add_argument("--out", type=Path, help="folder (default: runs/NAME)")
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N", help="only part I of N, from 1"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="processes at once (default: one per core, one on accelerators)",
    )
    parser.add_argument(
        "--separate",
        dest="grouping",
        action="store_const",
        const="separate",
        default="together",
        help="a process for every run, also where several could be one program",
    )
    parser.add_argument("--cache", metavar="FOLDER|off", help=CACHE)


def sweep(options: argparse.Namespace) -> None:
    """unipost sweep FILE."""
    import jax

    from unipost.launch import detected
    from unipost.runs import RunError
    from unipost.sweep.machine import find_machine
    from unipost.sweep.plan import Shard
    from unipost.sweep.run import Asked, run_sweep
    from unipost.sweep.settings import load_sweep

    shard = Shard.parse(options.shard)
    if detected(os.environ) is not None:
        raise RunError(
            "sweep: this is one of several processes; start one for every shard "
            "(srun --ntasks=1, or --shard in a job array)"
        )
    # the devices are the runs': here nothing is computed
    jax.config.update("jax_platforms", "cpu")
    loaded = load_sweep(options.file, options.overrides)
    machine = find_machine()
    jobs = machine.jobs if options.jobs is None else options.jobs
    slots = tuple(machine.slots(jobs, os.environ))
    asked = Asked(shard, slots, options.grouping, options.cache)
    run_sweep(loaded, options.out or Path("runs") / options.file.stem, asked)
