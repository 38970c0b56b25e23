"""A batcher on scripted lanes; time is what the test says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.records import FakeRecord, FakeTicket, model_of, packed, request_of, spec, tensor
from tests.scripted_backend import Batch, ScriptedBackend, ScriptedLane
from worker.batching.micro_batcher import MicroBatcher
from worker.batching.open_batch import OpenBatch
from worker.codec.decode import RequestDecoder
from worker.records import Request
from worker.sections import LimitSettings, PadSettings
from worker.tensors import ModelSpec

FLAT = model_of(spec("x"))

FREE = model_of(spec("x", "FP32", (-1, -1)))

DELAY_S = 5.0


class Bench:
    """A batcher on scripted lanes, and a decoder that makes its requests; time is what the test says."""

    def __init__(
        self,
        model: ModelSpec = FLAT,
        *,
        max_rows: int = 4,
        lanes: int = 2,
        max_bytes: int = 4096,
        pad: Mapping[str, PadSettings] | None = None,
    ) -> None:
        self.backend = ScriptedBackend(model, lanes=lanes, max_rows=max_rows, max_bytes=max_bytes)
        self.batcher: MicroBatcher[ScriptedLane] = MicroBatcher(
            model, self.backend.acquire, max_rows=max_rows, max_delay_s=DELAY_S, pad=pad or {}
        )
        self.decoder = RequestDecoder(model, LimitSettings(), max_rows=64)

    def request(self, *arrays: NDArray[Any], at_s: float = 0.0) -> Request:
        names = [each.name for each in self.backend.model.inputs]
        content = request_of(*(tensor(name, array) for name, array in zip(names, arrays, strict=True)))
        return self.decoder.decode(FakeTicket(FakeRecord(packed(content))), at_s)

    def add(self, *arrays: NDArray[Any], at_s: float = 0.0) -> bool:
        return self.batcher.add(self.request(*arrays, at_s=at_s))

    def due(self, now_s: float = 0.0, *, everything: bool = False) -> list[OpenBatch[ScriptedLane]]:
        return self.batcher.take_due(now_s, everything=everything)

    def launch(self, batch: OpenBatch[ScriptedLane]) -> Batch:
        """What the backend would see of it."""
        batch.lane.launch(batch.rows)
        return self.backend.batches[-1]


def row(value: float, width: int = 2, rows: int = 1) -> NDArray[np.float32]:
    return np.full((rows, width), value, np.float32)
