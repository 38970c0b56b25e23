"""Processor time of a process and its children over time, sampled from outside."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import psutil

EVERY_S = 0.05
CHILDREN_EVERY_S = 1.0  # looking for them reads all of /proc


@dataclass(frozen=True)
class Spent:
    """User and system seconds in a span of time."""

    process_s: float  # and its children
    main_thread_s: float


class CpuSamples:
    """Samples while the context is open; afterwards tells what was spent between two moments.

    Start-up (imports, loading the model) is thereby left out: the span is that of the results.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._of: dict[int, float] = {}  # process id -> seconds; of one that has ended: its last
        self._rows: list[tuple[float, float, float]] = []  # Unix s, process s, main thread s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-samples")

    def between(self, start_s: float, end_s: float) -> Spent:
        """Seconds spent from start_s to end_s (Unix time), interpolated between samples."""
        when, process, main_thread = np.array(self._rows).T
        spans = [np.diff(np.interp([start_s, end_s], when, column))[0] for column in (process, main_thread)]
        return Spent(float(spans[0]), float(spans[1]))

    def _run(self) -> None:
        family, look_s = [self._process], 0.0
        while not self._is_over.wait(EVERY_S):
            now_s = time.time()
            try:
                if now_s >= look_s:
                    family, look_s = [self._process, *self._process.children(recursive=True)], now_s + CHILDREN_EVERY_S
                main = next(thread for thread in self._process.threads() if thread.id == self._process.pid)
            except (psutil.Error, StopIteration):
                return  # it has ended
            for each in family:
                with contextlib.suppress(psutil.Error):
                    times = each.cpu_times()
                    self._of[each.pid] = times.user + times.system
            self._rows.append((now_s, sum(self._of.values()), main.user_time + main.system_time))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()
