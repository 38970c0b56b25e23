"""Several intake processes as one service: for /metrics, /status, /healthz and /readyz."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

from worker.health import Heartbeat
from worker.intake.process import IntakeProcess
from worker.intake.supervisor import Post
from worker.merging import Family

LOOK_S = 1.0
ANSWER_S = 1.0  # a process that does not answer is taken as it was at its last report


WORDS = frozenset(("model", "engine"))  # the same in all
TIMES = frozenset(("latency_s", "stages_s"))
LARGEST = frozenset(("uptime_s", "step_s", "steps", "mean_rows"))


class Overview:
    """Asks all of them, and adds up; called by the threads of the HTTP server."""

    def __init__(self, posts: Sequence[Post]) -> None:
        self._posts = posts

    def _ask(self) -> tuple[list[IntakeProcess], list[Post]]:
        """All that run, with the newest report they have; and copies of the posts as they were before the question."""
        then = []
        for post in self._posts:
            with post.lock:
                then.append(copy(post))
        processes = [post.process for post in then if post.process is not None]
        questions = [(process, process.ask()) for process in processes]
        until_s = time.monotonic() + ANSWER_S
        for process, number in questions:
            process.await_report(number, max(0.0, until_s - time.monotonic()))
        return processes, then

    def reports(self) -> list[Mapping[str, Any]]:
        """The newest of each that runs."""
        return _reports(self._ask()[0])

    def families(self) -> list[Sequence[Family]]:
        """Metrics of all that run, and what those that have ended had counted."""
        processes, then = self._ask()
        return [*(report["metrics"] for report in _reports(processes)), *(post.past for post in then)]

    def is_up(self) -> bool:
        """Whether brokers are connected: to every process that has said so much as anything, and to one at least."""
        reports = self.reports()
        return bool(reports) and all(report["is_up"] for report in reports)

    def age_s(self) -> float:
        """Seconds since the slowest of their loops turned."""
        processes, _ = self._ask()
        now_s = time.monotonic()
        return max(
            [
                process.report["heartbeat_age_s"] + now_s - process.reported_s
                for process in processes
                if process.report is not None
            ],
            default=0.0,
        )

    def status(self) -> Mapping[str, Any]:
        """Their /status as one, and which of them there are."""
        running, then = self._ask()
        merged = merge([report["status"] for report in _reports(running)])
        records = merged.setdefault("records", {})
        records["settled"] = records.get("settled", 0) + sum(post.past_settled for post in then)
        processes = [
            {
                "index": post.index,
                "pid": None if post.process is None else post.process.pid,
                "restarts": max(0, post.restarts),
            }
            for post in then
        ]
        return {**merged, "intake_processes": processes}


class BusyRatio:
    """Share of the time in which a batch was running, between two looks."""

    def __init__(self, busy_seconds: Callable[[], float]) -> None:
        self._busy_seconds = busy_seconds
        self._last = (time.monotonic(), busy_seconds())
        self._ratio = 0.0

    def look(self) -> float:
        """Over the time since the last look that was at least LOOK_S ago."""
        now_s, busy_s = time.monotonic(), self._busy_seconds()
        last_s, last_busy_s = self._last
        if now_s - last_s >= LOOK_S:
            self._last = (now_s, busy_s)
            self._ratio = min(1.0, (busy_s - last_busy_s) / (now_s - last_s))
        return self._ratio


class SlowestHeartbeat(Heartbeat):
    """The engine process's loop and all of the others'; /healthz looks at the oldest."""

    def __init__(self) -> None:
        super().__init__()
        self.overview: Overview | None = None

    @property
    def age_s(self) -> float:
        others_s = 0.0 if self.overview is None else self.overview.age_s()
        return max(super().age_s, others_s)


def _reports(processes: Sequence[IntakeProcess]) -> list[Mapping[str, Any]]:
    return [process.report for process in processes if process.report is not None]


def merge(statuses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several /status objects as one: what is counted added up, the slowest one's times, the first one's words."""
    return {key: _merged(key, [each[key] for each in statuses if each.get(key) is not None]) for key in _keys(statuses)}


def _keys(mappings: Sequence[Mapping[str, Any]]) -> dict[str, None]:
    """The keys of all, each once, in their order."""
    return dict.fromkeys(key for each in mappings for key in each)


def _merged(key: str, values: Sequence[Any]) -> Any:
    if not values:
        return None
    match values[0]:
        case bool():
            return all(values)
        case int() | float() if key in LARGEST:
            return max(values)
        case int() | float():
            return round(sum(values), 2)
        case dict() if key in TIMES:
            times = {name: [each[name] for each in values if each.get(name) is not None] for name in _keys(values)}
            return {name: max(found) if found else None for name, found in times.items()}
        case dict() if key not in WORDS:
            return merge(values)
        case list() if key == "published_per_second":  # aligned at their ends: some have begun later
            longest = max(map(len, values))
            padded = [[0.0] * (longest - len(each)) + each for each in values]
            return [round(sum(step), 2) for step in zip(*padded, strict=True)]
        case list() if key == "partitions":
            return sorted(name for each in values for name in each)
        case list() if key == "refused":
            newest = sorted((each for some in values for each in some), key=lambda each: each["time_s"], reverse=True)
            return newest[: max(map(len, values))]
        case list() if key == "each":  # seats
            return [seat for each in values for seat in each]
        case _:
            return values[0]
