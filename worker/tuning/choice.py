"""The recommendation: from measurements alone, so that it can be checked on made-up ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from worker.tuning.measurement import Point, Setting

NEAR = 0.97  # of the best rate: nearer than that, the cheaper setting wins
AS_QUICK = 1.10  # of the lowest p99 among those


@dataclass(frozen=True, slots=True)
class Choice:
    """The recommended point, and how it stands to the others."""

    point: Point
    best_rate: float  # the highest rate at which any setting met the target; of the chosen point's where none did
    meets_target: bool

    @property
    def share_of_best(self) -> float:
        return self.point.rate / self.best_rate


def choose(points: Iterable[Point], p99_ms: float) -> Choice:
    """The setting that meets the target at the highest rate; of those within 3 %, a quick one that is cheap.

    Where no point meets the target: the one with the lowest p99 among those that keep up, else of all.

    Raises:
        ValueError: no points.
    """
    measured = [point for point in points if point.runs]
    meeting = [point for point in measured if point.meets(p99_ms)]
    if not meeting:
        keeping_up = [point for point in measured if point.is_sustained] or measured
        nearest = min(keeping_up, key=lambda point: (point.p99_ms, _cost(point.setting)))
        return Choice(nearest, nearest.rate, meets_target=False)
    best_rate = max(point.rate for point in meeting)
    near = highest_of_each(point for point in meeting if point.rate >= NEAR * best_rate)
    quick_ms = AS_QUICK * min(point.p99_ms for point in near)
    chosen = min((point for point in near if point.p99_ms <= quick_ms), key=lambda point: _cost(point.setting))
    return Choice(chosen, best_rate, meets_target=True)


def highest_of_each(points: Iterable[Point]) -> list[Point]:
    """The point of the highest rate of each setting."""
    highest: dict[Setting, Point] = {}
    for point in points:
        if point.setting not in highest or point.rate > highest[point.setting].rate:
            highest[point.setting] = point
    return list(highest.values())


def _cost(setting: Setting) -> tuple[int, int, bool, float]:
    """Cheapest first: memory of the lanes, memory of the graphs, and a shorter wait where all is equal."""
    return setting.lanes, setting.max_rows, setting.cuda_graphs != "off", setting.max_delay_ms
