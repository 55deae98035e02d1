"""The verbs of the command line about models: eval, merge, export, best-of, analyze."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unipost.export import EXPORT, export
from unipost.export import add_arguments as add_export
from unipost.launch import add_options
from unipost.processes import check_single, on_first

if TYPE_CHECKING:
    from unipost.mesh import Layout

EVAL = """\
Evaluate a model folder on the tasks of an experiment or study file: greedy accuracy,
accuracy of samples, pass@k, and with --reference the KL both ways, entropy and margins.

  unipost eval runs/quickstart/grpo/0/final experiments/quickstart.yaml
  unipost eval runs/x/final experiments/quickstart.yaml --reference experiments/base
"""


MERGE = """\
Write a model in the Hugging Face layout: of an adapter's folder its base with the
adapter merged in, of a model's folder the model, in another dtype if asked.

  unipost merge runs/dpo/final runs/dpo/merged
  unipost merge runs/dpo/final runs/dpo/merged --dtype bfloat16
"""

BEST_OF = """\
Draw many responses to every question of a file and choose one: accuracy against the
number of responses N, for best of N by each score, majority and weighted votes, and
pass@N. Writes samples.jsonl, curve.csv, curve.png.

  unipost best-of experiments/base experiments/best_of.yaml
  unipost best-of runs/x/final experiments/best_of.yaml samples=256 limit=100

FILE holds path, prompt_length, sampling, reward (what is right), samples, scores.
"""

ANALYZE = """\
Compare a tuned model with its base on the prompts of a file: accuracy, pass@k and
majority votes, KL and rank shift of tokens, shift of hidden states, distance of
the weights, diversity, calibration and implicit rewards. Prints a table and writes
analysis.json (curves and lists for figures) and analysis.html (coloured tokens).

  unipost analyze --base experiments/base --tuned runs/sft --data test.jsonl
  unipost analyze --base A --tuned B --data D limit=100 samples=16 response_length=512
  unipost analyze --base A --tuned B --data D divergence=jensen_shannon beta=0.1

A and B are model folders or run directories with the same tokens; rows of D are
questions, demonstrations or bare prompts. docs/analysis.md has every formula.
"""

OVERRIDE = "a setting by its dotted path, e.g. objective.beta=0.2"
CACHE = (
    "keeps compiled programs for the next run (default: JAX_COMPILATION_CACHE_DIR, or "
    "~/.cache/unipost)"
)


def out_folder(options: argparse.Namespace, config: str) -> Path:
    """The folder asked for, or runs/NAME; NAME-2, ... if that holds other settings."""
    if options.out is not None:
        return options.out
    return on_first(lambda: _free_folder(options.file.stem, config))


def _free_folder(name: str, config: str) -> Path:
    from unipost.runs import holds_other

    number = 1
    folder = first = Path("runs") / name
    while holds_other(folder, config):
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    if number > 1:
        print(f"{first} holds other settings; this run is in {folder}")
    return folder


def _file_arguments(parser: argparse.ArgumentParser, holds: str) -> None:
    parser.add_argument(
        "model", type=Path, metavar="FOLDER", help="Hugging Face layout, e.g. final/"
    )
    parser.add_argument("file", type=Path, metavar="FILE", help=holds)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE)
    parser.add_argument("--cache", metavar="FOLDER|off", help=CACHE)


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    _file_arguments(parser, "holds the tasks")
    parser.add_argument(
        "--reference", type=Path, metavar="FOLDER", help="measure the KL to this model"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    add_options(parser)


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="FOLDER", help="adapter or model")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")


def _best_of_arguments(parser: argparse.ArgumentParser) -> None:
    _file_arguments(parser, "what is sampled and how it is scored")
    parser.add_argument("--out", type=Path, help="folder (default: runs/NAME)")


def _analyze_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=OVERRIDE)
    for name, text in (
        ("base", "model folder or run directory"),
        ("tuned", "the same, of the model that was trained from it"),
        ("data", "file of prompts, .jsonl, .json or .parquet"),
    ):
        parser.add_argument(
            f"--{name}", type=Path, required=True, metavar="PATH", help=text
        )
    parser.add_argument("--out", type=Path, help="folder (default: runs/analysis)")
    parser.add_argument("--cache", metavar="FOLDER|off", help=CACHE)


def evaluate(options: argparse.Namespace) -> None:
    """unipost eval FOLDER FILE [KEY=VALUE ...]."""
    from unipost.compilation import enable_cache
    from unipost.config import build
    from unipost.mesh import Mesh, within
    from unipost.tree import load_tree

    tree = load_tree(options.file, options.overrides)
    enable_cache(options.cache)
    if "evaluation" not in tree:
        raise ValueError(f"{options.file}: evaluation: missing; write its tasks")
    if tree.get("mesh") is None:
        check_single("mesh: null", "write mesh: {data: -1}, or start one process")
        layout = None
    else:
        layout = build(Mesh, tree["mesh"], "mesh", str(options.file)).open()
    with within(layout):
        _evaluate(options, tree, layout)


def _evaluate(
    options: argparse.Namespace, tree: dict[str, Any], layout: Layout | None
) -> None:
    import dataclasses
    import json

    from unipost.config import build
    from unipost.evaluation import Evaluation, Evaluator
    from unipost.train import load_model

    evaluation = build(Evaluation, tree["evaluation"], "evaluation", str(options.file))
    spread = options.seed, None, None, layout
    model = load_model(str(options.model), *spread)
    reference = options.reference
    if reference is not None and evaluation.distance is None:
        raise ValueError(
            f"{options.file}: evaluation.distance: missing, so --reference would have "
            "no effect; write the name of a task"
        )
    base = model if reference is None else load_model(str(reference), *spread)
    if reference is None:
        evaluation = dataclasses.replace(evaluation, distance=None)
    evaluator = Evaluator(
        evaluation, model.policy, model.tokenizer, base.params, options.seed
    )
    report = evaluator(model.params)
    print(json.dumps(report.numbers(), indent=1))


def merge(options: argparse.Namespace) -> None:
    """unipost merge FOLDER OUT."""
    from unipost.hf import save_pretrained
    from unipost.loading import adapter_base, load_model

    folder = str(options.model)
    model = load_model(folder, seed=0)
    if model.config is None:
        raise ValueError(f"{folder}: no model in the Hugging Face layout; give one")
    save_pretrained(
        options.out,
        model.config,
        model.params,
        model.tokenizer,
        dtype=options.dtype,
        generation=model.generation,
    )
    base = adapter_base(folder)
    what = folder if base is None else f"{base} with {folder} merged in"
    print(f"{options.out}: {what}, {options.dtype}")


def sample_best_of(options: argparse.Namespace) -> None:
    """unipost best-of FOLDER FILE [KEY=VALUE ...]."""
    from unipost.choices import REGISTRIES
    from unipost.compilation import enable_cache
    from unipost.config import CHOICES, load
    from unipost.test_time.command import best_of, config_of, table
    from unipost.test_time.settings import BestOf

    CHOICES.update(REGISTRIES)
    enable_cache(options.cache)
    asked = load(BestOf, options.file, options.overrides)
    folder = out_folder(options, config_of(str(options.model), asked))
    print(table(best_of(str(options.model), asked, folder)))
    print(f"{folder}: samples.jsonl, curve.csv and curve.png")


def compare_models(options: argparse.Namespace) -> None:
    """unipost analyze --base A --tuned B --data D [KEY=VALUE ...]."""
    from unipost.analysis.command import FILES, analyze, config_of, report, settings
    from unipost.compilation import enable_cache

    asked = settings(options.overrides)
    enable_cache(options.cache)
    folder = options.out or _free_folder("analysis", config_of(options, asked))
    found = analyze(options, asked, folder)
    print(report(found, options))
    print(f"\n{folder}: {' and '.join(FILES)}")


Verb = tuple[
    str,
    Callable[[argparse.Namespace], None],
    Callable[[argparse.ArgumentParser], None],
]
MODEL_VERBS: dict[str, Verb] = {
    "eval": (EVAL, evaluate, _eval_arguments),
    "merge": (MERGE, merge, _merge_arguments),
    "export": (EXPORT, export, add_export),
    "best-of": (BEST_OF, sample_best_of, _best_of_arguments),
    "analyze": (ANALYZE, compare_models, _analyze_arguments),
}
"""What each is described as, does and takes."""
