"""`unipost analyze`: two models on a file of prompts; a table, JSON and a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from unipost.analysis.coloured import ansi, strongest
from unipost.analysis.inputs import model_folder, open_models, open_texts
from unipost.analysis.page import page
from unipost.analysis.run import Findings, run
from unipost.analysis.settings import Analysis
from unipost.analysis.table import plain, table
from unipost.completions.pieces import pieces
from unipost.config import build, dump_tree, to_tree
from unipost.formats import data_hash
from unipost.loading import adapter_base
from unipost.runs import environment, open_folder, write_atomic
from unipost.tree import COMMAND_LINE, merge_layers, parse_override

FILES = "analysis.json", "analysis.html"


def settings(overrides: Sequence[str]) -> Analysis:
    """The settings of KEY=VALUE. Raises ConfigError."""
    from unipost.choices import REGISTRIES
    from unipost.config import CHOICES

    CHOICES.update(REGISTRIES)
    layers = [(COMMAND_LINE, parse_override(o)) for o in overrides]
    return build(Analysis, merge_layers(layers), file=COMMAND_LINE)


def config_of(options: argparse.Namespace, asked: Analysis) -> str:
    """The config.yaml of an analysis."""
    paths = {name: str(getattr(options, name)) for name in ("base", "tuned", "data")}
    return dump_tree(paths | to_tree(asked))


def analyze(options: argparse.Namespace, asked: Analysis, folder: Path) -> Findings:
    """Measure, and write analysis.json and analysis.html to `folder`.

    Raises RunError for models that are not there or do not fit, DataError for the file.
    """
    names = [str(getattr(options, name)) for name in ("base", "tuned", "data")]
    base, tuned = open_models(options.base, options.tuned, asked)
    texts = open_texts(names[2], (base, tuned), asked)
    open_folder(folder, config_of(options, asked))
    found = run(base, tuned, texts, asked)
    values = {
        "base": names[0],
        "tuned": names[1],
        "data": names[2],
        "prompts": len(texts.prompts),
        "samples": asked.samples,
        "measures": [plain(m) for m in found.measures],
        "skipped": found.skipped,
        **found.details,
        "environment": environment(asked.seed, _hashes(names)),
    }
    write_atomic(folder / FILES[0], json.dumps(values, indent=1) + "\n")
    write_atomic(folder / FILES[1], page(found, names, asked))
    return found


def _hashes(names: Sequence[str]) -> dict[str, str]:
    """Of the data and of each model, an adapter's base included."""
    found = {"data": data_hash(names[2])}
    for side, name in zip(("base", "tuned"), names, strict=False):
        folder = model_folder(f"--{side}", Path(name))
        below = adapter_base(folder)
        found[side] = data_hash([folder] if below is None else [folder, below])
    return found


def report(found: Findings, options: argparse.Namespace) -> str:
    """What is printed: prompts, the table, what is missing, on a terminal one text."""
    n, g = found.pair.tuned.shape
    base, tuned, data = options.base, options.tuned, options.data
    lines = [f"{tuned} against {base}: {n} prompts of {data}, {g} samples each"]
    lines += ["", table(found.measures), *(f"no {s}" for s in found.skipped)]
    if sys.stdout.isatty():
        lines += ["", example(found)]
    return "\n".join(lines)


def example(found: Findings) -> str:
    """The first sample of the tuned model, coloured by implicit reward."""
    mask = found.own.mask[0, 0]
    parts = pieces(found.tokenizer, found.pair.tuned.rows.response[0, 0][mask].tolist())
    values = found.rewards[0][0, 0][mask]
    text = ansi(parts, values.tolist(), strongest(found.rewards[0]))
    return f"{found.pair.tuned.given.prompts[0]}{text}"
