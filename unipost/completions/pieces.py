"""The text that each token adds to a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unipost.tokenizer import Tokenizer

BROKEN = "\ufffd"  # what decoders write for bytes that are no character yet
WINDOW = 16


@dataclass(frozen=True)
class Piece:
    """`text` that a token adds, or the name of a `special` token, which adds none.

    A token that only begins a character adds ""; the one that ends it adds all of it.
    """

    text: str
    special: bool = False


def pieces(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[Piece]:
    """What every token adds; the texts, joined, are the decoded response.

    Tokens are decoded together with those just before them: alone, a byte is no
    character and a word may lose the space before it.
    """
    out: list[Piece] = []
    start, told, ends = 0, "", [0]
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(list(tokens[start:end]))
        if text.endswith(BROKEN) and end < len(tokens):
            out.append(Piece(""))
            continue
        # a decoder may take a space back; what was told stays
        added = text[len(told) :]
        broken = ends[-1] < end - 1
        special = not added and not broken
        name = _name(tokenizer, tokens[end - 1]) if special else added
        out.append(Piece(name, special))
        told, ends = text, [*ends[-WINDOW:], end]
        if end - start > 2 * WINDOW:
            start = ends[0]
            told = tokenizer.decode(list(tokens[start:end]))
    return out


def _name(tokenizer: Tokenizer, token: int) -> str:
    """What a special token is called; its number where nothing names it."""
    backend = getattr(tokenizer, "backend", None)
    name = None if backend is None else backend.convert_ids_to_tokens(token)
    if isinstance(name, str):
        return name
    if token == tokenizer.eos_token:
        return "<eos>"
    return f"<{token}>"
