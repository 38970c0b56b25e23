"""What is seen while it measures: redrawn between the runs, never during one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from worker.tuning.measurement import Point
from worker.tuning.sweep import Sweep

SHOWN = 8  # points
LINE_S = 5.0  # between lines where there is no terminal


class View:
    """Shows the best points so far and what is being measured."""

    def __init__(self, console: Console, live: Live | None, p99_ms: float) -> None:
        self._console, self._live, self._p99_ms = console, live, p99_ms
        self._said_s = -math.inf

    def say(self, what: str, sweep: Sweep, used: float) -> None:
        """Args:
        what: what is measured next.
        sweep: all results so far.
        used: share of the budget.
        """
        if self._live is not None:
            self._live.update(self._picture(what, sweep, used), refresh=True)
            return
        now_s = time.monotonic()
        if now_s - self._said_s >= LINE_S:
            self._said_s = now_s
            found = sweep.choice(self._p99_ms)
            best = f"; best so far: {_told(found.point)}" if found is not None else ""
            self._console.print(f"{min(used, 1):4.0%} {what}{best}", highlight=False, soft_wrap=True)

    def _picture(self, what: str, sweep: Sweep, used: float) -> Group:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=1.0, completed=min(1.0, used), width=32), Text(what))
        if not sweep.points:
            return Group(bar)
        table = Table("setting", "rate/s", "p50 ms", "p99 ms", "rows", "busy", box=None)
        best = sorted(
            sweep.points.values(), key=lambda point: (not point.meets(self._p99_ms), -point.rate, point.p99_ms)
        )
        for point in best[:SHOWN]:
            run = point.typical
            style = "green" if point.meets(self._p99_ms) else "yellow" if point.is_sustained else "dim"
            table.add_row(
                str(point.setting), f"{point.rate:,.0f}", f"{run.latency_ms['p50']:.2f}",
                Text(f"{point.p99_ms:.2f}", style=style), f"{run.batch_rows:.1f}", f"{run.busy_ratio:.0%}",
            )  # fmt: skip
        return Group(bar, table)


def _told(point: Point) -> str:
    return f"{point.setting}: p99 {point.p99_ms:.3g} ms at {point.rate:,.0f}/s"


@contextmanager
def open_view(console: Console, p99_ms: float) -> Iterator[View]:
    """A view that fits this console; gone when the block ends."""
    if not console.is_terminal:
        yield View(console, None, p99_ms)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:  # a thread of its own would disturb
        yield View(console, live, p99_ms)
