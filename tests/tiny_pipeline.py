"""A small pipeline for tests: every kind of stage, in seconds."""

import hashlib
from pathlib import Path

SIZES = {
    "characters": "0123456789+=",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 16,
}


def rows(path: str) -> dict:
    """Four demonstrations a step."""
    return {
        "name": "demonstrations",
        "path": path,
        "prompts": 4,
        "prompt_length": 4,
        "response_length": 3,
    }


def tree(data: str) -> dict:
    """Cold start, RL, rejection, SFT of the base on what was kept, and a side stage."""
    rollouts = {
        "name": "rollouts",
        "path": data,
        "prompts": 4,
        "prompt_length": 4,
        "group": 4,
        "sampling": {"max_tokens": 3},
        "reward": "tiny_runs:length",
    }
    return {
        "common": {
            "objective": "sft",
            "data": rows(data),
            "optimizer": {"name": "adamw", "learning_rate": 0.01},
            "steps": 4,
            "checkpoints": {"every": 2},
        },
        "evaluation": {
            "rows": 16,
            "distance": "sums",
            "tasks": {
                "sums": {
                    "path": data,
                    "prompt_length": 4,
                    "response_length": 3,
                    "samples": 2,
                    "pass_at": [2],
                }
            },
        },
        "results": ["side"],
        "stages": {
            "cold": {"kind": "train", "model": dict(SIZES)},
            "rl": {
                "kind": "train",
                "model": "{cold}",
                "objective": "grpo",
                "data": rollouts,
            },
            "reject": {
                "kind": "rejection",
                "model": "{rl}",
                "path": data,
                "prompt_length": 4,
                "samples": 8,
                "keep": "all",
                "sampling": {"max_tokens": 3},
                "reward": "tiny_runs:length",
                "threshold": 0.5,
            },
            "side": {"kind": "train", "model": "{cold}"},
            "sft": {"kind": "train", "model": "{cold}", "data": {"path": "{reject}"}},
        },
    }


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file of a run that does not tell the time."""
    clocks = ("timing.jsonl", "done.json", "environment.json")
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in clocks and "checkpoints" not in p.parts
    }
