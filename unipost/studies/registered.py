"""Which claims were there before any run: claims.json of a study's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipost.config import to_tree
from unipost.runs import write_atomic
from unipost.studies.claims import Claim

NAME = "claims.json"


def register(
    claims: Mapping[str, Claim],
    folder: Path,
    results: Sequence[str] = ("*/*/result.json",),
) -> None:
    """Write the tests of the claims, as long as no run has a result.

    `results` are patterns of the files that tell so.
    """
    if not any(found for pattern in results for found in folder.glob(pattern)):
        write_atomic(folder / NAME, json.dumps(_tests(claims), indent=1) + "\n")


def late_claims(claims: Mapping[str, Claim], folder: Path) -> list[str]:
    """Names of the claims whose test is not the one written before the first result."""
    path = folder / NAME
    before = json.loads(path.read_text()) if path.exists() else {}
    return [name for name, test in _tests(claims).items() if before.get(name) != test]


def _tests(claims: Mapping[str, Claim]) -> dict[str, Any]:
    """Of each claim what decides it: wording may be mended."""
    return {
        name: {"status": claim.status, "test": to_tree(claim)["test"]}
        for name, claim in claims.items()
    }
