"""A tokenizer of single characters, in pure Python and in Hugging Face's layout."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unipost.tokenizer_layout import tokenizer_object, write_tokenizer


@dataclass(frozen=True)
class CharTokenizer:
    """One token per character of `characters`, after the special tokens.

    Ids: pad 0, eos 1, then bos and unk if given, then the characters in order. Text
    that spells a special token out, "<eos>", encodes to that token, as in Hugging
    Face tokenizers. Without `unk` a character outside the vocabulary is an error.
    """

    characters: str
    pad: str = "<pad>"
    eos: str = "<eos>"
    bos: str | None = None
    unk: str | None = None

    def __post_init__(self) -> None:
        tokens = [*self.specials.values(), *self.characters]
        repeated = sorted({token for token in tokens if tokens.count(token) > 1})
        if repeated:
            raise ValueError(
                f"CharTokenizer: {repeated[0]!r} appears twice; give each character "
                "and each special token once"
            )
        if "" in tokens:
            raise ValueError("CharTokenizer: a special token is empty; give it a name")

    @property
    def specials(self) -> dict[str, str]:
        """Special tokens by role, in the order of their ids."""
        roles = {"pad": self.pad, "eos": self.eos, "bos": self.bos, "unk": self.unk}
        return {role: token for role, token in roles.items() if token is not None}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token text to id."""
        tokens = [*self.specials.values(), *self.characters]
        return {token: index for index, token in enumerate(tokens)}

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.ids)

    @property
    def pad_token(self) -> int:
        """Id that fills rows up; always masked."""
        return self.ids[self.pad]

    @property
    def eos_token(self) -> int:
        """Id that ends a response."""
        return self.ids[self.eos]

    @property
    def bos_token(self) -> int | None:
        """Id that may start a prompt, if the tokenizer has one."""
        return None if self.bos is None else self.ids[self.bos]

    def encode(self, text: str) -> list[int]:
        """Ids of the characters; ValueError names one that is unknown."""
        names = sorted(self.specials.values(), key=len, reverse=True)
        pieces = re.findall("|".join(map(re.escape, names)) + r"|[\s\S]", text)
        default = None if self.unk is None else self.ids[self.unk]
        ids = [self.ids.get(piece, default) for piece in pieces]
        known = [index for index in ids if index is not None]
        if len(known) < len(ids):
            raise ValueError(
                f"CharTokenizer: {pieces[ids.index(None)]!r} is not in the vocabulary; "
                "add it to `characters` or give an `unk` token"
            )
        return known

    def decode(self, ids: Sequence[int]) -> str:
        """Characters of the ids, without special tokens; ValueError for ids outside."""
        texts, skip = list(self.ids), len(self.specials)
        for index in ids:
            if not 0 <= index < len(texts):
                raise ValueError(
                    f"CharTokenizer: id {index} is outside [0, {len(texts)}); decode "
                    "ids that this tokenizer's vocabulary covers"
                )
        return "".join(texts[index] for index in ids if index >= skip)

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json in Hugging Face's layout."""
        names = {f"{role}_token": token for role, token in self.specials.items()}
        write_tokenizer(folder, layout(self), names)


def layout(tokenizer: CharTokenizer) -> dict[str, Any]:
    """tokenizer.json of a CharTokenizer: a WordLevel model over single characters."""
    # WordLevel must name an unknown token; one outside the vocabulary makes
    # an unknown character an error there too.
    model = {
        "type": "WordLevel",
        "vocab": tokenizer.ids,
        "unk_token": tokenizer.unk or "[no unknown token]",
    }
    split = {
        "type": "Split",
        "pattern": {"Regex": r"[\s\S]"},
        "behavior": "Isolated",
        "invert": False,
    }
    specials = [(token, tokenizer.ids[token]) for token in tokenizer.specials.values()]
    return tokenizer_object(specials, split, {"type": "Fuse"}, model)


def from_layout(
    content: Mapping[str, Any], names: Mapping[str, Any]
) -> CharTokenizer | None:
    """The CharTokenizer whose two files these are, or None if we did not write them."""
    if content.get("model", {}).get("type") != "WordLevel":
        return None
    specials = {role: names.get(f"{role}_token") for role in ("bos", "unk")}
    pad, eos = names.get("pad_token"), names.get("eos_token")
    if not isinstance(pad, str) or not isinstance(eos, str):
        return None
    skip = 2 + sum(name is not None for name in specials.values())
    vocab = content["model"]["vocab"]
    tokens = sorted(vocab, key=lambda token: vocab[token])
    characters = tokens[skip:]
    if any(len(token) != 1 for token in characters):
        return None
    found = CharTokenizer("".join(characters), pad, eos, **specials)
    return found if layout(found) == content else None
