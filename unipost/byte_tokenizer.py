"""A byte-level tokenizer: any text, no vocabulary to learn, nothing to download."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from unipost.tokenizer_layout import (
    TEMPLATE,
    tokenizer_object,
    write_tokenizer,
)

SPECIALS = {"<|pad|>": 256, "<|eos|>": 257, "<|bos|>": 258, "<|turn|>": 259}
NAMES = {"pad_token": "<|pad|>", "eos_token": "<|eos|>", "bos_token": "<|bos|>"}
TURNS = """\
{{- bos_token }}
{%- if tools %}{{- raise_exception('tools are not supported') }}{%- endif %}
{%- for message in messages %}
{%- if message.tool_calls %}{{- raise_exception('tool calls are not supported') }}
{%- endif %}
{{- '<|turn|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{- message['content'] + eos_token }}{%- endgeneration %}
{%- else %}{{- message['content'] + eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|turn|>assistant\\n' }}{%- endif %}"""
"""<|bos|>, then <|turn|>role, a newline, the content and <|eos|> for every turn."""


@dataclass(frozen=True)
class ByteTokenizer:
    """One token per byte of UTF-8: ids 0-255, then pad, eos, bos and turn, 260 in all.

    Text that spells a special token out, "<|eos|>", encodes to that token, as in
    Hugging Face tokenizers. `chat_template` writes conversations (`unipost.chat`).
    """

    chat_template: str = TURNS

    @property
    def vocab_size(self) -> int:
        """256 bytes and the special tokens."""
        return 256 + len(SPECIALS)

    @property
    def pad_token(self) -> int:
        """Id that fills rows up; always masked."""
        return SPECIALS["<|pad|>"]

    @property
    def eos_token(self) -> int:
        """Id that ends a response, and every turn of a conversation."""
        return SPECIALS["<|eos|>"]

    @property
    def bos_token(self) -> int:
        """Id that starts a conversation."""
        return SPECIALS["<|bos|>"]

    def encode(self, text: str) -> list[int]:
        """Bytes of the text; ValueError for half of a surrogate pair."""
        pieces = re.split("(" + "|".join(map(re.escape, SPECIALS)) + ")", text)
        ids: list[int] = []
        for piece in pieces:
            ids += [SPECIALS[piece]] if piece in SPECIALS else piece.encode("utf-8")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the bytes, without special tokens.

        Bytes that are no UTF-8 become U+FFFD, as Hugging Face's decoder writes them.
        Raises ValueError for ids outside the vocabulary.
        """
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise ValueError(
                    f"ByteTokenizer: id {index} is outside [0, {self.vocab_size}); "
                    "decode ids that this tokenizer's vocabulary covers"
                )
        text = bytes(index for index in ids if index < 256)
        return text.decode("utf-8", errors="replace")

    @cached_property
    def backend(self) -> Any:
        """The same tokenizer in transformers, for its chat templates."""
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(layout())),
            chat_template=self.chat_template,
            clean_up_tokenization_spaces=False,
            name_or_path="ByteTokenizer",
            **NAMES,
        )

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer and its chat template in Hugging Face's layout."""
        write_tokenizer(folder, layout(), NAMES)
        path = Path(folder) / TEMPLATE
        path.write_text(self.chat_template, encoding="utf-8")


@cache
def byte_characters() -> tuple[str, ...]:
    """The character that stands for each byte in byte-level vocabularies (GPT-2's).

    Printable Latin-1 stands for itself; the other bytes take U+0100, U+0101, ...
    """
    shown = [b for b in range(256) if 33 <= b <= 126 or (b >= 161 and b != 173)]
    hidden = [b for b in range(256) if b not in shown]
    return tuple(
        chr(byte) if byte in shown else chr(256 + hidden.index(byte))
        for byte in range(256)
    )


def layout() -> dict[str, Any]:
    """tokenizer.json of a ByteTokenizer: byte-level BPE without a merge."""
    # offsets are not trimmed, so that a mask over text covers the spaces too
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {name: byte for byte, name in enumerate(byte_characters())} | SPECIALS,
        "merges": [],
    }
    return tokenizer_object(SPECIALS.items(), level, level, model)


def from_layout(
    content: Mapping[str, Any], names: Mapping[str, Any], template: str | None
) -> ByteTokenizer | None:
    """The ByteTokenizer whose files these are, or None if we did not write them."""
    if template is None or content != layout() or not NAMES.items() <= names.items():
        return None
    return ByteTokenizer(template)
