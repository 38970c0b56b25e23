"""The console that commands print to."""

from __future__ import annotations

from rich.console import Console

UNSEEN_COLUMNS = 240  # tables as wide as they are when nobody looks at them through a terminal


def open_console(*, stderr: bool = False) -> Console:
    """What is printed stays as it is: brackets and colons in names and messages are no markup and no emoji."""
    console = Console(stderr=stderr, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = UNSEEN_COLUMNS
    return console
