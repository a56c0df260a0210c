"""Reading a JSON object of an answer, member by member, into the types it must have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gradstep._errors import AnswerMalformed
from gradstep._types import JsonObject

T = TypeVar("T")


class Fields:
    """A JSON object whose members are read by name and type.

    Every method takes the member's name and raises AnswerMalformed, naming it,
    where it is missing or of another type. Members that are not asked for are
    left alone, so that a newer server can add some.
    """

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            msg = f"expected a JSON object, got {type(value).__name__}"
            raise AnswerMalformed(msg)
        self._members: JsonObject = value

    @classmethod
    def parse(cls, text: bytes | str) -> Fields:
        """Return the object that a JSON text holds."""
        try:
            return cls(json.loads(text))
        except ValueError as error:
            raise AnswerMalformed(f"the answer is not JSON: {error}") from error

    def whole(self, name: str) -> int:
        """Return a whole number."""
        return self._typed(name, int)

    def whole_or_none(self, name: str) -> int | None:
        """Return a whole number, or None for null."""
        return None if self._present(name) is None else self.whole(name)

    def flag(self, name: str) -> bool:
        """Return true or false."""
        return self._typed(name, bool)

    def text(self, name: str) -> str:
        """Return a text."""
        return self._typed(name, str)

    def text_or_none(self, name: str) -> str | None:
        """Return a text, or None for null or a missing member."""
        return None if self._members.get(name) is None else self.text(name)

    def text_or_whole(self, name: str) -> str | int:
        """Return a text or a whole number."""
        return self.text(name) if isinstance(self._present(name), str) else self.whole(name)

    def number_or_none(self, name: str) -> float | None:
        """Return a number, or None for null."""
        value = self._present(name)
        return None if value is None else self._converted(name, float, value)

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return a list of numbers."""
        return self._converted(name, lambda items: tuple(map(float, items)), self.items(name))

    def numbers_or_none(self, name: str) -> tuple[float, ...] | None:
        """Return a list of numbers, or None for null."""
        return None if self._present(name) is None else self.numbers(name)

    def moment(self, name: str) -> datetime:
        """Return a date and time."""
        return self._converted(name, datetime.fromisoformat, self.text(name))

    def mapping(self, name: str) -> JsonObject:
        """Return an object."""
        return self._typed(name, dict)

    def mapping_or_none(self, name: str) -> JsonObject | None:
        """Return an object, or None for null."""
        return None if self._present(name) is None else self.mapping(name)

    def items(self, name: str) -> list[object]:
        """Return a list."""
        return self._typed(name, list)

    def objects(self, name: str) -> Iterable[Fields]:
        """Return the objects of a list."""
        return map(Fields, self.items(name))

    def mappings(self, name: str) -> tuple[JsonObject, ...]:
        """Return the objects of a list, as they are."""
        return tuple(entry._members for entry in self.objects(name))  # noqa: SLF001 - its own kind

    def whole_column(self, name: str) -> NDArray[np.int64]:
        """Return a list of whole numbers as an array."""
        return self._converted(name, lambda items: np.array(items, np.int64), self.items(name))

    def flag_column(self, name: str) -> NDArray[np.bool_]:
        """Return a list of true and false as an array."""
        return self._converted(name, lambda items: np.array(items, np.bool_), self.items(name))

    def number_column(self, name: str) -> NDArray[np.float64]:
        """Return a list of numbers, or of such lists, as an array; null is NaN."""
        return self._converted(name, lambda items: np.array(items, np.float64), self.items(name))

    def number_column_or_none(self, name: str) -> NDArray[np.float64] | None:
        """Return a list of numbers as an array, None where there is null."""
        return None if self._present(name) is None else self.number_column(name)

    def _present(self, name: str) -> object:
        if name not in self._members:
            msg = f"the answer lacks {name!r}"
            raise AnswerMalformed(msg)
        return self._members[name]

    def _typed(self, name: str, kind: type[T]) -> T:
        value = self._members.get(name)
        if isinstance(value, kind):
            return value
        found = type(self._present(name)).__name__
        raise AnswerMalformed(f"{name!r} in the answer is {found}, not {kind.__name__}")

    def _converted(self, name: str, convert: Callable[..., T], value: object) -> T:
        try:
            return convert(value)
        except (TypeError, ValueError) as error:
            msg = f"{name!r} in the answer cannot be read: {error}"
            raise AnswerMalformed(msg) from error
