"""Runs of one arm trained together: its seeds, and the points of its grid."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from unipost.loading import load_model
from unipost.studies.curve import Curve, Measured
from unipost.studies.frame import MEMBER
from unipost.studies.settings import Study
from unipost.vectorised import split, train_together, why_not

FINAL = "final"


def train_family(
    study: Study, arm: str, base: str, folder: Path, measure: Measured
) -> None:
    """Train the runs of an arm and of the other points of its grid, several at once.

    Those that have a result or a trained model are left alone, and so are those that
    nothing can be trained together with: `unipost.study` trains them one by one.
    """
    if study.together == 1:
        return
    common = arm.partition(MEMBER)[0]
    family = [name for name in study.arms if name.partition(MEMBER)[0] == common]
    runs = [(name, seed) for name in family for seed in study.seeds]
    folders = [folder / name / str(seed) for name, seed in runs]
    left = [i for i, place in enumerate(folders) if not _done(place)]
    experiments = [study.experiment(*runs[i], base, folder) for i in left]
    reason = next((r for r in map(why_not, experiments) if r is not None), None)
    if reason is not None:
        print(f"{arm}: its runs are trained one by one: {reason}", file=sys.stderr)
    for group in split(experiments):
        for first in range(0, len(group), study.together):
            part = group[first : first + study.together]
            if len(part) > 1:
                places = [folders[left[i]] for i in part]
                chosen = [experiments[i] for i in part]
                pairs = zip(chosen, places, strict=True)
                curves = [Curve(measure, study.curve, p, e.objective) for e, p in pairs]
                also = [[(curve, curve)] for curve in curves]
                title = f"{common}, {len(part)} runs"
                train_together(chosen, places, title, also=also)


def _done(place: Path) -> bool:
    return (place / "result.json").exists() or (place / FINAL).exists()


def trained_together(study: Study, folder: Path) -> Any:
    """The parameters of a run that was trained with others; None for one that was not.

    Read from its folder, so that a study that is killed after the training goes on to
    the same numbers.
    """
    if study.together == 1 or not (folder / FINAL).exists():
        return None
    return load_model(str(folder / FINAL), 0).params
