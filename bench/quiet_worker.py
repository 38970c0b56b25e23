"""The worker with all that only counts taken out, to see what counting costs: python -m bench.quiet_worker run …

There is no such setting: a worker that nobody can watch is of no use. What remains are the clock readings around the
stages, a fraction of a microsecond a batch.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter

from worker.cli import main
from worker.lane_states import LaneStates
from worker.metrics import Observations
from worker.observe import Observer


def _nothing(*_arguments: Any, **_more: Any) -> None:
    pass


if __name__ == "__main__":
    for kind, names in (
        (Observations, ("observe",)),
        (Counter, ("inc",)),
        (Observer, ("_take", "_settle", "_report")),
        (LaneStates, ("note",)),
    ):
        for name in names:
            getattr(kind, name)  # it must be there, or nothing would be taken out
            setattr(kind, name, _nothing)
    main()
