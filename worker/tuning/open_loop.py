"""Arrivals by the clock: protocols.Delivery without Kafka, for measuring what the settings make of a given rate."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from worker.deadline import Deadline
from worker.errors import ErrorCode
from worker.protocols import Place
from worker.records import Headers

TOPIC = "requests"
ArrivalKind = Literal["poisson", "even"]


def schedule_s(rate: float, seconds: float, kind: ArrivalKind, seed: int) -> list[float]:
    """Ascending arrival times from 0, for `seconds` at `rate` a second on average; at least one."""
    count = max(1, round(rate * seconds))
    if kind == "even":
        return [number / rate for number in range(count)]
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    times: list[float] = np.cumsum(gaps).tolist()
    return times


class Arrival:
    """A request that has arrived: record and ticket in one."""

    __slots__ = ("_value", "due_s", "is_answered", "number")

    def __init__(self, number: int, due_s: float, value: bytes) -> None:
        self.number = number
        self.due_s = due_s  # scheduled, from the start
        self.is_answered = False
        self._value = value

    @property
    def record(self) -> Arrival:
        return self

    @property
    def source_prefix(self) -> str:
        return f"{TOPIC}/0/"

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.number

    def key(self) -> bytes | None:
        return None

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> Headers | None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 0, 0


class OpenLoop:
    """Requests that come when they are due, whether or not the worker is ready for them.

    A latency is the time from the scheduled arrival to the moment at which the answer, and every answer before it, is
    there: what waits because the worker is behind has waited all the same (no coordinated omission). One thread
    calls it, the pipeline's.
    """

    def __init__(self, values: Sequence[bytes], due_s: Sequence[float] | None, *, patience_s: float) -> None:
        """Args:
        values: the requests' bytes, used in turn.
        due_s: ascending arrival times from the first take() on; None: there is always another one.
        patience_s: a request that waits longer than this ends the run: the worker cannot keep up.
        """
        self._values = values
        self._due_s = due_s
        self._patience_s = patience_s
        self._start_s: float | None = None
        self._next = 0
        self._waiting: deque[Arrival] = deque()
        self.latencies: list[tuple[float, float]] = []  # (due, latency) in seconds, in the order of arrival
        self.is_hopeless = False
        self.refusal = ""  # what the worker said of the first request that it did not take
        self.elapsed_s = 0.0  # at the last settle()

    @property
    def is_over(self) -> bool:
        """Whether all that was scheduled has its answer, or never will in time."""
        if self.is_hopeless or self.refusal:
            return True
        return self._due_s is not None and self._next == len(self._due_s) and not self._waiting

    @property
    def answered(self) -> int:
        return len(self.latencies)

    def take(self, max_records: int, timeout_s: float) -> Sequence[Arrival]:
        now_s = time.perf_counter()
        if self._start_s is None:
            self._start_s = now_s
        elapsed_s = now_s - self._start_s
        first = self._next
        due_s, values = self._due_s, self._values
        if due_s is None:
            until = first + max_records
            arrivals = [Arrival(n, elapsed_s, values[n % len(values)]) for n in range(first, until)]
        else:
            limit = min(first + max_records, len(due_s))
            until = bisect_right(due_s, elapsed_s, first, limit)
            if until == first:
                pause_s = min(timeout_s, due_s[first] - elapsed_s if first < len(due_s) else timeout_s)
                if pause_s > 0:
                    time.sleep(pause_s)
                    until = bisect_right(due_s, time.perf_counter() - self._start_s, first, limit)
            arrivals = [Arrival(n, due_s[n], values[n % len(values)]) for n in range(first, until)]
        self._next = until
        self._waiting.extend(arrivals)
        return arrivals

    def answer(self, ticket: Arrival, value: bytes, headers: Headers) -> None:
        ticket.is_answered = True

    def refuse(self, ticket: Arrival, value: bytes, headers: Headers, code: ErrorCode, message: str) -> None:
        """The run is over: a measurement of refusals would say nothing."""
        ticket.is_answered = True
        self.refusal = self.refusal or f"{code}: {message}"

    def settle(self, timeout_s: float) -> None:
        if self._start_s is None:
            return
        self.elapsed_s = elapsed_s = time.perf_counter() - self._start_s
        waiting, latencies = self._waiting, self.latencies
        while waiting and waiting[0].is_answered:
            due_s = waiting.popleft().due_s
            latencies.append((due_s, elapsed_s - due_s))
        if self._due_s is not None:
            oldest_s = waiting[0].due_s if waiting else self._due_s[self._next] if self._has_more else elapsed_s
            self.is_hopeless = elapsed_s - oldest_s > self._patience_s

    @property
    def _has_more(self) -> bool:
        return self._due_s is not None and self._next < len(self._due_s)

    def in_flight(self, places: frozenset[Place] | None = None) -> int:
        return len(self._waiting)

    @property
    def unacknowledged(self) -> int:
        return 0

    @property
    def has_room(self) -> bool:
        return True

    def hold(self, is_held: bool) -> None:
        """There is nobody to pause."""

    def on_revoke(self, finish: Callable[[frozenset[Any], Deadline], None]) -> None:
        """Nothing is ever revoked."""

    def commit(self) -> None:
        """Nothing is kept."""
