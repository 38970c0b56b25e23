"""Ctrl-C and SIGTERM, kept until the demo is at a point where it can stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """The user wants the demo to end."""


class Interruption:
    """Notes a signal, and raises only where it is asked.

    An exception out of a signal handler can come anywhere: inside the Kafka client, which makes another of it, or
    between the making of a topic and the note that it must be deleted.
    """

    def __init__(self) -> None:
        self.exit_code = 0  # 128 + the signal's number, as shells have it

    def check(self) -> None:
        """Raises:
        Interrupted: a signal has come.
        """
        if self.exit_code:
            raise Interrupted

    def note(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler. The second signal changes nothing, the third ends the process at once."""
        if self.exit_code:
            signal.signal(number, signal.SIG_DFL)
        self.exit_code = self.exit_code or 128 + number


@contextmanager
def interruption() -> Iterator[Interruption]:
    """An Interruption that has both signals for the time of the block; in the main thread only."""
    noted = Interruption()
    before = {number: signal.signal(number, noted.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
