"""Reference log-probs of fixed rows, computed once before training and kept on disk.

Then no reference is in memory while a run goes on. The folder may be shared by runs
and by the arms of a study: see `unipost.reference_key` for what must be equal.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unipost import reference_key
from unipost.adapters import attach
from unipost.loading import Model, load_reference
from unipost.objectives import Trainable
from unipost.processes import gathered, in_turn, is_first, on_first
from unipost.reference_key import Key, tokens_digest
from unipost.reference_store import LINES, claim, file_name, put_array, read_array
from unipost.runs import RunError
from unipost.sources import Fixed, Mixed, Source, Stream
from unipost.update import REFERENCE, Rows, annotate, minibatch, with_packing

if TYPE_CHECKING:
    from unipost.experiment import Experiment

EXTRAS = {"reference": (), "reference_lse": ("lse",)}
"""The fields of `Batch` that are kept -> what else of `score` each asks for."""
ONLINE = {
    "mismatched": "of pairs that change with the batch",
    "reference_vocab": "over the whole vocabulary, too large to keep",
}
"""What an objective may read of a reference that is not kept -> what that is."""


def check_cache(objective: Trainable, data: Source, folder: str | None) -> None:
    """Refuse a cache that nothing reads or that cannot hold what is read.

    Raises ValueError, one line.
    """
    if folder is None:
        return
    if not folder:
        raise ValueError("reference_cache: empty; write a folder, or leave it out")
    problem = _problem(objective, data)
    if problem:
        raise ValueError(f"reference_cache: {folder}, but {problem}; leave it out")


def _problem(objective: Trainable, data: Source) -> str:
    needs = objective.needs & REFERENCE
    if not needs:
        return "the objective reads no reference"
    for name in sorted(needs & ONLINE.keys()):
        return f"the objective reads log-probs {ONLINE[name]}"
    if data.varies == "step":
        return f"{type(data).__name__} gives other rows at each step"
    return ""


def with_reference(
    experiment: Experiment, model: Model, place: str | None, stream: Stream
) -> Stream:
    """`stream` with its reference log-probs, read from the cache or put there.

    model: the run's own; place: the folder whose parameters it has, None where they
    may be others. The reference is loaded if something has to be computed. Raises
    RunError for a cache of another key and for damaged files, OSError where it cannot
    be written; one line each.
    """
    compute = experiment.compute
    load = functools.cache(
        lambda: load_reference(experiment.reference, model, False, compute)
    )
    parts = list(_fixed(experiment, stream))
    own = experiment.model if isinstance(experiment.model, str) else "drawn from a seed"
    key = Key(
        reference_key.model_part(
            experiment.reference or place, experiment.reference or own
        ),
        functools.cache(lambda: _parameters(load())),
        reference_key.tokenizer_part(model.tokenizer),
        reference_key.data_part(experiment.data.paths, [x.tokens for x in parts]),
        reference_key.compute_part(compute.dtype, attach(model.params)),
    )
    folder = Path(experiment.reference_cache or "")
    progress = _Progress(folder, sum(len(x.tokens.prompt) for x in parts))
    work = _Work(
        folder,
        claim(folder, key),
        tuple(sorted(experiment.objective.needs & EXTRAS.keys())),
        experiment.minibatches * experiment.microbatches,
        experiment.packed_length,
        load,
        progress,
    )
    filled = iter([work.fill(part) for part in parts])
    progress.end()
    return _replaced(stream, filled)


def _parameters(judge: Model) -> str:
    return reference_key.parameters_digest(judge.config, attach(judge.params))


def _fixed(experiment: Experiment, stream: Stream) -> Iterator[Fixed]:
    """The streams of fixed rows that `stream` is made of, in order."""
    if isinstance(stream, Mixed):
        for part in stream.streams:
            yield from _fixed(experiment, part)
    elif isinstance(stream, Fixed):
        yield stream
    else:
        raise RunError(
            f"reference_cache: {experiment.reference_cache}, but "
            f"{type(experiment.data).__name__} opens a {type(stream).__name__}, whose "
            "rows may change; leave it out"
        )


def _replaced(stream: Stream, filled: Iterator[Fixed]) -> Stream:
    if isinstance(stream, Mixed):
        return Mixed(tuple(_replaced(part, filled) for part in stream.streams))
    return next(filled)


class _Progress:
    """What a person is told: a line at the end, and one about every ten seconds."""

    def __init__(self, folder: Path, lines: int):
        self.folder, self.lines, self.found, self.computed = folder, lines, 0, 0
        self.started = self.said = time.perf_counter()

    def add(self, computed: int) -> None:
        self.computed += computed
        if time.perf_counter() - self.said > 10.0:
            self.said = time.perf_counter()
            self._say(f"{self.computed + self.found:,} of {self.lines:,} lines")

    def end(self) -> None:
        seconds = time.perf_counter() - self.started
        if not self.computed:
            self._say(f"{self.lines:,} lines from {self.folder}")
            return
        there = f" ({self.found:,} were there)" if self.found else ""
        lines = f"{self.computed:,} lines in {seconds:.1f} s"
        self._say(f"{lines} -> {self.folder}{there}")

    def _say(self, text: str) -> None:
        if is_first():
            print(f"reference log-probs: {text}", file=sys.stderr)


@dataclass(frozen=True)
class _Work:
    """Filling the streams of one run: where, with what, and in which pieces."""

    folder: Path
    record: dict[str, Any]
    names: tuple[str, ...]
    pieces: int
    packed_length: int | None
    load: Callable[[], Model]
    progress: _Progress

    def fill(self, fixed: Fixed) -> Fixed:
        """`fixed` with an array [N T] of every stream."""
        lines, digest = len(fixed.tokens.prompt), tokens_digest(fixed.tokens)
        # as many rows as an update sees at once; all batches of one shape
        most = max(1, fixed.prompts * fixed.group // self.pieces)
        batches = math.ceil(min(lines, LINES) / most)
        size = math.ceil(min(lines, LINES) / batches)
        parts = []
        for start in range(0, lines, LINES):
            rows = [x[start : start + LINES] for x in fixed.tokens[:4]]
            paths = {
                name: self.folder / file_name(self.record, digest, name, start)
                for name in self.names
            }
            parts.append(self._part(paths, rows, size))
        whole = {n: np.concatenate([part[n] for part in parts]) for n in self.names}
        return dataclasses.replace(fixed, streams=whole)

    def _part(self, paths: dict[str, Path], rows: list[np.ndarray], size: int):
        """The arrays of one file's rows, read or computed and written."""
        shape = rows[2].shape
        found = on_first(lambda: {n: read_array(p, shape) for n, p in paths.items()})
        if all(array is not None for array in found.values()):
            self.progress.found += len(rows[0])
            return found
        missing = {name for name, array in found.items() if array is None}
        computed = _computed(self.load(), rows, size, self.names, self.packed_length)
        for name in missing:
            on_first(lambda name=name: put_array(paths[name], computed[name]))
        self.progress.add(len(rows[0]))
        return found | {name: computed[name] for name in missing}


def _computed(
    judge: Model,
    rows: list[np.ndarray],
    size: int,
    names: tuple[str, ...],
    packed_length: int | None,
) -> dict[str, np.ndarray]:
    """Arrays [n T] of n lines by `names`, computed in batches of `size` lines."""
    extras, layout = [x for name in names for x in EXTRAS[name]], judge.mesh
    count, parts = len(rows[0]), []
    batches = math.ceil(count / size)
    # the last batch is filled up with the last line
    index = np.minimum(np.arange(batches * size), count - 1)
    arrays: list[Any] = [x[index][:, None] for x in rows]
    whole = Rows(*arrays, packed=None)
    if packed_length is not None:
        blocks = 1 if layout is None else layout.row_shards
        whole = with_packing(whole, packed_length, batches, blocks)
    for i in range(batches):
        batch = minibatch(whole, i, batches)
        if layout is not None:
            packed = batch.packed and layout.place_packed(batch.packed)
            batch = layout.place(batch._replace(packed=None))._replace(packed=packed)
        args = judge.policy, judge.params, batch, tuple(extras)
        streams = in_turn(annotate(*args))
        fields = {"reference": streams.policy, "reference_lse": streams.lse}
        parts.append({name: fields[name] for name in names})
    host = gathered(parts)
    return {n: np.concatenate([part[n][:, 0] for part in host])[:count] for n in names}
