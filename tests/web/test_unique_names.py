"""A name that an object has twice is found, wherever it stands and however it is written."""

from __future__ import annotations

import json
import random

import pytest

from gradstep_server.errors import InvalidRequest
from gradstep_server.web import json_body
from gradstep_server.web.errors import MalformedBody
from gradstep_server.web.json_body import MAX_QUOTES

TEXTS = ("a", "b", ":", "a:", "{", "}", "\\", '"', '\\"', "[", "é", "é:{", "", "\n", "😀")


class Twice(Exception):
    """Raised when an object has a name twice, as the standard library reads it."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Twice
    return found


@pytest.mark.parametrize(
    ("body", "name", "at"),
    [
        ('{"a": 1, "a": 1}', "a", 9),
        ('{"x": [1, {"b": {}, "a": 2, "b": {}}]}', "b", 28),
        ('{"a": 1, "\\u0061": 2}', "a", 9),
        ('{"é:": 1, "\\u00e9\\u003a" : 2}', "é:", 11),
        ('[{"{}": "a:", "{}": 1}]', "{}", 14),
        ('{"a": {"a": 1}, "b": ":", "a": 2}', "a", 26),
        ('{"\\"": 1, "\\u0022": 2}', '"', 10),
        ('{"": 1, "": 2}', "", 8),
    ],
)
def test_it_is_named_with_its_place(body: str, name: str, at: int) -> None:
    size = len(body.encode())
    with pytest.raises(MalformedBody) as refused:
        json_body.parse(body.encode())
    assert f"the name {name!r} at byte {at} of {size} stands" in refused.value.detail


@pytest.mark.parametrize("seed", range(20))
def test_no_other_json_is_refused(seed: int) -> None:
    draws = random.Random(seed)
    refused = 0
    for _ in range(300):
        text = _drawn(draws, 4)
        try:
            expected = json.loads(text, object_pairs_hook=_unique)
        except Twice:
            refused += 1
            with pytest.raises(MalformedBody, match="for the second time"):
                json_body.parse(text.encode())
        else:
            assert json_body.parse(text.encode()) == expected
    assert 30 < refused < 270


def _drawn(draws: random.Random, depth: int) -> str:
    """Write a value, escaped or not, with blanks or without, and names that may come twice."""
    blank = draws.choice(("", " ", "\n\t"))
    kind = draws.choice(("number", "text", "list", "object", "object") if depth else ("number",))
    if kind == "number":
        return draws.choice(("1", "-0.5", "null", "true"))
    if kind == "text":
        return _text(draws)
    if kind == "list":
        items = (_drawn(draws, depth - 1) for _ in range(draws.randrange(4)))
        return f"[{blank}{f'{blank},'.join(items)}]"
    pairs = (
        f"{_text(draws)}{blank}:{blank}{_drawn(draws, depth - 1)}"
        for _ in range(draws.randrange(5))
    )
    return f"{{{blank}{','.join(pairs)}{blank}}}"


def _text(draws: random.Random) -> str:
    text = draws.choice(TEXTS)
    if draws.random() < 0.2 and text:
        return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 2**16 else c for c in text) + '"'
    return json.dumps(text, ensure_ascii=draws.random() < 0.5)


def test_too_many_texts_are_not_looked_through() -> None:
    names = b'"a:": 1, "b": ['
    with pytest.raises(InvalidRequest, match=f"more than the {MAX_QUOTES} quotes"):
        json_body.parse(b"{" + names + b'"",' * MAX_QUOTES + b'"\\u003a"]}')
