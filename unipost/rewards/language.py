"""A reward for thinking in one language: the share of words in its script."""

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

Script = Literal[
    "latin",
    "cyrillic",
    "greek",
    "arabic",
    "hebrew",
    "devanagari",
    "thai",
    "chinese",
    "japanese",
    "korean",
]

_SCRIPTS: dict[str, frozenset[str]] = {
    "chinese": frozenset({"CJK"}),
    "japanese": frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    "korean": frozenset({"HANGUL", "CJK"}),
}
_SINGLE = frozenset({"CJK", "HIRAGANA", "KATAKANA"})
"""Scripts that put no space between words: every letter counts as one."""

_ALIASES = {"IDEOGRAPHIC": "CJK", "KATAKANA-HIRAGANA": "KATAKANA"}
_WIDTHS = frozenset({"FULLWIDTH", "HALFWIDTH", "MODIFIER"})

_NEUTRAL = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`"  # code
    r"|\$\$.*?\$\$|\$[^$\n]*\$|\\\((?:(?!\\\().)*?\\\)|\\\[(?:(?!\\\[).)*?\\\]"
    r"|\\boxed\{[^{}]*\}|\\[A-Za-z]+|</?[A-Za-z_]+>|https?://\S+",
    re.DOTALL,
)


def language_consistency(
    response: str,
    answer: str,
    script: Script = "latin",
    part: Literal["response", "thinking"] = "response",
) -> float:
    """The share of words that are in the target script, in [0, 1].

    A word is a run of letters, in Chinese and Japanese one letter; it is in the script
    if all of its letters are. Numbers, code, LaTeX, tags, links and single Greek
    letters are neutral. Without any word the share is 1, of an empty text 0.
    `part: thinking` looks at what is before the last </think> alone. Script, not
    language: English and French are both latin. Source: DeepSeek-R1 (2501.12948) 2.3.2.
    """
    text = response
    if part == "thinking":
        text = text.rpartition("</think>")[0]
        text = text.partition("<think>")[2] if "<think>" in text else text
    if not text.strip():
        return 0.0
    wanted = _SCRIPTS.get(script, frozenset({script.upper()}))
    right = total = 0
    for scripts in _words(_NEUTRAL.sub(" ", text)):
        total += 1
        right += scripts <= wanted
    return right / total if total else 1.0


def _words(text: str) -> Iterator[frozenset[str]]:
    """The scripts of every word."""
    word: list[str] = []
    for letter in text + " ":
        kind = _script(letter)
        if kind in _SINGLE or not kind:
            if word and word != ["GREEK"]:
                yield frozenset(word) - {"MARK"}
            word = []
            if kind:
                yield frozenset({kind})
        elif word or kind != "MARK":
            word.append(kind)


@functools.lru_cache(maxsize=1 << 14)
def _script(letter: str) -> str:
    """The script of a letter, MARK for what combines with one, "" for anything else."""
    category = unicodedata.category(letter)[0]
    if category == "M":
        return "MARK"
    if category != "L":
        return ""
    words = [w for w in unicodedata.name(letter, "").split() if w not in _WIDTHS]
    first = words[0] if words else ""
    # letters of mathematics, and ordinals such as º
    if first in ("MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "FEMININE", "MASCULINE"):
        return ""
    return "GREEK" if first == "MICRO" else _ALIASES.get(first, first)
