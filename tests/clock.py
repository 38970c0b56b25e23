"""A clock that a test turns."""

from __future__ import annotations


class Clock:
    """In the place of time.monotonic, and its sleep() in the place of time.sleep."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
