"""All that one tuning found: for the report, for JSON, and for the line that says it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from worker.tuning.choice import Choice
from worker.tuning.measurement import Measurement, Point, Setting
from worker.tuning.sweep import Plan, Sweep


@dataclass(frozen=True, slots=True)
class KafkaRun:
    """The chosen setting as a whole service behind a broker; latencies from scheduled sending to reading."""

    where: str
    rate: float
    sent: int
    answered: int
    answered_per_s: float
    latency_ms: dict[str, float]

    @property
    def is_whole(self) -> bool:
        """Whether every request was answered."""
        return self.answered == self.sent

    def __str__(self) -> str:
        return (
            f"through {self.where}: p99 {self.latency_ms['p99']:.3g} ms at {self.rate:,.0f}/s from sending to reading, "
            f"{self.answered:,} of {self.sent:,} answered"
        )


@dataclass(slots=True)
class Outcome:
    """What was asked, measured, chosen and confirmed."""

    model: str
    requests: str  # what was sent, for people
    plan: Plan
    sweep: Sweep
    machine: Mapping[str, Any]
    command: str
    date: str
    seconds: float = 0.0
    choice: Choice | None = None  # None: interrupted before anything was measured
    confirmed: Point | None = None  # at the rate that was confirmed, or at the last one that was tried
    kafka: KafkaRun | None = None
    kafka_left_out: str = ""  # why there is no run through Kafka
    is_interrupted: bool = False

    @property
    def is_confirmed(self) -> bool:
        return self.confirmed is not None and self.confirmed.meets(self.plan.p99_ms)

    @property
    def setting(self) -> Setting | None:
        return self.choice.point.setting if self.choice is not None else None

    def verdict(self) -> str:
        """One line: whether the target is met, when run again."""
        target = f"target {self.plan.p99_ms:g} ms"
        if self.choice is None:
            return "nothing was measured"
        if self.confirmed is None:
            return f"not confirmed: p99 {self.choice.point.p99_ms:.3g} ms at {self.choice.point.rate:,.0f}/s ({target})"
        word = "confirmed" if self.is_confirmed else "not confirmed"
        return f"{word}: p99 {self.confirmed.p99_ms:.3g} ms at {self.confirmed.rate:,.0f}/s ({target})"

    def of_chosen(self) -> list[Point]:
        """All points of the chosen setting, by rate; the confirming runs among them."""
        points = {rate: point for (setting, rate), point in self.sweep.points.items() if setting == self.setting}
        if self.confirmed is not None:
            points[self.confirmed.rate] = self.confirmed
        return [points[rate] for rate in sorted(points)]

    def to_json(self) -> dict[str, Any]:
        """Everything, the single runs included; ready for json.dumps (infinity becomes null)."""
        found: dict[str, Any] = _finite(
            {
                "model": self.model,
                "requests": self.requests,
                "target_p99_ms": self.plan.p99_ms,
                "recommended": asdict(self.setting) if self.setting is not None else None,
                "rate": self.choice.point.rate if self.choice is not None else None,
                "share_of_best": self.choice.share_of_best if self.choice is not None else None,
                "meets_target": self.choice is not None and self.choice.meets_target,
                "confirmed": self.is_confirmed,
                "verdict": self.verdict(),
                "confirming": _point(self.confirmed) if self.confirmed is not None else None,
                "kafka": asdict(self.kafka) if self.kafka is not None else self.kafka_left_out,
                "is_interrupted": self.is_interrupted,
                "seconds": round(self.seconds, 1),
                "command": self.command,
                "date": self.date,
                "machine": dict(self.machine),
                "notes": self.sweep.notes,
                "capacities": [asdict(run) for runs in self.sweep.capacities.values() for run in runs],
                "points": [_point(point) for point in self.sweep.points.values()],
            }
        )
        return found


def _point(point: Point) -> dict[str, Any]:
    return {
        "setting": asdict(point.setting),
        "rate": point.rate,
        "p99_ms": point.p99_ms,
        "is_sustained": point.is_sustained,
        "runs": [_run(run) for run in point.runs],
    }


def _run(run: Measurement) -> dict[str, Any]:
    return {key: value for key, value in asdict(run).items() if key not in {"setting", "rate"}}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
