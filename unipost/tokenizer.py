"""Text to token ids and back: by characters, by bytes, or any Hugging Face tokenizer.

All have encode, decode, pad_token, eos_token and vocab_size; nothing else in the
library asks more of a tokenizer. One with a `backend` of transformers that has a chat
template also writes conversations (`unipost.chat`).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from unipost import byte_tokenizer, char_tokenizer
from unipost.byte_tokenizer import ByteTokenizer as ByteTokenizer
from unipost.char_tokenizer import CharTokenizer as CharTokenizer
from unipost.pretrained_tokenizer import PretrainedTokenizer as PretrainedTokenizer
from unipost.tokenizer_layout import (
    CONFIG,
    GENERATION,
    TEMPLATE,
    TOKENIZER,
    read_object,
)

SavedTokenizer = CharTokenizer | ByteTokenizer | PretrainedTokenizer
"""The tokenizers that have files."""


class Tokenizer(Protocol):
    """What the library needs: ids are ints in [0, vocab_size).

    encode adds no special tokens by itself; decode leaves special tokens out. Where
    there are `start_tokens`, a tuple of ids, text prompts begin with them.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_token(self) -> int: ...
    @property
    def eos_token(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def load_tokenizer(folder: str | Path) -> SavedTokenizer:
    """The tokenizer of a local folder: ours where we wrote it, else AutoTokenizer.

    Raises FileNotFoundError where the folder has no tokenizer, and ValueError for
    files that are damaged, in one line that names the file or folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give that of a tokenizer")
    if not (folder / TOKENIZER).exists() and not (folder / CONFIG).exists():
        raise FileNotFoundError(
            f"{folder}: no tokenizer.json and no tokenizer_config.json; give a folder "
            "that holds a saved tokenizer"
        )
    files = {
        name: read_object(folder / name)
        for name in (TOKENIZER, CONFIG)
        if (folder / name).exists()
    }
    return _ours(folder, files) or _theirs(folder)


def _ours(folder: Path, files: Mapping[str, Any]) -> SavedTokenizer | None:
    if len(files) < 2:
        return None
    content, names = files[TOKENIZER], files[CONFIG]
    template = names.get("chat_template")
    if (folder / TEMPLATE).exists():
        template = (folder / TEMPLATE).read_text(encoding="utf-8")
    if template is None:
        return char_tokenizer.from_layout(content, names)
    return byte_tokenizer.from_layout(content, names, template)


def _ends(folder: Path) -> tuple[int, ...]:
    """The ids that generation_config.json lists as ends; none without the file."""
    path = folder / GENERATION
    if not path.exists():
        return ()
    found = read_object(path).get("eos_token_id")
    ends = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(end, int) for end in ends):
        raise ValueError(f"{path}: eos_token_id = {found!r}; write one id or a list")
    return tuple(ends)


def _theirs(folder: Path) -> PretrainedTokenizer:
    # that there is no PyTorch is no news here
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    ends = _ends(folder)
    try:
        return PretrainedTokenizer(AutoTokenizer.from_pretrained(str(folder)), ends)
    except Exception as error:  # tokenizers raises bare Exception for what it rejects
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{folder}: transformers cannot load this tokenizer: {reason[:200]}"
        ) from error


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, folder: str | Path) -> None:
    """Refuse a tokenizer with ids beyond an embedding of `vocab_size` rows.

    A tokenizer may have fewer: embeddings are often padded. Raises ValueError, one
    line that names the folder and, where it is known, the first token without a row.
    """
    if tokenizer.vocab_size <= vocab_size:
        return
    backend, name = getattr(tokenizer, "backend", None), ""
    if backend is not None:
        name = f" ({backend.convert_ids_to_tokens(vocab_size)!r} is the first beyond)"
    raise ValueError(
        f"{folder}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, the "
        f"embedding {vocab_size} rows{name}; give the tokenizer of this model"
    )
