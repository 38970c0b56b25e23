"""What every lane is doing, for people; any thread may ask, and nobody waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class LaneState(NamedTuple):
    """One lane."""

    state: str  # free, filling or running
    rows: int  # of the present batch; of a free lane's last one
    max_rows: int  # that this batch can hold


class LaneStates:
    """Remembers each lane's last batch; the loop's thread notes, others read."""

    def __init__(self) -> None:
        self._last: dict[Any, tuple[int, int]] = {}  # lane -> rows, and the most it could have held

    def note(self, lane: Any, rows: int, max_rows: int) -> None:
        """A batch of this lane starts to run."""
        self._last[lane] = rows, max_rows

    def all(self, filling: Mapping[Any, tuple[int, int]], running: Iterable[Any]) -> list[LaneState]:
        """Every lane that has had a batch, in the order of their first ones.

        Args:
            filling: lane -> rows so far, and the most it can hold.
            running: lanes in the backend.
        """
        at_work, states = set(running), []
        for lane, (rows, max_rows) in self._last.copy().items():
            if lane in filling:
                states.append(LaneState("filling", *filling[lane]))
            else:
                states.append(LaneState("running" if lane in at_work else "free", rows, max_rows))
        return states
