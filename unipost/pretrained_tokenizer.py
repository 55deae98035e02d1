"""A transformers tokenizer behind the library's protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

MEDIA = ("image_token", "audio_token", "video_token")


@dataclass(frozen=True)
class PretrainedTokenizer:
    """A transformers tokenizer behind the `Tokenizer` protocol.

    pad_token falls back to eos_token: padding is masked, so any valid id will do.
    `ends` are further ids that end a response, those of generation_config.json.
    """

    backend: Any
    ends: tuple[int, ...] = ()

    @property
    def vocab_size(self) -> int:
        """1 + the largest id of a token of text, added tokens included.

        Tokens that stand for images or sound do not count: text-only checkpoints
        (Gemma 3 1B) have one in the tokenizer and no row for it in the embedding.
        """
        return self._vocab_size

    @cached_property
    def _vocab_size(self) -> int:
        named = self.backend.special_tokens_map
        media = {named[name] for name in MEDIA if name in named}
        vocab = self.backend.get_vocab()
        return 1 + max(index for token, index in vocab.items() if token not in media)

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

    @cached_property
    def start_tokens(self) -> tuple[int, ...]:
        """What it puts before a text by itself: its bos token, or nothing."""
        bos = self.backend.bos_token_id
        added = self.backend("")["input_ids"]
        return (bos,) if bos is not None and added[:1] == [bos] else ()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, no special tokens added."""
        return self.backend.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, without special tokens."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer's own files."""
        self.backend.save_pretrained(folder)
