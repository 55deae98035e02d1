"""The recorded checkpoints of transformers, by name."""

import json
from functools import cache
from pathlib import Path

MODELS = Path(__file__).parent / "fixtures" / "hf_models"
# Each has golden.npz; those of every supported family also have config_v4.json.
RECORDED = sorted(path.parent.name for path in MODELS.glob("*/golden.npz"))
NAMES = [name for name in RECORDED if (MODELS / name / "config.json").exists()]
BOTH = [name for name in NAMES if (MODELS / name / "config_v4.json").exists()]


@cache
def _text(name: str, file: str) -> str:
    return (MODELS / name / file).read_text()


def fields(name: str, file: str = "config.json") -> dict:
    """A config file of a checkpoint, free to edit."""
    return json.loads(_text(name, file))
