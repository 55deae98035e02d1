"""Text to token ids and back: a character tokenizer, and any Hugging Face one.

Both have encode, decode, pad_token, eos_token and vocab_size; nothing else in the
library asks more of a tokenizer.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What the library needs: ids are ints in [0, vocab_size).

    encode adds no special tokens by itself; decode leaves special tokens out.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_token(self) -> int: ...
    @property
    def eos_token(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


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
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {f"{role}_token": token for role, token in self.specials.items()}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **names,
        }
        for name, content in (
            ("tokenizer.json", layout(self)),
            ("tokenizer_config.json", settings),
        ):
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class PretrainedTokenizer:
    """A transformers tokenizer behind the `Tokenizer` protocol.

    pad_token falls back to eos_token: padding is masked, so any valid id will do.
    """

    backend: Any

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return len(self.backend)

    @property
    def pad_token(self) -> int:
        """Id that fills rows up; always masked."""
        pad = self.backend.pad_token_id
        return self.eos_token if pad is None else pad

    @property
    def eos_token(self) -> int:
        """Id that ends a response; ValueError if the tokenizer names none."""
        if self.backend.eos_token_id is None:
            raise ValueError(
                f"tokenizer {self.backend.name_or_path}: it names no eos_token; add "
                "one to tokenizer_config.json"
            )
        return self.backend.eos_token_id

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no special tokens added."""
        return self.backend.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, without special tokens."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer's own files."""
        self.backend.save_pretrained(folder)


def load_tokenizer(folder: str | Path) -> CharTokenizer | PretrainedTokenizer:
    """The tokenizer of a local folder: ours where we wrote it, else AutoTokenizer.

    Raises FileNotFoundError, in one line, where the folder has no tokenizer.
    """
    path = Path(folder) / "tokenizer.json"
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = Path(folder) / "tokenizer_config.json"
        found = from_layout(content, settings)
        if found is not None:
            return found
    elif not (Path(folder) / "tokenizer_config.json").exists():
        raise FileNotFoundError(
            f"{folder}: no tokenizer.json and no tokenizer_config.json; give a folder "
            "that holds a saved tokenizer"
        )
    from transformers import AutoTokenizer

    return PretrainedTokenizer(AutoTokenizer.from_pretrained(str(folder)))


def layout(tokenizer: CharTokenizer) -> dict[str, Any]:
    """tokenizer.json of a CharTokenizer: a WordLevel model over single characters."""
    added = [
        {
            "id": tokenizer.ids[token],
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in tokenizer.specials.values()
    ]
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
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": model,
    }


def from_layout(content: dict[str, Any], settings: Path) -> CharTokenizer | None:
    """The CharTokenizer whose files these are, or None if we did not write them."""
    if not settings.exists() or content.get("model", {}).get("type") != "WordLevel":
        return None
    names = json.loads(settings.read_text(encoding="utf-8"))
    specials = {role: names.get(f"{role}_token") for role in ("bos", "unk")}
    required = {role: names.get(f"{role}_token") for role in ("pad", "eos")}
    if not all(isinstance(name, str) for name in required.values()):
        return None
    skip = 2 + sum(name is not None for name in specials.values())
    vocab = content["model"]["vocab"]
    tokens = sorted(vocab, key=lambda token: vocab[token])
    characters = tokens[skip:]
    if any(len(token) != 1 for token in characters):
        return None
    found = CharTokenizer("".join(characters), **required, **specials)
    return found if layout(found) == content else None
