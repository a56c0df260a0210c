"""Random changes of bytes and of JSON, the same for the same seed."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

EXTREMES = (b"\x00", b"\xff", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"[" * 40, b"{", b'"', b"\\ud800")
SCRAPS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "1e-400",
    "9" * 400,
    "-0",
    "01",
    "1.",
    '"\\ud800"',
    '"\\u0000"',
    '"\\uDFFF\\uD800"',
    "[" * 1_100 + "]" * 1_100,
    '{"a":' * 200 + "0" + "}" * 200,
    "/* */1",
    "'a'",
    "1 2",
    "",
    "tru",
)
"""Texts that stand where a value should."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**53,
    2**63,
    -(2**63),
    2**64,
    10**30,
    0.5,
    -0.0,
    1e308,
    5e-324,
    "",
    "x",
    "*",
    "\x00",
    "💩" * 50,
    "a" * 2_000,
    "9" * 30,
    [],
    {},
    [[]],
    [None],
    [1, [2]],
    {"": 0},
    {"type": "SGD"},
    {"type": "StepLR", "step_size": 1},
    [0.0] * 300,
    ["x"] * 300,
)
"""Values that take the place of others."""

_MARK = '"@scrap@"'


def damaged(random: Random, data: bytes) -> bytes:
    """Change some bytes: flip, cut, double, move, or put extremes between them."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(found) + 1)
        to = min(len(found), at + random.choice((1, 1, 4, 8, 64)))
        match random.randrange(6):
            case 0 if at < len(found):
                found[at] ^= 1 << random.randrange(8)
            case 1:
                del found[at:]
            case 2:
                del found[at:to]
            case 3:
                found[at:at] = found[at:to] * random.choice((1, 1, 2, 50))
            case 4:
                source = random.randrange(len(found) + 1)
                found[at:to] = found[source : source + to - at]
            case _:
                found[at : at + random.choice((0, 1, 8))] = random.choice(EXTREMES)
    return bytes(found)


def changed(random: Random, value: Any) -> bytes:  # noqa: C901 - one case for each change
    """Return a JSON document with some of its values, names or texts changed."""
    whole = [copy.deepcopy(value)]
    scraps: list[str] = []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        holder, place = random.choice(list(_places(whole)))
        match random.randrange(8):
            case 0 | 1 | 2:
                holder[place] = copy.deepcopy(random.choice(VALUES))
            case 3:
                scraps.append(random.choice(SCRAPS))
                holder[place] = "@scrap@"
            case 4 if isinstance(holder, dict):
                holder[random.choice(("", "x", "type", "\x00", "a" * 600, place + "s"))] = (
                    holder.pop(place)
                )
            case 5:
                del holder[place]
            case 6 if isinstance(holder, list):
                holder[place:place] = [holder[place]] * random.choice((1, 2, 40))
            case _:
                other, there = random.choice(list(_places(whole)) or [(whole, 0)])
                if whole:
                    holder[place] = copy.deepcopy(other[there])
        if not whole:
            return random.choice((b"", b"null", b"[]", b"0", b'""'))
    text = json.dumps(whole[0], ensure_ascii=random.random() < 0.5)
    for scrap in scraps:
        text = text.replace(_MARK, scrap, 1)
    if random.random() < 0.05 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + "," + text[1:]  # every name twice
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Any:
    """Yield each container with each of its places."""
    names = value if isinstance(value, dict) else range(len(value))
    for name in list(names):
        yield value, name
        if isinstance(value[name], dict | list):
            yield from _places(value[name])
