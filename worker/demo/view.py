"""What is seen while the demo runs: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

REDRAW_S = 0.1
LINE_S = 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The demo at one moment."""

    published: int
    answered: int
    wanted: int | None  # requests of the whole run; None: until Ctrl-C
    faults: int  # wrong answers and duplicates
    rate: float  # answers a second
    latency_ms: tuple[float, float]  # p50 and p99 of the last answers
    mean_rows: float  # of a batch
    lanes: tuple[int, int]  # busy, all
    image: NDArray[Any] | None = None  # the last answered one, shape (64,), 0..16
    label: int | None = None  # and its answer


class View(Protocol):
    def say(self, what: str) -> None:
        """What is being done at the moment."""

    def is_due(self) -> bool:
        """Whether a new snapshot would be shown."""

    def show(self, snapshot: Snapshot) -> None: ...


@contextmanager
def open_view(console: Console) -> Iterator[View]:
    """The view that fits this console; it is gone, or has ended its line, when the block ends."""
    if not console.is_terminal:
        yield PlainView(console)
        return
    with Live(console=console, refresh_per_second=1 / REDRAW_S, transient=True) as live:
        yield LiveView(live)


class PlainView:
    """One line a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last_s = time.monotonic()

    def say(self, what: str) -> None:
        self._console.print(what, highlight=False, soft_wrap=True)

    def is_due(self) -> bool:
        return time.monotonic() - self._last_s >= LINE_S

    def show(self, snapshot: Snapshot) -> None:
        self._last_s = time.monotonic()
        busy, lanes = snapshot.lanes
        p50, p99 = snapshot.latency_ms
        self.say(
            f"{snapshot.answered:,} of {snapshot.wanted or snapshot.published:,} answered, {snapshot.rate:,.0f}/s, "
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, {snapshot.mean_rows:.1f} rows a batch, "
            f"{busy} of {lanes} lanes busy, {snapshot.faults} faults"
        )


class LiveView:
    """A panel that is redrawn in place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._last_s = 0.0
        self._doing = ""

    def say(self, what: str) -> None:
        self._doing = what
        self._live.update(Spinner("dots", Text(what)))

    def is_due(self) -> bool:
        return time.monotonic() - self._last_s >= REDRAW_S

    def show(self, snapshot: Snapshot) -> None:
        self._last_s = time.monotonic()
        parts: list[RenderableType] = [self._numbers(snapshot)]
        if snapshot.image is not None:
            parts.append(Group(picture(snapshot.image), Text(f"is a {snapshot.label}", style="bold")))
        self._live.update(
            Panel(Columns(parts, padding=(0, 4)), title=Text(self._doing), width=min(90, self._live.console.width))
        )

    def _numbers(self, snapshot: Snapshot) -> Table:
        table = Table.grid(padding=(0, 2))
        busy, lanes = snapshot.lanes
        p50, p99 = snapshot.latency_ms
        if snapshot.wanted is not None:
            table.add_row("answered", ProgressBar(total=snapshot.wanted, completed=snapshot.answered, width=32))
            table.add_row("", f"{snapshot.answered:,} of {snapshot.wanted:,}")
        else:
            table.add_row("answered", f"{snapshot.answered:,}")
        table.add_row("rate", f"{snapshot.rate:,.0f} a second")
        table.add_row("latency", f"p50 {p50:.1f} ms · p99 {p99:.1f} ms")
        table.add_row("batches", f"{snapshot.mean_rows:.1f} rows each")
        table.add_row("lanes", "■" * busy + "□" * (lanes - busy))
        table.add_row("faults", Text(str(snapshot.faults), style="bold red" if snapshot.faults else "green"))
        return table


def picture(image: NDArray[Any]) -> Text:
    """An image of 8x8 pixels, 0..16, as 4 lines of half blocks, each two pixels high."""
    text = Text()
    rows = (image.reshape(8, 8) / 16 * 255).astype(int)
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        for top, bottom in zip(upper, lower, strict=True):
            text.append("▀▀", style=f"rgb({top},{top},{top}) on rgb({bottom},{bottom},{bottom})")
        text.append("\n")
    return text
