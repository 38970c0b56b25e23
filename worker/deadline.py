"""One deadline shared by all the steps of a drain."""

from __future__ import annotations

import time


class Deadline:
    """A point on the monotonic clock."""

    def __init__(self, after_s: float) -> None:
        self._at_s = time.monotonic() + after_s

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self._at_s - time.monotonic())

    @property
    def is_over(self) -> bool:
        return self.left_s <= 0.0
