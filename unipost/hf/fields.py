"""The fields of one config.json, each of which must be read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from unipost.hf.families import IGNORED, NEUTRAL, Family


class Reader:
    """Reads fields by name and knows at the end which were not read.

    An absent field has the family's default; null is None, as in transformers. Every
    error is one line that names the file, the field and its value.
    """

    def __init__(self, fields: Mapping[str, Any], path: Path, family: Family):
        self.fields, self.path, self.family = fields, path, family
        self.seen: set[str] = set()

    def get(self, name: str) -> Any:
        """The value of a field, or the family's default where it is absent."""
        self.seen.add(name)
        if name in self.fields:
            return self.fields[name]
        return self.family.default(name)

    def stated(self, name: str) -> Any:
        """The value in the file, None where it is absent or null."""
        self.seen.add(name)
        return self.fields.get(name)

    def number(self, name: str) -> float:
        """A number, as a float."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(name, value, "a number")
        return float(value)

    def size(self, name: str) -> int:
        """A positive integer that the file, or the family's default, has."""
        value = self.get(name)
        if value is None:
            raise ValueError(f"{self.path}: {name} is missing; write it into the file")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(name, value, "a positive integer")
        return value

    def size_or_zero(self, name: str) -> int:
        """An integer of 0 or more."""
        value = self.get(name)
        return 0 if value == 0 and not isinstance(value, bool) else self.size(name)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.get(name)
        if not isinstance(value, bool):
            self.refuse(name, value, "true or false")
        return value

    def only(self, name: str, allowed: Collection[Any]) -> None:
        """Raises ValueError unless the field is absent, null or one of `allowed`."""
        value = self.stated(name)
        if value is not None and value not in allowed:
            choices = (None, *allowed)
            self.refuse(name, value, " or ".join(map(repr, choices)))

    def refuse(self, name: str, value: Any, supported: str) -> NoReturn:
        """Raises the ValueError for a value that is not supported."""
        raise ValueError(
            f"{self.path}: {name} = {value!r} is not supported; only {supported} is"
        )

    def finish(self) -> None:
        """Checks what was not read: neutral values, and fields without effect."""
        for name, allowed in {**NEUTRAL, **self.family.neutral}.items():
            self.only(name, allowed)
        for name, value in self.fields.items():
            known = name in self.seen or name in IGNORED or name in self.family.ignored
            if not known and value is not None:
                kind = self.fields["model_type"]
                raise ValueError(
                    f"{self.path}: {name} = {value!r} is not supported: {kind} has no "
                    "such field; remove it if it changes nothing"
                )
