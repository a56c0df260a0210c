"""A name that an object of JSON has twice: of its values, orjson keeps the last without a word.

A text that has as many colons as names were read has no such name. So it is counted,
and the text itself looked through only where that does not tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson
from pydantic import JsonValue

_SIGN = re.compile(rb'[^"{}]*+(?:([{}])|("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*+:)?|\Z)')
"""A brace, or a string with the colon after it, or the end; and all before it, at once."""

_LONG = 1000
"""Of numbers there are more in a list; to look through the text takes less than through those."""


def are_unique(text: bytes | bytearray, value: JsonValue, colons: int, braces: int) -> bool:
    """Return True if it is seen at once that no object has a name twice.

    Args:
        text: JSON.
        value: what was read in it.
        colons: how many the text holds, those within strings included.
        braces: how many it opens, in the same way.
    """
    objects = _objects(value, braces)
    names = sum(map(len, objects))
    if names < colons and b"\\" not in text:  # escaped, a name may hold a colon that is not counted
        names += sum(name.count(":") for found in objects for name in found)
    return names == colons


def find_repeated(text: bytes | bytearray) -> tuple[int, str] | None:
    """Return the byte at which a name stands for the second time in an object, and the name.

    Args:
        text: JSON, of which every string is looked at.
    """
    open_objects: list[set[str]] = []
    for sign in _SIGN.finditer(text):
        brace, string, colon = sign.groups()
        if colon is not None:
            name = orjson.loads(string)
            if name in open_objects[-1]:
                return sign.start(2), name
            open_objects[-1].add(name)
        elif brace == b"{":
            open_objects.append(set())
        elif brace == b"}":
            open_objects.pop()
    return None


def _objects(value: JsonValue, most: int) -> list[dict[str, Any]]:
    """Return objects of a value, at most so many: all but those within long lists."""
    objects: list[dict[str, Any]] = []
    lists: list[list[Any]] = []
    looked_at = 0
    values: Iterable[Any] = (value,)
    while len(objects) < most:
        for item in values:
            if type(item) is dict:
                objects.append(item)
            elif type(item) is list and len(item) <= _LONG:
                lists.append(item)
        if looked_at < len(objects):
            values = objects[looked_at].values()
            looked_at += 1
        elif lists:
            values = lists.pop()
        else:
            break
    return objects
