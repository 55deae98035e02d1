"""Diagnostics: the probabilities of a training set's tokens, as Figure 2 of 2508.05629.

Ten bins of half a decade from 1e-5 to 1; what is smaller counts in the first. A column
of the file is one teacher; `many` is all of COLUMNS, one after the other.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from unipost.analysis.coefficients import bimodality, probability_histogram
from unipost.data import encode_rows, read_rows
from unipost.studies.diagnostics import Seen
from unipost.tokenizer import Tokenizer
from unipost.update import Rows, annotate

DATA = Path(__file__).parent / "data" / "ch4_train.jsonl"
COLUMNS = ("completion", "verbose", "dotted")
ITEMS, PROMPT, RESPONSE = 64, 16, 22
BINS = 10


@lru_cache
def training_rows(tokenizer: Tokenizer, column: str) -> Rows:
    """The first 64 demonstrations of a teacher (of each, for many), tokenised."""
    chosen = COLUMNS if column == "many" else (column,)
    parts = []
    for name in chosen:
        read = read_rows(str(DATA), "demonstrations", {"completion": name})
        found = encode_rows(tokenizer, read.rows[:ITEMS], PROMPT, RESPONSE)
        parts.append([x[:, None] for x in found[:4]])
    whole: Any = (jnp.asarray(np.concatenate(x)) for x in zip(*parts, strict=True))
    return Rows(*whole, packed=None)


def histogram(seen: Seen, column: str):
    """`Histogram` of the token probabilities of a teacher's demonstrations."""
    decoder = seen.evaluator.decoder
    rows = training_rows(decoder.tokenizer, column)
    logps = annotate(decoder.policy, seen.params, rows).policy
    return probability_histogram(np.asarray(logps), np.asarray(rows.response_mask))


def token_bin(seen: Seen, column: str = "many", place: int = 0) -> float:
    """Percent of the teacher's tokens in the bin `place`, 0 for the least probable."""
    return 100 * float(histogram(seen, column).shares[place])


def token_ends(seen: Seen, column: str = "many") -> float:
    """Percent of the teacher's tokens in the two bins at the ends."""
    return 100 * bimodality(histogram(seen, column))


def token_low(seen: Seen, column: str = "many") -> float:
    """Percent of the teacher's tokens with p < 0.1, the eight lower bins."""
    return 100 * float(histogram(seen, column).shares[: BINS - 2].sum())
