"""A small language of arithmetic: parsed once, checked, computed over arrays.

What may be written: numbers, the names that the caller allows, ``pi`` and ``e``;
``+ - * / // % **``; comparisons, also chained; ``and``, ``or``, ``not``; ``a if
condition else b``; and the functions below. Python's own parser reads it, and only
what is listed here is accepted. Nothing is ever evaluated by Python itself.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np

MAX_DEPTH = 40
"""How deep an expression may be nested."""

MAX_OPERATIONS = 60
"""How many operations it may hold: a curve of ten million points takes seconds then."""

MAX_NUMBER = sys.float_info.max
"""The largest number that may be written."""

Values = Any
"""A number or a truth value, or an array of either: what NumPy's functions take and give."""

_TOKEN = re.compile(
    r"""[ ]* (?:
        (?: \d+ \.? \d* | \. \d+ ) (?: [eE] [+-]? \d+ )? (?! [\w.] )  # a number
        | [A-Za-z_] \w*                                               # a name or a word
        | \*\* | // | [<>=!]= | [-+*/%<>(),]
    )""",
    re.ASCII | re.VERBOSE,
)
_CONSTANTS = {"pi": np.pi, "e": np.e}
_NUMERIC = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_SIGNS = {ast.UAdd: np.positive, ast.USub: np.negative}
_COMPARISONS = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
FUNCTIONS = {
    "abs": np.abs,
    "ceil": np.ceil,
    "cos": np.cos,
    "exp": np.exp,
    "floor": np.floor,
    "log": np.log,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
}
"""The functions of one number."""

EXTREMES = {"max": np.maximum, "min": np.minimum}
"""The functions of two numbers or more."""


class ExpressionError(ValueError):
    """Raised when a text is no expression of this language; the message says why."""


@dataclass(frozen=True)
class _Part:
    """A part of an expression, ready to be computed."""

    compute: Callable[[Mapping[str, Values]], Values]
    is_truth: bool = False
    """Whether it is true or false rather than a number."""


class Expression:
    """An expression, parsed and checked.

    Args:
        text: what was written.
        names: what may stand for values that are given later.

    Raises:
        ExpressionError: the text is no expression.
    """

    def __init__(self, text: str, names: frozenset[str]) -> None:
        self._part = _Reader(names).number(_parsed(text))

    def __call__(self, **values: Values) -> Values:
        """Return the expression's value, element by element where a value is an array."""
        return self._part.compute(values)


class _Reader:
    """Turns a syntax tree into parts that compute it, and counts their operations."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._operations = 0

    def number(self, node: ast.expr) -> _Part:
        part = self._read(node)
        if part.is_truth:
            raise ExpressionError(f"{ast.unparse(node)[:40]!r} is true or false, not a number")
        return part

    def truth(self, node: ast.expr) -> _Part:
        part = self._read(node)
        if not part.is_truth:
            raise ExpressionError(f"{ast.unparse(node)[:40]!r} is a number, not true or false")
        return part

    def _count(self, operations: int) -> None:
        self._operations += operations
        if self._operations > MAX_OPERATIONS:
            raise ExpressionError(f"More than {MAX_OPERATIONS} operations are too many")

    def _read(self, node: ast.expr) -> _Part:
        read = _READERS.get(type(node))
        if read is None:
            raise _unknown(node)
        return read(self, node)

    def constant(self, node: ast.Constant) -> _Part:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _unknown(node)
        if abs(value) > MAX_NUMBER:
            raise ExpressionError("A number is too large for a float64")
        return _fixed(float(value))

    def name(self, node: ast.Name) -> _Part:
        name = node.id
        if name in self._names:
            return _Part(lambda values: values[name])
        if name in _CONSTANTS:
            return _fixed(_CONSTANTS[name])
        known = ", ".join(sorted({*self._names, *_CONSTANTS}))
        raise ExpressionError(f"Nothing is called {name[:40]!r}; there are {known}")

    def operation(self, node: ast.BinOp) -> _Part:
        if type(node.op) not in _NUMERIC:
            raise _unknown(node)
        self._count(1)
        return _joined(_NUMERIC[type(node.op)], self.number(node.left), self.number(node.right))

    def sign(self, node: ast.UnaryOp) -> _Part:
        self._count(1)
        if isinstance(node.op, ast.Not):
            return _joined(np.logical_not, self.truth(node.operand), is_truth=True)
        if type(node.op) not in _SIGNS:
            raise _unknown(node)
        return _joined(_SIGNS[type(node.op)], self.number(node.operand))

    def choice(self, node: ast.IfExp) -> _Part:
        self._count(1)
        branches = (self.number(node.body), self.number(node.orelse))
        return _joined(np.where, self.truth(node.test), *branches)

    def junction(self, node: ast.BoolOp) -> _Part:
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        truths = [self.truth(value) for value in node.values]
        self._count(len(truths))
        return _joined(lambda *found: reduce(join, found), *truths, is_truth=True)

    def comparison(self, node: ast.Compare) -> _Part:
        if not {type(op) for op in node.ops} <= _COMPARISONS.keys():
            raise ExpressionError("Numbers are compared by < <= > >= == !=")
        numbers = [self.number(value) for value in (node.left, *node.comparators)]
        self._count(len(numbers))

        def compare(*found: Values) -> Values:
            pairs = zip(node.ops, pairwise(found), strict=True)
            return reduce(np.logical_and, (_COMPARISONS[type(op)](*pair) for op, pair in pairs))

        return _joined(compare, *numbers, is_truth=True)

    def call(self, node: ast.Call) -> _Part:
        if not isinstance(node.func, ast.Name) or node.keywords:
            raise _unknown(node)
        name, numbers = node.func.id, [self.number(arg) for arg in node.args]
        self._count(len(numbers))
        if name in FUNCTIONS:
            if len(numbers) != 1:
                raise ExpressionError(f"Of numbers, {name} takes one")
            return _joined(FUNCTIONS[name], *numbers)
        if name in EXTREMES:
            if len(numbers) < 2:  # noqa: PLR2004 - the fewest that differ
                raise ExpressionError(f"Of numbers, {name} takes two or more")
            return _joined(lambda *found: reduce(EXTREMES[name], found), *numbers)
        known = ", ".join(sorted({*FUNCTIONS, *EXTREMES}))
        raise ExpressionError(f"No function is called {name[:40]!r}; there are {known}")


_READERS: Mapping[type[ast.expr], Callable[[_Reader, Any], _Part]] = {
    ast.Constant: _Reader.constant,
    ast.Name: _Reader.name,
    ast.BinOp: _Reader.operation,
    ast.UnaryOp: _Reader.sign,
    ast.IfExp: _Reader.choice,
    ast.Compare: _Reader.comparison,
    ast.BoolOp: _Reader.junction,
    ast.Call: _Reader.call,
}
"""What may stand in an expression; anything else is refused."""


def _fixed(value: float) -> _Part:
    number = np.float64(value)
    return _Part(lambda _: number)


def _unknown(node: ast.expr) -> ExpressionError:
    return ExpressionError(f"Nothing like {ast.unparse(node)[:40]!r} can be written here")


def _joined(function: Callable[..., Values], *parts: _Part, is_truth: bool = False) -> _Part:
    return _Part(
        lambda values: function(*(part.compute(values) for part in parts)), is_truth=is_truth
    )


def _misplaced(character: int) -> ExpressionError:
    return ExpressionError(f"Character {character} does not fit there")


def _parsed(text: str) -> ast.expr:
    """Return Python's syntax tree of a text that holds nothing but this language's tokens."""
    if not text.strip(" "):
        raise ExpressionError("It is empty")
    position, end = 0, len(text.rstrip(" "))
    while position < end:
        token = _TOKEN.match(text, position)
        if token is None:
            raise _misplaced(end - len(text[position:end].lstrip(" ")) + 1)
        position = token.end()
    try:
        tree = ast.parse(text.strip(" "), mode="eval").body
    except SyntaxError as error:
        raise _misplaced(len(text) - len(text.lstrip(" ")) + (error.offset or 1)) from None
    except (RecursionError, MemoryError):
        raise ExpressionError("It is nested too deep") from None
    level, depth = [tree], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ExpressionError(f"It is nested more than {MAX_DEPTH} deep")
        level = [
            child
            for node in level
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.expr)
        ]
    return tree
