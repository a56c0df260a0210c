"""Charts of the figures: how many times as long the others take, on a scale of ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from xml.sax.saxutils import escape

from bench import units
from bench.rows import Row

_WIDTH, _LEFT, _RIGHT, _TOP = 760, 210, 610, 96
_BAR, _PITCH, _HEADING, _GAP = 14, 20, 24, 12
_TICKS = tuple(digit * 10.0**power for power in range(-2, 5) for digit in (1, 2, 5))

_PAGE = Template("""\
<svg xmlns="http://www.w3.org/2000/svg" width="$width" height="$height" \
viewBox="0 0 $width $height" role="img">
<title>$title</title>
<desc>$description</desc>
<style>
:root{color-scheme:light dark;--ink:#1f2933;--dim:#5f6b7a;--grid:#e6e9ee;--page:#fff;\
--slower:#2563c9;--faster:#d9730d}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#9aa7b6;--grid:#2b3440;\
--page:#151b23;--slower:#6aa6ff;--faster:#ffa657}}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;\
fill:var(--dim);font-variant-numeric:tabular-nums;dominant-baseline:central}
.page{fill:var(--page)}
.grid{stroke:var(--grid);shape-rendering:crispEdges}
.ours{stroke:var(--ink);shape-rendering:crispEdges}
.title{font-size:16px;font-weight:600;fill:var(--ink)}
.heading{font-weight:600;fill:var(--ink)}
.name{text-anchor:end}
.tick{text-anchor:middle}
.slower{fill:var(--slower)}
.faster{fill:var(--faster)}
</style>
<rect class="page" width="$width" height="$height" rx="8"/>
<text class="title" x="24" y="28">$title</text>
<text x="24" y="52">$subtitle</text>
$body
</svg>
""")


@dataclass(frozen=True)
class Scale:
    """Places across the chart for ratios, each doubling as wide as the next."""

    least: float
    most: float

    @classmethod
    def over(cls, ratios: Sequence[float]) -> Scale:
        """Return a scale that holds these, and 1."""
        return cls(min([0.9, *ratios]), max([2.0, *ratios]))

    def at(self, ratio: float) -> float:
        """Return the place of a ratio."""
        share = math.log(ratio / self.least) / math.log(self.most / self.least)
        return round(_LEFT + share * (_RIGHT - _LEFT), 1)

    def ticks(self) -> list[float]:
        """Return the round ratios that are on it, those in tens alone where all are too many."""
        inside = [tick for tick in _TICKS if self.least <= tick <= self.most]
        tens = [tick for tick in inside if math.log10(tick).is_integer()]
        return inside if len(inside) <= 8 else tens  # noqa: PLR2004 - as many labels as fit


def steps(rows: Sequence[Row]) -> str:
    """Draw a step's time beside the peers'."""
    chosen = [row for row in rows if row.what == "step"]
    return _chart(
        "A step over loopback: gradients in, parameters out",
        "How many times as long as gradstep the others take, by parameters. AdamW, float32.",
        {row.case: row for row in chosen},
    )


def kernels(rows: Sequence[Row]) -> str:
    """Draw the time of AdamW's loop beside torch's."""
    chosen = [row for row in rows if row.what == "kernel" and row.case.startswith("AdamW, ")]
    return _chart(
        "The arithmetic of a step beside torch.optim",
        "How many times as long as gradstep torch takes, by parameters. AdamW, float32.",
        {row.case.removeprefix("AdamW, "): row for row in chosen},
    )


CHARTS: Mapping[str, Callable[[Sequence[Row]], str]] = {"kernels": kernels, "steps": steps}
"""The parts that have a chart."""


def _chart(title: str, subtitle: str, groups: Mapping[str, Row]) -> str:
    ratios = [ratio for row in groups.values() for ratio in _ratios(row).values()]
    scale = Scale.over(ratios)
    bars, y = [], _TOP
    for heading, row in groups.items():
        time = units.number(row.ours.median, row.unit)
        bars.append(_text("heading", 24, y, f"{heading}: gradstep {time}"))
        y += _HEADING
        for name, ratio in _ratios(row).items():
            bars += _bar(scale, y, name, ratio, units.number(row.others[name].median, row.unit))
            y += _PITCH
        y += _GAP
    bottom = y - _GAP
    grid = [_line(scale.at(tick), tick, bottom) for tick in scale.ticks()]
    described = "; ".join(
        f"{heading}: "
        + ", ".join(f"{name} {ratio:.3g} times" for name, ratio in _ratios(row).items())
        for heading, row in groups.items()
    )
    return _PAGE.substitute(
        width=_WIDTH,
        height=bottom + 16,
        title=escape(title),
        subtitle=escape(subtitle),
        description=escape(described),
        body="\n".join([*grid, *bars]),
    )


def _line(x: float, tick: float, bottom: int) -> str:
    kind = "ours" if tick == 1 else "grid"
    line = f'<path class="{kind}" d="M{x} {_TOP - 8}V{bottom}"/>'
    return line + _text("tick", x, _TOP - 20, f"{tick:g} ×")


def _ratios(row: Row) -> dict[str, float]:
    """Return the others' times in ours: for the first, by the row's own ratio."""
    first, *rest = row.others
    beside = {name: row.others[name].median / row.ours.median for name in rest}
    return {first: 1 / row.ratio, **beside}


def _bar(scale: Scale, y: int, name: str, ratio: float, time: str) -> list[str]:
    start, end = sorted((scale.at(1), scale.at(ratio)))
    kind = "slower" if ratio >= 1 else "faster"
    width = max(1.0, round(end - start, 1))
    bar = f'<rect class="{kind}" x="{start}" y="{y - _BAR // 2}" width="{width}" height="{_BAR}"/>'
    said = _text("value", max(end, scale.at(1)) + 8, y, f"{ratio:.3g} × ({time})")
    return [_text("name", _LEFT - 12, y, name), bar, said]


def _text(kind: str, x: float, y: int, said: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(said)}</text>'
