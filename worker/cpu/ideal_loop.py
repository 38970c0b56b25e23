"""The bound that lanes are measured against on a CPU: the same model on static inputs, with nothing else to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from worker.cpu.onnx_session import OnnxSession, threads_per_lane

WARM_UP_BATCHES = 3


class IdealLoop:
    """Batches of one size round and round, `runs` at a time, the cores divided among them."""

    def __init__(self, path: Path, arrays: Sequence[NDArray[Any]], runs: int) -> None:
        """Args:
        path: the ONNX file.
        arrays: one batch, an array of shape (rows, …) per input.
        runs: batches at a time.

        Raises:
            EngineError: the model cannot be loaded.
        """
        self._session = OnnxSession(path, name="ideal", version="1", threads=threads_per_lane(runs))
        self._arrays = arrays
        self._runs = runs

    def run(self, seconds: float) -> tuple[int, float]:
        """(batches, seconds they took), after a warm-up.

        Raises:
            BatchError: the model does not take such a batch.
        """
        for _ in range(WARM_UP_BATCHES):
            self._session.run(self._arrays)
        counts = [0] * self._runs
        started_s = time.perf_counter()
        until_s = started_s + seconds
        threads = [threading.Thread(target=self._turn, args=(counts, place, until_s)) for place in range(1, self._runs)]
        for thread in threads:
            thread.start()
        self._turn(counts, 0, until_s)
        for thread in threads:
            thread.join()
        return sum(counts), time.perf_counter() - started_s

    def _turn(self, counts: list[int], place: int, until_s: float) -> None:
        while time.perf_counter() < until_s:
            self._session.run(self._arrays)
            counts[place] += 1
