"""The picture of a curve: an SVG that stands alone, for ``<img>``, light and dark.

A rate holds from its step to the next, so a jump is drawn upright, at the step
that first uses the new rate; where the rate glides, points are joined straight.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from string import Template
from xml.sax.saxutils import escape

import numpy as np

from gradstep_server.schedulers import Curve, Places, Rates, Unit
from gradstep_server.web.ticks import Axis, epoch_axis, rate_axis, step_axis

MAX_POINTS = 1_000
"""More points than this cannot be told apart at the picture's width."""

_WIDTH, _HEIGHT = 760, 386
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 736, 94, 326
_MARKED = 40
"""With at most this many points each one gets a dot."""

_JUMP = 4
"""A segment this many times as steep as both its neighbours is a jump."""

_COLOURS = 6
_LEGEND = 4

_PAGE = Template("""\
<svg xmlns="http://www.w3.org/2000/svg" width="$width" height="$height" \
viewBox="0 0 $width $height" role="img">
<title>$title</title>
<desc>$description</desc>
<style>
:root{color-scheme:light dark;--ink:#1f2933;--dim:#5f6b7a;--grid:#e6e9ee;--page:#fff;\
--c0:#2563c9;--c1:#d9730d;--c2:#16855b;--c3:#b4378f;--c4:#8a6d00;--c5:#5b50c8}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#9aa7b6;--grid:#2b3440;\
--page:#151b23;--c0:#6aa6ff;--c1:#ffa657;--c2:#4ecb94;--c3:#f288d0;--c4:#e3c341;--c5:#a79fff}}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;\
fill:var(--dim);font-variant-numeric:tabular-nums}
.page{fill:var(--page)}
.grid{stroke:var(--grid);stroke-width:1;shape-rendering:crispEdges}
.base{stroke:var(--dim)}
.title{font-size:16px;font-weight:600;fill:var(--ink)}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.y{text-anchor:end;dominant-baseline:central}
.x{text-anchor:middle}
.end{text-anchor:end}
$colours
</style>
<rect class="page" width="$width" height="$height" rx="8"/>
<text class="title" x="24" y="32">$title</text>
<text x="24" y="52">$subtitle</text>
$grid
<text class="end" x="$right" y="$below">$steps</text>
<text x="24" y="75">$rates</text>
$lines
$legend
</svg>
""")


def picture(curve: Curve, title: str, subtitle: str = "") -> bytes:
    """Draw every group of a curve of at most `MAX_POINTS` points.

    Args:
        curve: what to draw, decimated before.
        title: one line above the picture.
        subtitle: a smaller line below the title.
    """
    unit = curve.loop.unit
    x = np.concatenate(list(curve.places()))
    groups = [np.concatenate(list(curve.lrs(i))) for i in range(len(curve.base_lrs))]
    across = _axis(x, unit)
    up = rate_axis(max(float(rates.max()) for rates in groups))
    page = _PAGE.substitute(
        width=_WIDTH,
        height=_HEIGHT,
        title=escape(_cut(title, 70)),
        subtitle=escape(_cut(subtitle, 110)),
        description=escape(
            f"{up.name} by {unit}, from {unit} {x[0]} to {unit} {x[-1]}. {subtitle}"
        ),
        colours="\n".join(
            f".c{i}{{stroke:var(--c{i})}}.d{i}{{fill:var(--c{i})}}"
            for i in range(min(len(groups), _COLOURS))
        ),
        grid=_grid(across, up),
        right=_RIGHT,
        below=_BOTTOM + 44,
        steps=escape(across.name),
        rates=escape(up.name),
        lines="\n".join(_line(i, x, rates, across, up) for i, rates in enumerate(groups)),
        legend=_legend(curve.base_lrs) if len(groups) > 1 else "",
    )
    return page.encode()


def _axis(x: Places, unit: Unit) -> Axis:
    if unit == "epoch":
        return epoch_axis(float(x[0]), float(x[-1]))
    return step_axis(int(x[0]), int(x[-1]), unit)


def _grid(across: Axis, up: Axis) -> str:
    parts = []
    for value, label in up.ticks:
        y = _y(up, value)
        kind = "grid base" if value == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{_LEFT} {y}H{_RIGHT}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 10}" y="{y}">{label}</text>')
    for value, label in across.ticks:
        x = _x(across, value)
        parts.append(f'<path class="grid base" d="M{x} {_BOTTOM}v5"/>')
        parts.append(f'<text class="x" x="{x}" y="{_BOTTOM + 20}">{label}</text>')
    return "\n".join(parts)


def _line(group: int, x: Places, rates: Rates, across: Axis, up: Axis) -> str:
    colour = group % _COLOURS
    points = [(_x(across, a), _y(up, b)) for a, b in zip(x.tolist(), rates.tolist(), strict=True)]
    path = [f"M{points[0][0]} {points[0][1]}"]
    for (before, (to, y)), jump in zip(pairwise(points), jumps(x, rates), strict=True):
        if y != before[1] and not jump:
            path.append(f"L{to} {y}")
            continue
        # Of a level stretch only its end is written.
        if path[-1].startswith("H"):
            path.pop()
        path.append(f"H{to}")
        if y != before[1]:
            path.append(f"V{y}")
    line = f'<path class="line c{colour}" d="{"".join(path)}"/>'
    if len(points) > _MARKED:
        return line
    dots = "".join(f'<circle class="d{colour}" cx="{to}" cy="{y}" r="3"/>' for to, y in points)
    return line + dots


def jumps(x: Places, rates: Rates) -> Sequence[bool]:
    """Tell for each pair of neighbouring points whether the rate jumps between them."""
    slopes = np.abs(np.diff(rates) / np.diff(x))
    # At both ends one neighbour is missing; the segment stands for it and is no jump.
    before = np.concatenate([slopes[:1], slopes[:-1]])
    after = np.concatenate([slopes[1:], slopes[-1:]])
    jumping: list[bool] = (slopes > _JUMP * np.maximum(before, after)).tolist()
    return jumping


def _legend(base_lrs: Sequence[float]) -> str:
    parts = []
    x, y = _LEFT, _BOTTOM + 44
    for i, rate in enumerate(base_lrs[:_LEGEND]):
        entry = f"group {i}: {rate:g}"
        parts.append(f'<path class="line c{i}" d="M{x} {y - 4}h16"/>')
        parts.append(f'<text x="{x + 22}" y="{y}">{entry}</text>')
        x += 46 + 7 * len(entry)
    if len(base_lrs) > _LEGEND:
        parts.append(f'<text x="{x}" y="{y}">and {len(base_lrs) - _LEGEND} more</text>')
    return "\n".join(parts)


def _x(axis: Axis, value: float) -> float:
    return round(_LEFT + axis.at(value) * (_RIGHT - _LEFT), 2)


def _y(axis: Axis, value: float) -> float:
    return round(_BOTTOM - axis.at(value) * (_BOTTOM - _TOP), 2)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
