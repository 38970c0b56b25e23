"""A setting, and what was measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Graphs = Literal["auto", "off"] | tuple[int, ...]

STAGES = ("wait", "decode", "gather", "h2d", "compute", "d2h", "encode", "publish")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tuned; the names are those of the settings."""

    max_rows: int
    max_delay_ms: float
    lanes: int
    cuda_graphs: Graphs = "auto"

    def __str__(self) -> str:
        graphs = {"auto": "", "off": ", no graphs"}.get(str(self.cuda_graphs), f", graphs {self.cuda_graphs}")
        return f"{self.max_rows} rows, {self.max_delay_ms:g} ms, {self.lanes} {_lanes(self.lanes)}{graphs}"


def _lanes(count: int) -> str:
    return "lane" if count == 1 else "lanes"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of one setting; rates are requests a second, latencies count from the scheduled arrival."""

    setting: Setting
    rate: float | None  # offered; None: as fast as it goes
    seconds: float  # measured, without the warm-up
    answered: int
    answered_per_s: float
    is_sustained: bool  # the backlog did not grow
    latency_ms: dict[str, float]  # p50, p90, p95, p99, p99.9, max
    stage_ms: dict[str, float]  # of one batch; see STAGES
    batch_rows: float  # mean
    fill_ratio: float  # mean rows of a batch over max_rows
    batches_per_s: float
    busy_ratio: float  # share of the time in which a batch was running
    thread_ratio: float  # share of one core that the loop's thread took

    @property
    def p99_ms(self) -> float:
        return self.latency_ms["p99"]


@dataclass(slots=True)
class Point:
    """One setting at one rate, measured several times."""

    setting: Setting
    rate: float
    runs: list[Measurement] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        """Median over the runs (the worse one of two)."""
        return self.typical.p99_ms

    @property
    def is_sustained(self) -> bool:
        return 2 * sum(run.is_sustained for run in self.runs) > len(self.runs)

    def meets(self, p99_ms: float) -> bool:
        return self.is_sustained and self.p99_ms <= p99_ms

    @property
    def typical(self) -> Measurement:
        """The run that has it."""
        return sorted(self.runs, key=lambda run: run.p99_ms)[len(self.runs) // 2]


def percentiles_ms(latencies_s: Sequence[float]) -> dict[str, float]:
    """Nearest-rank percentiles; infinity where nothing was answered."""
    ordered = sorted(latencies_s)
    if not ordered:
        return dict.fromkeys(("p50", "p90", "p95", "p99", "p99.9", "max"), float("inf"))
    shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    last = len(ordered) - 1
    return {name: round(1000 * ordered[min(last, int(share * len(ordered)))], 3) for name, share in shares.items()}
