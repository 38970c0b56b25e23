"""A clock that a test turns."""

from __future__ import annotations


class Clock:
    """In the place of time.monotonic."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s
