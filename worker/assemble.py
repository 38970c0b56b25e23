"""Composition root: builds every part from the settings, on one ExitStack, and joins them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker import __version__, assemble_tensorrt
from worker.batching.micro_batcher import MicroBatcher
from worker.codec.decode import RequestDecoder
from worker.codec.encode import ResultEncoder
from worker.config import Settings
from worker.errors import ConfigError, EngineError
from worker.health import ENGINE_CHECK, Health, HealthServer, Heartbeat
from worker.kafka.at_least_once import AtLeastOnce
from worker.kafka.connection import Connection
from worker.kafka.exactly_once import ExactlyOnce
from worker.kafka.share_group import ShareGroup
from worker.metrics import Metrics
from worker.observe import Observer
from worker.pipeline import Pipeline
from worker.protocols import Backend, Lane
from worker.sections import DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

SPARE_LANES = 2  # full batches, above what the lanes hold, whose answers the broker may still owe an acknowledgement
AnyMode = AtLeastOnce | ExactlyOnce | ShareGroup
MODES: dict[str, Callable[[KafkaSettings, DeliverySettings, Connection], AnyMode]] = {
    "at_least_once": AtLeastOnce,
    "exactly_once": ExactlyOnce,
    "queue": ShareGroup,
}


class Service:
    """A worker that is ready to run."""

    def __init__(
        self, settings: Settings, pipeline: Pipeline, metrics: Metrics, health: Health, http_port: int
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.http_port = http_port
        self._pipeline = pipeline
        self._health = health

    def run(self) -> None:
        """Consume until stop(), then drain and return.

        Raises:
            FatalError: the process cannot go on.
        """
        self._pipeline.run()

    def stop(self) -> None:
        """Ask run() to drain and return; safe from any thread and in a signal handler."""
        self._pipeline.stop()

    def status(self) -> Mapping[str, Any]:
        """What /status answers."""
        return self._health.status()


@contextmanager
def build(settings: Settings) -> Iterator[Service]:
    """Everything the service consists of; freed in reverse order on exit.

    Raises:
        FatalError: a part cannot start; the message says which and why.
    """
    if settings.engine.intake_processes != 1:
        raise ConfigError(f"engine.intake_processes is {settings.engine.intake_processes}; this version has 1 only")
    with ExitStack() as stack:
        metrics, heartbeat = Metrics(), Heartbeat()
        health = Health(settings.http, heartbeat)
        health.metrics = metrics.expose
        server = HealthServer(settings.http, health)
        stack.callback(server.close)
        log.info("http on %s:%d", settings.http.host, server.port)

        start_s = time.monotonic()
        backend = stack.enter_context(open_backend(settings))
        metrics.engine_load_seconds.set(time.monotonic() - start_s)
        log.info("model %s version %s on %s", backend.model.name, backend.model.version, dict(backend.describe()))

        connection = Connection(settings.kafka)
        delivery = MODES[settings.delivery.mode](settings.kafka, settings.delivery, connection)
        stack.callback(delivery.close)
        batcher: MicroBatcher[Lane] = MicroBatcher(
            backend.model,
            backend.acquire,
            max_rows=rows_of_a_batch(settings, backend),
            max_delay_s=settings.batching.max_delay_ms / 1000,
            pad=settings.batching.pad,
        )
        pipeline = Pipeline(
            delivery=delivery,
            backend=backend,
            decoder=RequestDecoder(backend.model, settings.limits, max_rows=batcher.max_rows),
            batcher=batcher,
            encoder=ResultEncoder(backend.model),
            metrics=metrics,
            heartbeat=heartbeat,
            max_in_flight_batches=settings.delivery.max_in_flight_batches,
            max_in_flight_bytes=(backend.lane_count + SPARE_LANES) * settings.batching.max_bytes,
            drain_timeout_s=settings.delivery.drain_timeout_s,
            lane_timeout_s=settings.engine.lane_timeout_s,
        )
        delivery.explain = pipeline.explain
        observer = Observer(settings, metrics, connection, delivery, backend)
        health.status = observer.status
        health.checks = {
            ENGINE_CHECK: lambda: True,
            "broker reached": lambda: connection.is_up,
        }
        delivery.start()
        log.info("trt-worker %s serves %s", __version__, ", ".join(settings.kafka.input_topics))
        yield Service(settings, pipeline, metrics, health, server.port)


def rows_of_a_batch(settings: Settings, backend: Backend) -> int:
    """batching.max_rows, or the rows that the engine takes where those are fewer."""
    wanted, most = settings.batching.max_rows, backend.model.max_rows
    if most is not None and wanted > most:
        log.warning("batching.max_rows is %d, the engine takes %d rows: batches will have %d", wanted, most, most)
        return most
    return wanted


@contextmanager
def open_backend(settings: Settings) -> Iterator[Backend]:
    """The engine that the settings name, self-tested; freed on exit.

    Raises:
        ConfigError: model.onnx is missing, or the settings contradict the model.
        EngineError: nothing here can run the model.
        GpuError: the GPU failed, or has too little memory.
    """
    kind = settings.engine.backend
    if kind == "auto":
        kind = "tensorrt" if assemble_tensorrt.is_here(settings.engine.device) else "cpu"
    if kind == "tensorrt":
        with assemble_tensorrt.open_backend(settings, _reference(settings)) as backend:
            yield backend
    else:
        with _open_cpu_backend(settings) as backend:
            yield backend


@contextmanager
def _open_cpu_backend(settings: Settings) -> Iterator[Backend]:
    try:
        from worker.cpu.backend import CpuBackend
        from worker.cpu.self_test import check_rows
    except ImportError as error:
        raise ConfigError("the cpu backend needs ONNX Runtime: pip install 'tensorrt-kafka-worker[cpu]'") from error
    if settings.model.onnx is None:
        raise ConfigError("model.onnx is missing; the cpu backend runs the ONNX file itself")
    backend = CpuBackend(
        settings.model.onnx,
        name=settings.model.name,
        version=settings.model.version,
        lanes=settings.engine.lanes,
        max_rows=settings.batching.max_rows,
        max_bytes=settings.batching.max_bytes,
    )
    try:
        lengths = {(name, pad.axis): pad.buckets[-1] for name, pad in settings.batching.pad.items()}
        check_rows(backend.session, lengths)
        yield backend
    finally:
        backend.close()


def _reference(settings: Settings) -> Callable[[Sequence[NDArray[Any]]], Sequence[NDArray[Any]]] | None:
    """The same model in ONNX Runtime, for the engine's self-test; None where it cannot be had."""
    if settings.model.onnx is None:
        return None
    try:
        from worker.cpu.onnx_session import OnnxSession, threads_per_lane
    except ImportError:
        log.info("ONNX Runtime is not installed: the self-test compares only graphs with plain runs")
        return None
    model = settings.model
    try:
        session = OnnxSession(settings.model.onnx, name=model.name, version=model.version, threads=threads_per_lane(1))
    except EngineError as error:  # a model may be for TensorRT alone
        log.warning("the self-test does not compare with ONNX Runtime: %s", error)
        return None

    def run(arrays: Sequence[NDArray[Any]]) -> Sequence[NDArray[Any]]:
        rows = len(arrays[0])
        missing = (session.fixed_rows or rows) - rows
        filled = [np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]) for array in arrays]
        return [output[:rows] for output in session.run(filled)]

    return run
