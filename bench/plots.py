"""Plots of the results as SVG that stands for itself: bars in groups, and lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from worker.tuning.svg import Plot, axis_over

WIDTH, LABELS, NUMBERS, BAR, GAP, HEAD = 760, 170, 110, 17, 14, 34
COLOURS = ("#3465a4", "#c4703a", "#4d8f5b", "#8a5a9e", "#8a8a8a", "#b5a642", "#5aa5a0", "#a04545", "#555577", "#7aa5d8")
STYLE = """text { font: 12px sans-serif; fill: #222 } .title { font-weight: bold } .group { font-style: italic }
.grid { stroke: #ddd } .line { fill: none; stroke-width: 1.5 } .axis { fill: #555 }"""


class Bar(NamedTuple):
    """One bar: whose it is, how long, and what is written at its end."""

    name: str
    value: float
    text: str


def bars(title: str, groups: Mapping[str, Sequence[Bar]]) -> str:
    """Bars to the right from 0; the same name has the same colour in every group."""
    names = list(dict.fromkeys(bar.name for group in groups.values() for bar in group))
    most = max((bar.value for group in groups.values() for bar in group), default=0.0) or 1.0
    parts, top = [f'<text class="title" x="8" y="20">{escape(title)}</text>'], HEAD
    for group, members in groups.items():
        parts.append(f'<text class="group" x="8" y="{top + 12}">{escape(group)}</text>')
        top += BAR
        for bar in members:
            length = bar.value / most * (WIDTH - LABELS - NUMBERS)
            colour = COLOURS[names.index(bar.name) % len(COLOURS)]
            place = f'x="{LABELS}" y="{top}" width="{length:.1f}" height="{BAR - 3}"'
            parts += [
                f'<text x="{LABELS - 6}" y="{top + 11}" text-anchor="end">{escape(bar.name)}</text>',
                f'<rect {place} fill="{colour}"/>',
                f'<text x="{LABELS + length + 5:.1f}" y="{top + 11}">{escape(bar.text)}</text>',
            ]
            top += BAR
        top += GAP
    return _whole(f'viewBox="0 0 {WIDTH} {top}" role="img" aria-label="{escape(title)}"', parts)


def line(title: str, x_title: str, y_title: str, points: Sequence[tuple[float, float]]) -> str:
    """One line over an axis that starts at 0."""
    x, y = (axis_over(name, values) for name, values in zip((x_title, y_title), zip(*points, strict=True), strict=True))
    plot = Plot(title, x, y)
    plot.line(points, "first")
    head, *parts = str(plot).removesuffix("</svg>").splitlines()
    return _whole(head.removeprefix("<svg ").removesuffix(">"), [*parts, "<style>.first { stroke: #3465a4 }</style>"])


def _whole(head: str, parts: Sequence[str]) -> str:
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {head}>', f"<style>{STYLE}</style>", ground, *parts, "</svg>"]
    return "\n".join(lines) + "\n"
