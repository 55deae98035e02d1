"""What choosing among N responses costs: generated tokens, and forward FLOPs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipost.hf.files import stored_tensors
from unipost.loading import adapter_base
from unipost.test_time.settings import BestOf, Graded

EMBEDDING = "embed_tokens.weight"


def multiplied(folder: str | Path) -> int:
    """Parameters that a token is multiplied with: without a table that is looked up.

    A tied embedding is the head too, and counts. Of an adapter those of its base.
    """
    place = Path(adapter_base(str(folder)) or folder)
    stored = stored_tensors(place)
    heads = [n for n in stored if n.startswith(("lm_head", "score", "classifier"))]
    tables = [n for n in stored if n.endswith(EMBEDDING) and heads]
    return sum(math.prod(x.shape) for n, x in stored.items() if n not in tables)


def scorers(asked: BestOf) -> dict[str, int]:
    """{score: parameters of the model that gives it}; 0 for one without a model."""
    found = {}
    for name, score in asked.scores.items():
        path = score.reward if isinstance(score, Graded) else None
        path = getattr(path, "path", None)
        found[name] = multiplied(path) if path and Path(path).is_dir() else 0
    return found


def flops(cost: Mapping[str, Any], rule: str, size: int) -> float:
    """Forward FLOPs per question of a rule at N = `size`, 2 per parameter and token.

    The policy reads the prompt once and generates N responses; the model of a score
    reads prompt and response N times. Attention to earlier tokens is left out.
    """
    prompt, response = cost["prompt_tokens"], cost["tokens"]
    own = cost["parameters"] * (prompt + size * response)
    score = rule.partition(", ")[2]
    other = cost["scorers"].get(score, 0) * size * (prompt + response)
    return 2.0 * (own + other)


def cost_of(
    model: str, tokenizer: Any, lines: Sequence[Mapping[str, Any]], asked: BestOf
) -> dict[str, Any]:
    """{tokens, prompt_tokens: means; parameters; scorers} of the samples drawn."""
    prompts = [line["prompt"] for line in lines if line["sample"] == 0]
    lengths = [len(tokenizer.encode(prompt)) for prompt in prompts]
    return {
        "tokens": math.fsum(line["tokens"] for line in lines) / len(lines),
        "prompt_tokens": sum(lengths) / len(lengths),
        "parameters": multiplied(model),
        "scorers": scorers(asked),
    }
