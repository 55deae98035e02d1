"""Running a pipeline: the stages that are not done yet, then the summary."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml

from unipost.config import dump_tree
from unipost.locks import NAME, held
from unipost.pipeline.claims import check_claims, register_claims, write_results
from unipost.pipeline.measure import measure
from unipost.pipeline.preflight import check_stages
from unipost.pipeline.record import check_run, check_stale, runs_of
from unipost.pipeline.settings import Pipeline, is_pipeline
from unipost.pipeline.summary import write_summary
from unipost.runs import RunError, write_atomic


def run_pipeline(pipeline: Pipeline, folder: Path) -> dict[str, Any]:
    """Run every stage and seed that is not done yet; returns and writes summary.json.

    Each is a run directory `folder/STAGE`, or `folder/STAGE/SEED`, resumed by itself;
    a pipeline that was killed goes on where it stopped. Raises RunError, before
    anything runs, where an input is missing or a stage there was made otherwise.
    """
    check_claims(pipeline)
    check_stages(pipeline)
    _check_own(folder)
    with held(folder):
        return _run(pipeline, folder)


def _run(pipeline: Pipeline, folder: Path) -> dict[str, Any]:
    check_stale(pipeline, folder)
    register_claims(pipeline, folder)
    write_atomic(folder / "config.yaml", dump_tree(pipeline.tree()))
    runs = list(runs_of(pipeline, folder))
    for i, run in enumerate(runs):
        seed = "" if run.seed is None else f" seed {run.seed}"
        # an earlier stage may have been made again since the start, with other bytes
        check_run(run)
        if not run.done:
            started = time.perf_counter()
            title = f"[{i + 1}/{len(runs)}] {run.name}{seed}"
            numbers = run.stage.of.run(run.settings(), run.folder, title)
            run.finish(numbers, time.perf_counter() - started)
        measure(run)
    write_results(runs, folder)
    return write_summary(runs, folder)


def _check_own(folder: Path) -> None:
    """Raise RunError where the folder holds something that is no pipeline."""
    path = folder / "config.yaml"
    there = yaml.safe_load(path.read_text()) if path.exists() else None
    if not folder.exists() or is_pipeline(there or {}):
        return
    if any(found.name != NAME for found in folder.iterdir()):
        raise RunError(f"{folder}: holds no pipeline; choose another --out")
