"""Plots as SVG text: two axes, and what is drawn between them. Colours are CSS classes of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 44


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: from the least to the greatest value, linear or logarithmic."""

    title: str
    low: float
    high: float
    is_log: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if self.is_log:
            value = max(value, self.low)
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.is_log else _linear_ticks(self.low, self.high)


def axis_over(title: str, values: Sequence[float], *, is_log: bool = False) -> Axis:
    """An axis that holds all (finite) values, with some air; a linear one starts at 0."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)] or [1.0]
    if is_log:
        return Axis(title, min(finite) / 1.3, max(finite) * 1.3, is_log=True)
    return Axis(title, 0.0, max(finite) * 1.08 or 1.0)


class Plot:
    """Collects what is drawn; str() is the whole picture."""

    def __init__(self, title: str, x: Axis, y: Axis) -> None:
        self._title, self._x, self._y = title, x, y
        self._parts: list[str] = []

    def dot(self, x: float, y: float, css: str, hint: str, radius: float = 4) -> None:
        if math.isfinite(x) and math.isfinite(y):
            place = f'cx="{self._left(x):.1f}" cy="{self._top(y):.1f}" r="{radius:g}"'
            self._parts.append(f'<circle class="{css}" {place}><title>{escape(hint)}</title></circle>')

    def line(self, points: Sequence[tuple[float, float]], css: str) -> None:
        places = [f"{self._left(x):.1f},{self._top(y):.1f}" for x, y in points if math.isfinite(x) and math.isfinite(y)]
        if len(places) > 1:
            self._parts.append(f'<polyline class="line {css}" points="{" ".join(places)}"/>')

    def upright(self, x: float, label: str) -> None:
        """A dashed line across, at one value of x."""
        left = self._left(x)
        self._parts.append(f'<line class="target" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        end = "end" if left > WIDTH / 2 else "start"
        shift = -5 if end == "end" else 5
        self._text(left + shift, TOP + 11, label, end, "target-label")

    def level(self, y: float, label: str) -> None:
        """The same, at one value of y."""
        top = self._top(y)
        self._parts.append(f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top:.1f}" y2="{top:.1f}"/>')
        self._text(LEFT + 5, top - 5, label, "start", "target-label")

    def label(self, x: float, y: float, text: str) -> None:
        left, top = self._left(x), self._top(y)
        is_right = left > WIDTH * 0.6
        self._text(left - 10 if is_right else left + 10, max(TOP + 26, top - 8), text, "end" if is_right else "start")

    def __str__(self) -> str:
        frame = [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self._title)}">',
            *self._frame(),
            *self._parts,
            "</svg>",
        ]
        return "\n".join(frame)

    def _frame(self) -> list[str]:
        before, self._parts = self._parts, []
        for value in self._y.ticks():
            top = self._top(value)
            self._parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top:.1f}" y2="{top:.1f}"/>')
            self._text(LEFT - 6, top + 4, short(value), "end")
        for value in self._x.ticks():
            left = self._left(value)
            low = HEIGHT - BOTTOM
            self._parts.append(f'<line class="grid" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP}" y2="{low}"/>')
            self._text(left, low + 16, short(value), "middle")
        self._text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, self._x.title, "middle", "axis")
        middle = (TOP + HEIGHT - BOTTOM) / 2
        self._parts.append(
            f'<text class="axis" text-anchor="middle" transform="translate(12 {middle}) rotate(-90)">'
            f"{escape(self._y.title)}</text>"
        )
        frame, self._parts = self._parts, before
        return frame

    def _text(self, left: float, top: float, text: str, anchor: str, css: str = "") -> None:
        shown = f' class="{css}"' if css else ""
        self._parts.append(f'<text{shown} x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def _left(self, x: float) -> float:
        return LEFT + self._x.share(x) * (WIDTH - LEFT - RIGHT)

    def _top(self, y: float) -> float:
        return HEIGHT - BOTTOM - self._y.share(y) * (HEIGHT - TOP - BOTTOM)


def short(value: float) -> str:
    """A number as an axis has room for it."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:,.4g}"


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 of each power of ten; only the powers where that would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    return shown if len(shown) <= 7 else [tick for tick in shown if tick in ticks[::3]]
