"""A pipeline on a scripted backend and a delivery in memory, turned step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from tests.memory_delivery import MemoryDelivery
from tests.records import model_of, request_bytes, spec
from tests.scripted_backend import (
    Answer,
    Arrays,
    Fail,
    Script,
    ScriptedBackend,
    echo,
)
from worker.batching.micro_batcher import MicroBatcher
from worker.codec.decode import RequestDecoder
from worker.codec.encode import ResultEncoder
from worker.health import Heartbeat
from worker.metrics import Metrics
from worker.pipeline import Pipeline
from worker.protocols import Backend, Delivery, Lane
from worker.sections import LimitSettings, PadSettings
from worker.tensors import ModelSpec

ECHO = model_of(spec("x"), outputs=(spec("y"),))

GUILTY = 666.0


class Rig:
    """A pipeline with everything around it; steps are taken one by one, on the test's own thread."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        model: ModelSpec = ECHO,
        lanes: int = 2,
        max_rows: int = 4,
        max_delay_s: float = 0.002,
        max_in_flight_batches: int = 64,
        max_in_flight_bytes: int = 1 << 20,
        drain_timeout_s: float = 5.0,
        pad: Mapping[str, PadSettings] | None = None,
        compute: Callable[[Arrays], Arrays] = echo,
    ) -> None:
        self.delivery = MemoryDelivery()
        self.backend = ScriptedBackend(model, script, lanes=lanes, max_rows=max_rows, compute=compute)
        self.metrics, self.heartbeat = Metrics(), Heartbeat()
        delivery: Delivery = self.delivery
        backend: Backend = self.backend
        batcher: MicroBatcher[Lane] = MicroBatcher(
            model, backend.acquire, max_rows=max_rows, max_delay_s=max_delay_s, pad=pad or {}
        )
        self.pipeline = Pipeline(
            delivery=delivery,
            backend=backend,
            decoder=RequestDecoder(model, LimitSettings(), max_rows=max_rows),
            batcher=batcher,
            encoder=ResultEncoder(model),
            metrics=self.metrics,
            heartbeat=self.heartbeat,
            max_in_flight_batches=max_in_flight_batches,
            max_in_flight_bytes=max_in_flight_bytes,
            drain_timeout_s=drain_timeout_s,
        )

    def ask(self, value: float, *, rows: int = 1, partition: int = 0, key: bytes | None = None, **fields: Any) -> str:
        """One request whose rows hold this number."""
        request = request_bytes(np.full((rows, 2), value, np.float32), **fields)
        return self.delivery.send(request, partition=partition, key=key)

    def turn_until(self, is_reached: Callable[[], bool], timeout_s: float = 10.0) -> float:
        """Step until something holds; the seconds that took."""
        start_s = time.monotonic()
        while not is_reached():
            assert time.monotonic() - start_s < timeout_s, "it did not happen"
            self.pipeline.step()
        return time.monotonic() - start_s

    def turn_for(self, seconds: float) -> int:
        """How many steps it took."""
        end_s, steps = time.monotonic() + seconds, 0
        while time.monotonic() < end_s:
            self.pipeline.step()
            steps += 1
        return steps

    def turn_until_all_ended(self) -> None:
        sent = sum(self.delivery._offsets.values()) + len(self.delivery._offsets)
        self.turn_until(lambda: self.delivery.ended == sent)

    def is_at_rest(self) -> bool:
        """Nothing is held, running or owed."""
        self.pipeline.step()
        return self.backend.busy_lanes == 0 and self.delivery.in_flight() == 0

    def rows_of(self, source: str, output: int = 0) -> NDArray[np.float32]:
        tensor_map = msgpack.unpackb(self.delivery.answers[source])["outputs"][output]
        return np.frombuffer(tensor_map["data"], np.float32).reshape(tensor_map["shape"])


def fails_on(value: float) -> Script:
    return lambda batch: Fail("this input cannot be run") if batch.has(value) else Answer()
