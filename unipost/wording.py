"""How a question is put: the text around it, a system message, the chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from unipost.formats import DataError

PLACE = "{prompt}"


@dataclass(frozen=True)
class Wording:
    """The prompt that is made of a row's question.

    text    the user's words, with {prompt} where the question stands
    system  a system message before them; None: none
    form    chat: messages, which the tokenizer's chat template makes token ids of (a
            tokenizer without one: lines `user: ...`); text: the words as they are
    """

    text: str = PLACE
    system: str | None = None
    form: Literal["chat", "text"] = "chat"

    def __post_init__(self):
        if PLACE not in self.text:
            raise ValueError(
                f"wording.text: {self.text!r} has no place for the question; write "
                f"{PLACE} where it stands"
            )
        if self.form == "text" and self.system is not None:
            raise ValueError(
                "wording.system: a text has no system message; write it in wording."
                "text, or form: chat"
            )

    def put(self, question: Any) -> Any:
        """Text, or messages, of a question that is text or messages.

        Of messages the last turn is worded anew. Raises DataError for messages in the
        form text, and for a second system message.
        """
        if isinstance(question, str):
            said = self.text.replace(PLACE, question)
            if self.form == "text":
                return said
            return [*self._system, {"role": "user", "content": said}]
        if self.form == "text":
            raise DataError("'prompt' is messages; write wording.form: chat")
        *before, last = question
        if self._system and any(turn["role"] == "system" for turn in before):
            raise DataError(
                "'prompt' has a system message already; leave wording.system out"
            )
        content = self.text.replace(PLACE, last["content"])
        return [*self._system, *before, last | {"content": content}]

    @property
    def _system(self) -> list[dict[str, str]]:
        if self.system is None:
            return []
        return [{"role": "system", "content": self.system}]
