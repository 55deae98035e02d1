"""The command line: `unipost VERB`, with the verbs that `unipost --help` lists."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unipost.endings import leave, told
from unipost.launch import add_options, begin
from unipost.model_verbs import CACHE, MODEL_VERBS, OVERRIDE, out_folder
from unipost.paper_figures import FIGURES, draw_figures
from unipost.paper_figures import add_arguments as figure_arguments
from unipost.plan.verb import PLAN, plan_arguments, run_plan
from unipost.preemption import EXIT, Stopped, listening
from unipost.processes import check_single, is_first
from unipost.studies.command import VERDICTS, verdicts
from unipost.studies.command import add_arguments as verdict_arguments
from unipost.sweep.command import SWEEP, sweep
from unipost.sweep.command import add_arguments as add_sweep

DESCRIPTION = """\
Post-training as one f-divergence objective:

  implicit reward = beta f'(policy/anchor)
  loss            = link(implicit reward, signal) + penalty D_g(policy || reference)

Change one thing in an objective and see what it did:

  unipost run experiments/quickstart.yaml
  unipost run experiments/quickstart.yaml arms.f_dpo_js.objective.divergence=forward_kl
  unipost explain f_dpo divergence=jensen_shannon
"""

RUN = """\
Run an experiment, a study of several arms from one base, or a pipeline of stages that
train or sample from what earlier ones made.

FILE is YAML; KEY=VALUE overrides a setting by its dotted path, and naming a part anew
drops the arguments of the old one:

  unipost run experiments/sft.yaml steps=200 optimizer.learning_rate=3e-4
  unipost run experiments/quickstart.yaml common.steps=20 seeds='[0]'
  unipost run experiments/quickstart.yaml base=train      (make the base again first)
  unipost run experiments/r1.yaml seeds='[0]'

Started again with the same settings, a run goes on from its last checkpoint, a study
from its last finished arm and a pipeline from its last finished stage. SIGTERM saves
after the current step and ends it with exit code 75, to be queued again. Everything
needed to repeat it is in the run directory: config.yaml, environment.json,
metrics.jsonl, evaluation.jsonl, final/.
"""

EXPLAIN = """\
Print an objective in mathematical notation, with its gradient coefficient: the weight
on grad log pi of every token.

  unipost explain dpo
  unipost explain grpo kl=0.1 estimator=importance_k3
  unipost explain f_sft divergence=mypkg.mine:MyDivergence
  unipost explain trl.dpo beta=0.2                (TRL's and verl's option names)
  unipost explain mypkg.mine:my_objective         (a function or an object of your own)
  unipost explain experiments/quickstart.yaml     (every arm)
  unipost explain grpo --latex
  unipost explain grpo --plot grpo.png            (the coefficient as curves)

status: what is exact (value and gradient are those of the quantity named), right in
gradient only, exact under a condition, or biased. zero: where value or gradient are 0.
is: the presets it equals, or the nearest one and what differs.
"""

LIST = """\
List what can be named in a config: presets, divergences, ratios, links, weights,
corrections, signals, penalties' estimators, aggregations, sources and the rest.

  unipost list
  unipost list presets
"""

ONE = "start one process, or run one of its experiments by itself"
SUMMARIES = {
    "run": "run an experiment, a study or a pipeline",
    "sweep": "run a grid of experiments with several seeds",
    "explain": "print an objective in mathematical notation",
    "list": "list what a config can name",
    "plan": "what a step takes on a pod, before one is there",
    "eval": "evaluate a model folder",
    "merge": "merge an adapter into its base",
    "export": "write the model of a checkpoint",
    "best-of": "accuracy against the number of samples",
    "analyze": "compare a tuned model with its base",
    "verdicts": "decide the claims of stored results again",
    "figures": "draw the figures of the gallery from stored results",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors of use are one line."""
    parser = _parser()
    # overrides may stand after options too, which argparse alone does not allow
    options, rest = parser.parse_known_args(arguments)
    stray = [x for x in rest if x.startswith("-") or "=" not in x]
    if stray or (rest and not hasattr(options, "overrides")):
        parser.error(f"{(stray or rest)[0]!r} is neither an option nor KEY=VALUE")
    if rest:
        options.overrides += rest
    return guarded(options)


def guarded(options: argparse.Namespace) -> int:
    """Run `options.command`; returns the exit code, its errors told in one line."""
    try:
        begin(options)
        with listening():
            options.command(options)
    except Stopped as stopped:
        if is_first():
            print(f"unipost: {stopped}", file=sys.stderr)
        return EXIT
    except Exception as error:
        if not told(error, options.traceback):
            raise
        return leave(error, 2)
    except KeyboardInterrupt as error:
        print("unipost: stopped; the same command goes on from here", file=sys.stderr)
        return leave(error, 130)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unipost",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error came from"
    )
    names = " | ".join(SUMMARIES)
    verbs = parser.add_subparsers(required=True, metavar=names)

    def verb(name, text, command):
        sub = verbs.add_parser(
            name,
            help=SUMMARIES[name],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command)
        return sub

    _run_arguments(verb("run", RUN, _run))
    _explain_arguments(verb("explain", EXPLAIN, _explain))
    listing = verb("list", LIST, _list)
    listing.add_argument("kind", nargs="?", help="one kind only")
    add_sweep(verb("sweep", SWEEP, sweep))
    plan_arguments(verb("plan", PLAN, run_plan))
    verdict_arguments(verb("verdicts", VERDICTS, verdicts))
    figure_arguments(verb("figures", FIGURES, draw_figures))
    for name, (text, command, add) in MODEL_VERBS.items():
        add(verb(name, text, command))
    return parser


def _run_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument("file", type=Path, metavar="FILE", help="what to run")
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE)
    run.add_argument("--out", type=Path, help="run directory (default: runs/NAME)")
    run.add_argument(
        "--model",
        metavar="FOLDER",
        help="short for model=FOLDER, of a study base=FOLDER",
    )
    run.add_argument("--cache", metavar="FOLDER|off", help=CACHE)
    add_options(run)
    run.add_argument(
        "--trace",
        type=int,
        metavar="N",
        help="record N steps in RUN/trace, for xprof or TensorBoard",
    )
    run.add_argument(
        "--trace-from",
        type=int,
        metavar="STEP",
        help="the first step recorded (default: the third of this start)",
    )


def _explain_arguments(explain: argparse.ArgumentParser) -> None:
    explain.add_argument(
        "what", metavar="PRESET|FILE", help="preset, dotted path, or file"
    )
    explain.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE)
    explain.add_argument(
        "--latex",
        dest="spelling",
        action="store_const",
        const="latex",
        default="explain",
        help="print the formulas as LaTeX",
    )
    drawn = "draw the coefficient: .png, .pdf, .svg"
    explain.add_argument("--plot", type=Path, metavar="FILE", help=drawn)


def _run(options: argparse.Namespace) -> None:
    import json

    from unipost.compilation import enable_cache, first_step_text
    from unipost.pipeline import is_pipeline
    from unipost.study import is_study
    from unipost.sweep.settings import is_sweep
    from unipost.tree import load_tree

    tree = load_tree(options.file, options.overrides)
    if options.model is not None:
        # a path may hold what YAML reads as something else
        key = "base" if is_study(tree) else "model"
        options.overrides.append(f"{key}={json.dumps(options.model)}")
    enable_cache(options.cache)
    if is_study(tree):
        _trace(options, "a study has many runs")
        check_single(f"{options.file} is a study", ONE)
        _run_study(options)
        return
    if is_sweep(tree):
        raise ValueError(f"{options.file}: is a sweep; write unipost sweep")
    if is_pipeline(tree):
        _trace(options, "a pipeline has many runs")
        check_single(f"{options.file} is a pipeline", ONE)
        _run_pipeline(options)
        return
    from unipost.config import dump_tree, load, to_tree
    from unipost.profiling import shares_text
    from unipost.train import Experiment, train

    experiment = load(Experiment, options.file, options.overrides)
    folder = out_folder(options, dump_tree(to_tree(experiment)))
    trace = _trace(options)
    result = train(experiment, folder, title=options.file.stem, trace=trace)
    if not is_first():
        return
    print(f"{folder}: {experiment.steps} steps, {result.seconds:.0f} s")
    if result.first_step is not None:
        print(first_step_text(*result.first_step))
    if spent := shares_text(folder / "timing.jsonl"):
        print(spent)
    _print_last(folder / "evaluation.jsonl")


def _trace(options: argparse.Namespace, one: str = ""):
    """The trace asked for, or None; `one` says why there can be none."""
    from unipost.profiling import Trace

    if options.trace is None and options.trace_from is None:
        return None
    if one:
        raise ValueError(f"--trace: {one}; trace one of its runs by itself")
    if options.trace is None:
        raise ValueError("--trace-from: says nothing without --trace N")
    return Trace(options.trace, options.trace_from)


def _print_last(path: Path) -> None:
    """The numbers of the last evaluation, one a line."""
    import json

    lines = path.read_text().splitlines() if path.exists() else []
    for key, value in json.loads(lines[-1]).items() if lines else ():
        print(f"  {key:<24} {value:.4g}")


def _run_study(options: argparse.Namespace) -> None:
    from unipost.config import dump_tree, to_tree
    from unipost.report import write_report
    from unipost.study import load_study, run_study

    study = load_study(options.file, options.overrides)
    folder = out_folder(options, dump_tree(to_tree(study)))
    results = run_study(study, folder)
    print(write_report(results, folder))
    print(f"{folder}: report.md, table.csv and figures, from results.json")


def _run_pipeline(options: argparse.Namespace) -> None:
    from unipost.pipeline import load_pipeline, run_pipeline, summary_text

    pipeline = load_pipeline(options.file, options.overrides)
    # changed settings are no new run: stages that they leave alone are used again
    folder = options.out or Path("runs") / options.file.stem
    print(summary_text(run_pipeline(pipeline, folder)))
    print(f"{folder}: summary.md and a run directory for every stage")


def _explain(options: argparse.Namespace) -> None:
    from unipost import explain

    if options.what.endswith((".yaml", ".yml")):
        found = _objectives(Path(options.what), options.overrides)
    else:
        found = [_named(options.what, options.overrides)]
    if options.spelling == "latex":
        print("\n\n".join(explain.latex(o) for _, o in found))
    else:
        print("\n\n".join(f"{n}\n{explain.explain(o)}".lstrip() for n, o in found))
    for name, objective in found if options.plot else ():
        path = options.plot
        if len(found) > 1:
            path = path.with_stem(f"{path.stem}-{name}")
        explain.plot_coefficient(objective, path)


def _named(what: str, overrides: Sequence[str]):
    """(first line of its docstring, objective) of a preset or a dotted path."""
    import inspect
    import pydoc

    from unipost.choices import REGISTRIES
    from unipost.config import CHOICES, build
    from unipost.objectives import OBJECTIVES, AnyObjective
    from unipost.tree import COMMAND_LINE, merge_layers, parse_override

    library, _, function = what.partition(".")
    if library in ("trl", "verl") and function:
        what = f"unipost.{library}:{function}"
    layers = [(COMMAND_LINE, parse_override(o)) for o in overrides]
    node = merge_layers([("", {"name": what}), *layers])
    CHOICES.update(REGISTRIES)
    objective = build(AnyObjective, node, file=COMMAND_LINE)
    made = OBJECTIVES.get(what) or pydoc.locate(what.replace(":", "."))
    doc = inspect.getdoc(made) if callable(made) else None
    return f"{doc.splitlines()[0]}\n" if doc else "", objective


def _objectives(file: Path, overrides: Sequence[str]):
    """(name, objective) of every arm or training stage, or ("", objective)."""
    from unipost.config import build
    from unipost.objectives import AnyObjective
    from unipost.pipeline import is_pipeline, load_pipeline
    from unipost.study import is_study, load_study
    from unipost.tree import load_tree

    tree = load_tree(file, overrides)
    if is_pipeline(tree):
        stages = load_pipeline(file, overrides).stages.items()
        return [(n, s.settings.objective) for n, s in stages if s.kind == "train"]
    if is_study(tree):
        arms = load_study(file, overrides).arms
        return [(name, arm.objective) for name, arm in arms.items()]
    if "objective" not in tree:
        raise ValueError(f"{file}: objective: missing; write a preset")
    return [("", build(AnyObjective, tree["objective"], "objective", str(file)))]


def _list(options: argparse.Namespace) -> None:
    from unipost.listing import listing

    print(listing(options.kind))
