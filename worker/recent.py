"""The last two minutes in steps of two seconds, for people who have no Prometheus at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from worker.metrics import LATENCIES, Metrics

STEP_S = 2.0
STEPS = 60
RATE_S = 4.0  # rates are over at least so long: short enough to move, long enough not to flicker
WINDOW_S = 60.0  # of latencies and means


class Totals(NamedTuple):
    """Since the start."""

    taken: int = 0  # records
    published: int = 0  # results
    refused: int = 0  # records
    busy_s: float = 0.0  # in which a batch was running


class Moment(NamedTuple):
    """What had been counted at one time; never changed afterwards, so any thread may read it."""

    at_s: float  # monotonic
    totals: Totals
    latencies: Sequence[int]  # per bucket of end_to_end_seconds
    batches: int
    rows: float
    stages: Mapping[str, tuple[int, float]]  # stage -> how often, seconds altogether


class Recent:
    """Looks at the metrics now and then. The loop's thread calls note(), any thread report(); neither waits."""

    def __init__(self, metrics: Metrics, totals: Callable[[], Totals]) -> None:
        self._metrics = metrics
        self._totals = totals
        self._moments: tuple[Moment, ...] = (self._look(),)  # oldest first; replaced, never changed

    def note(self) -> None:
        """Remember how things stand; does nothing when that was done less than a step ago."""
        if time.monotonic() - self._moments[-1].at_s > 0.9 * STEP_S:
            self._moments = (*self._moments[-STEPS:], self._look())

    def report(self) -> dict[str, Any]:
        """Sections of /status: rates a second, latencies and means over the last minute, history of two minutes."""
        moments, now = self._moments, self._look()
        lately, window = _before(moments, now.at_s - RATE_S), _before(moments, now.at_s - WINDOW_S)
        lately_s, window_s = max(0.1, now.at_s - lately.at_s), max(0.1, now.at_s - window.at_s)
        batches = now.batches - window.batches
        steps = pairwise(moments)
        return {
            "rates": {
                f"{name}_per_second": round((new - old) / lately_s, 2)
                for name, new, old in zip(Totals._fields[:3], now.totals, lately.totals, strict=False)
            },
            "batches": {
                "per_second": round((now.batches - lately.batches) / lately_s, 2),
                "mean_rows": round((now.rows - window.rows) / batches, 2) if batches else None,
            },
            "busy_ratio": round(min(1.0, (now.totals.busy_s - window.totals.busy_s) / window_s), 4),
            "latency_s": {
                "p50": _quantile(0.5, window.latencies, now.latencies),
                "p99": _quantile(0.99, window.latencies, now.latencies),
                "window_s": round(window_s, 1),
            },
            "stages_s": {
                stage: (seconds - window.stages[stage][1]) / (count - window.stages[stage][0])
                for stage, (count, seconds) in now.stages.items()
                if count > window.stages[stage][0]
            },
            "history": {
                "step_s": STEP_S,
                "steps": STEPS,
                "published_per_second": [
                    round((new.totals.published - old.totals.published) / (new.at_s - old.at_s), 2)
                    for old, new in steps
                ],
            },
        }

    def _look(self) -> Moment:
        metrics = self._metrics
        batch_rows = metrics.batch_rows.of[""]
        return Moment(
            time.monotonic(),
            self._totals(),
            list(metrics.end_to_end_seconds.of[""].counts),
            sum(batch_rows.counts),
            batch_rows.total,
            {stage: (sum(seen.counts), seen.total) for stage, seen in metrics.stage_seconds.of.items()},
        )


def _before(moments: Sequence[Moment], at_s: float) -> Moment:
    """The newest moment that is at least as old as `at_s`, else the oldest there is."""
    return next((moment for moment in reversed(moments) if moment.at_s <= at_s), moments[0])


def _quantile(q: float, old: Sequence[int], new: Sequence[int]) -> float | None:
    """The q-quantile of what was observed between two looks, interpolated in its bucket; None without any."""
    counts = [after - before for before, after in zip(old, new, strict=True)]
    wanted = q * sum(counts)
    if not wanted:
        return None
    seen, low = 0, 0.0
    for count, high in zip(counts, LATENCIES, strict=False):
        if count and seen + count >= wanted:
            return low + (high - low) * (wanted - seen) / count
        seen, low = seen + count, high
    return low  # longer than the last bound: that is all that is known
