"""The plots of the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from worker.tuning.measurement import STAGES, Point
from worker.tuning.svg import Plot, axis_over

LEVEL_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1d2126}.title{font-weight:600}.ideal{fill:#a7afb8}.lanes{fill:#2158c7}"
    ".whole{fill:#1f7a4d}.kafka{fill:#c77700}@media(prefers-color-scheme:dark){text{fill:#e8ebee}.ideal{fill:#6b757f}"
    ".lanes{fill:#82aaff}.whole{fill:#5cc28f}.kafka{fill:#f0b35a}}"
)
PERCENTILES = ("p50", "p95", "p99")


def hint(point: Point) -> str:
    """What a mark says when it is pointed at."""
    told = f"{point.setting}: p99 {_ms(point.p99_ms)} at {point.rate:,.0f}/s"
    return told if point.is_sustained else f"{told}, cannot keep up"


def throughput_over_latency(points: Sequence[Point], chosen: Point, p99_ms: float) -> str:
    """Every point: its p99 and what it answered a second; the chosen one marked."""
    shown = [point for point in points if math.isfinite(point.p99_ms)]
    x = axis_over("p99 latency (ms)", [p99_ms, chosen.p99_ms, *(point.p99_ms for point in shown)], is_log=True)
    y = axis_over("answers a second", [chosen.rate, *(point.typical.answered_per_s for point in shown)])
    plot = Plot("Throughput over latency", x, y)
    plot.upright(p99_ms, f"target {p99_ms:g} ms")
    for point in sorted(shown, key=lambda point: point.meets(p99_ms)):
        css = "meets" if point.meets(p99_ms) else "misses" if point.is_sustained else "fails"
        plot.dot(point.p99_ms, point.typical.answered_per_s, f"dot {css}", hint(point))
    plot.dot(chosen.p99_ms, chosen.typical.answered_per_s, "chosen", hint(chosen), radius=9)
    plot.label(chosen.p99_ms, chosen.typical.answered_per_s, "chosen")
    return str(plot)


def latency_over_rate(points: Iterable[Point], p99_ms: float) -> str:
    """Percentiles of one setting over the rate."""
    ordered = sorted(points, key=lambda point: point.rate)
    runs = [point.typical for point in ordered]
    every = [run.latency_ms[name] for run in runs for name in PERCENTILES]
    x = axis_over("requests a second", [point.rate for point in ordered])
    y = axis_over("latency (ms)", [p99_ms, *every], is_log=True)
    plot = Plot("Latency over rate", x, y)
    plot.level(p99_ms, f"target {p99_ms:g} ms")
    for name in PERCENTILES:
        plot.line([(point.rate, run.latency_ms[name]) for point, run in zip(ordered, runs, strict=True)], name)
    for point, run in zip(ordered, runs, strict=True):
        for name in PERCENTILES:
            plot.dot(
                point.rate,
                run.latency_ms[name],
                f"mark {name}",
                f"{name} {_ms(run.latency_ms[name])}: {hint(point)}",
                3,
            )
    return str(plot)


def stage_bar(stage_ms: Mapping[str, float]) -> str:
    """The stages of one batch, one behind the other; those that took nothing are left out."""
    shown = [(stage, stage_ms[stage]) for stage in STAGES if stage_ms.get(stage, 0) > 0]
    total = sum(ms for _, ms in shown) or 1.0
    parts = ['<svg viewBox="0 0 440 44" role="img" aria-label="Stages of a batch">']
    left = 0.0
    for stage, ms in shown:
        width = 440 * ms / total
        parts.append(
            f'<rect class="stage-{stage}" x="{left:.2f}" y="4" width="{width:.2f}" height="36">'
            f"<title>{escape(stage)} {_ms(ms)}</title></rect>"
        )
        left += width
    return "\n".join([*parts, "</svg>"])


def levels(shown: Sequence[tuple[str, str, float]], title: str) -> str:
    """Bars of rates, as a file of its own: light and dark.

    Args:
        shown: (kind, name, rate), from top to bottom; kinds are ideal, lanes, whole, kafka.
        title: above the bars.
    """
    most = max((rate for _, _, rate in shown), default=1.0) or 1.0
    height = 40 + 26 * len(shown)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{LEVEL_STYLE}</style>",
        f'<text x="12" y="22" class="title">{escape(title)}, rows a second</text>',
    ]
    for place, (kind, name, rate) in enumerate(shown):
        top = 36 + 26 * place
        width = max(1.0, 300 * rate / most)
        parts.append(f'<text x="220" y="{top + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="{kind}" x="230" y="{top}" width="{width:.1f}" height="19" rx="2"/>')
        parts.append(f'<text x="{236 + width:.1f}" y="{top + 14}">{rate:,.0f}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if math.isfinite(value) else "no answer"
