"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.rows import Spread

_STEPS: Mapping[str, Sequence[tuple[float, str]]] = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "B": ((2.0**20, "MiB"), (2.0**10, "KiB")),
}


def spread(measured: Spread, unit: str) -> str:
    """Return the median, with the least and the 95th percentile in brackets if they differ."""
    size, name = _step(measured.median, unit)
    median, least, p95 = (
        f"{number / size:.3g}" for number in (measured.median, measured.least, measured.p95)
    )
    return f"{median} {name}" if least == p95 else f"{median} {name} ({least}–{p95})"


def number(value: float, unit: str) -> str:
    """Return a number with its unit."""
    size, name = _step(value, unit)
    return f"{value / size:.3g} {name}"


def _step(value: float, unit: str) -> tuple[float, str]:
    return next((step for step in _STEPS[unit] if value >= step[0]), _STEPS[unit][-1])
