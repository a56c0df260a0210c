"""Round numbers for the axes of a picture, and how to write them."""

from __future__ import annotations

import math
from dataclasses import dataclass

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SUFFIXES = ((10**9, "G"), (10**6, "M"), (10**3, "k"))
_COMPACT_FROM = 10_000
_PLAIN = 3
"""Rates of more than this many zeros are written as a multiple of a power of ten."""
_NOTHING = 1e-300
"""Rates below this one, hardly more than 0, leave no room for the numbers of an axis."""
_FAR_AWAY = 1_000
"""A window this many times its own length away from 0 is labelled from where it begins."""


@dataclass(frozen=True)
class Axis:
    """Where an axis begins and ends, its ticks with their labels, and its name."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    name: str

    def at(self, value: float) -> float:
        """Return how far along the axis a value lies: 0 at `low`, 1 at `high`."""
        return (value - self.low) / (self.high - self.low)


def rate_axis(highest: float) -> Axis:
    """Return the axis of the rates: from 0 to a round number that is at least `highest`."""
    if highest < _NOTHING:
        return Axis(0.0, 1.0, ((0.0, "0"), (1.0, "1")), "learning rate")
    step, exponent = _round_step(highest / 5)
    count = math.ceil(highest / (step * 10.0**exponent) - 1e-9)
    top = math.floor(math.log10(highest))
    power = 0 if -_PLAIN <= top <= _PLAIN else top
    decimals = max(0, power - exponent + (1 if step % 1 else 0))
    ticks = tuple(
        (
            i * step * 10.0**exponent,
            f"{i * step * 10.0 ** (exponent - power):.{decimals if i else 0}f}",
        )
        for i in range(count + 1)
    )
    name = "learning rate"
    if power:
        name += f" × 10{str(power).translate(_SUPERSCRIPTS)}"
    return Axis(0.0, ticks[-1][0], ticks, name)


def step_axis(first: int, last: int, name: str = "step") -> Axis:
    """Return the axis of the steps: exactly from `first` to `last`, with whole ticks."""
    if first == last:
        return Axis(first - 1, first + 1, ((first, f"{first:,}"),), name)
    mantissa, exponent = _round_step((last - first) / 8)
    step = max(1, round(mantissa * 10.0**exponent))
    origin = first if first > _FAR_AWAY * (last - first) else 0
    begin = origin + -(-(first - origin) // step) * step
    ticks = tuple((t, _short(t - origin)) for t in range(begin, last + 1, step))
    return Axis(first, last, ticks, f"{name} − {origin:,}" if origin else name)


def epoch_axis(first: float, last: float) -> Axis:
    """Return the axis of the epochs: exactly from `first` to `last`, with round ticks."""
    if first == last:
        return Axis(first - 1, first + 1, ((first, f"{first:.6g}"),), "epoch")
    mantissa, exponent = _round_step((last - first) / 8)
    step = mantissa * 10.0**exponent
    ticks = (
        (i * step, f"{i * step:.10g}")
        for i in range(math.ceil(first / step), 1 + math.floor(last / step))
    )
    return Axis(first, last, tuple(ticks), "epoch")


def _round_step(rough: float) -> tuple[float, int]:
    """Return the smallest 1, 2, 2.5 or 5 times a power of ten that is at least `rough`."""
    exponent = math.floor(math.log10(rough))
    for mantissa in (1, 2, 2.5, 5):
        if mantissa * 10.0**exponent >= rough * (1 - 1e-9):
            return mantissa, exponent
    return 1, exponent + 1


def _short(step: int) -> str:
    """Write a step: ``250``, ``12.5k``, ``3M``."""
    if step < _COMPACT_FROM:
        return f"{step:,}"
    size, suffix = next((s, name) for s, name in _SUFFIXES if step >= s)
    return f"{step / size:.6g}{suffix}"
