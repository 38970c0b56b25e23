"""Composition root: builds every part from the settings, on one ExitStack, and joins them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from worker import __version__, assemble_tensorrt
from worker.assemble_member import BROKER_CHECK, open_member
from worker.config import Settings
from worker.errors import ConfigError, EngineError
from worker.health import DRAINING_CHECK, ENGINE_CHECK, Health, HealthServer, Heartbeat
from worker.intake.hello import Hello
from worker.intake.memory import create
from worker.intake.overview import BusyRatio, Overview, SlowestHeartbeat
from worker.intake.server import EngineServer, Host
from worker.intake.supervisor import Post, Supervisor
from worker.merging import add_up, expose, snapshot
from worker.metrics import Metrics
from worker.pipeline import Pipeline
from worker.protocols import Backend
from worker.sections import MIB, EngineSettings

log = logging.getLogger(__name__)


class Service:
    """A worker that is ready to run."""

    def __init__(
        self, settings: Settings, loop: Pipeline | Supervisor, metrics: Metrics, health: Health, http_port: int
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.http_port = http_port
        self._loop = loop
        self._health = health

    def run(self) -> None:
        """Consume until stop(), then drain and return.

        Raises:
            FatalError: the process cannot go on.
        """
        self._loop.run()

    def stop(self) -> None:
        """Ask run() to drain and return; safe from any thread and in a signal handler."""
        self._loop.stop()

    def status(self) -> Mapping[str, Any]:
        """What /status answers."""
        return self._health.status()


@contextmanager
def build(settings: Settings) -> Iterator[Service]:
    """Everything the service consists of; freed in reverse order on exit.

    Raises:
        FatalError: a part cannot start; the message says which and why.
    """
    is_one_process = settings.engine.intake_processes == 1
    with ExitStack() as stack:
        metrics, heartbeat = Metrics(), Heartbeat() if is_one_process else SlowestHeartbeat()
        health = Health(settings.http, heartbeat)
        health.metrics = metrics.expose
        metrics.ready.set_function(lambda: health.is_ready)
        server = HealthServer(settings.http, health)
        stack.callback(server.close)
        log.info("http on %s:%d", settings.http.host, server.port)

        start_s = time.monotonic()
        backend = stack.enter_context(open_backend(settings))
        metrics.engine_load_seconds.set(time.monotonic() - start_s)
        log.info("model %s version %s on %s", backend.model.name, backend.model.version, dict(backend.describe()))

        loop: Pipeline | Supervisor
        join_group: Callable[[], None] | None = None
        if isinstance(heartbeat, SlowestHeartbeat):
            loop = stack.enter_context(_supervisor(settings, backend, metrics, heartbeat, health))
        else:
            member = stack.enter_context(open_member(settings, backend, metrics, heartbeat))
            loop = member.pipeline
            health.status = member.observer.status
            health.checks[BROKER_CHECK] = lambda: member.connection.is_up
            join_group = member.delivery.start
        health.checks |= {ENGINE_CHECK: lambda: True, DRAINING_CHECK: lambda: not loop.is_stopping}
        if join_group is not None:
            join_group()  # may wait for a broker: /readyz says for what
        log.info("trt-worker %s serves %s", __version__, ", ".join(settings.kafka.input_topics))
        yield Service(settings, loop, metrics, health, server.port)


@contextmanager
def _supervisor(
    settings: Settings, backend: Backend, metrics: Metrics, heartbeat: SlowestHeartbeat, health: Health
) -> Iterator[Supervisor]:
    """The loop of several intake processes over this one's engine; /metrics and /status speak of all of them."""
    count = settings.engine.intake_processes
    lanes, seats = lanes_of_each(settings.engine), seats_of_each(settings.engine)
    host = cast("Host", backend)  # all of ours are
    with ExitStack() as stack:
        posts = []
        for index in range(count):
            memory = create(f"trt-worker-{index}", seats, host.seat_bytes)
            stack.callback(memory.close)
            stack.enter_context(host.pinned(memory.bytes))
            hello = Hello(index, settings, backend.model, backend.describe(), lanes, seats, memory.seat_bytes)
            posts.append(Post(index, memory, hello.pack()))
        log.info("%d intake processes, each with %d seats of %.1f MiB", count, seats, host.seat_bytes / MIB)
        supervisor = Supervisor(
            EngineServer(host, settings.engine.lane_timeout_s),
            posts,
            heartbeat,
            drain_timeout_s=settings.delivery.drain_timeout_s,
            lane_timeout_s=settings.engine.lane_timeout_s,
        )
        stack.callback(supervisor.close)
        heartbeat.overview = overview = Overview(posts)
        busy = BusyRatio(lambda: backend.busy_seconds)
        metrics.lanes.set(backend.lane_count)
        metrics.lanes_busy.set_function(lambda: backend.busy_lanes)
        metrics.gpu_busy_ratio.set_function(busy.look)
        health.metrics = lambda: expose(add_up([snapshot(metrics.registry), *overview.families()]))
        health.status = partial(_status_of_all, backend, overview, busy)
        health.checks[BROKER_CHECK] = overview.is_up
        yield supervisor


def _status_of_all(backend: Backend, overview: Overview, busy: BusyRatio) -> Mapping[str, Any]:
    """What the intake processes say, but for the lanes: theirs are seats."""
    status = overview.status()
    lanes = {"all": backend.lane_count, "busy": backend.busy_lanes, "busy_ratio": round(busy.look(), 4)}
    return {**status, "lanes": {**status.get("lanes", {}), **lanes}}


def lanes_of_each(engine: EngineSettings) -> int:
    """One intake process's share of the lanes, rounded up."""
    return -(-engine.lanes // engine.intake_processes)


def seats_of_each(engine: EngineSettings) -> int:
    """Seats of one intake process: one to fill and one to read, besides its share of the lanes."""
    return max(3, lanes_of_each(engine) + 2)


@contextmanager
def open_backend(settings: Settings) -> Iterator[Backend]:
    """The engine that the settings name, self-tested; freed on exit.

    Raises:
        ConfigError: model.onnx is missing, or the settings contradict the model.
        EngineError: nothing here can run the model.
        GpuError: the GPU failed, or has too little memory.
    """
    kind, reason = settings.engine.backend, "engine.backend is cpu"
    if kind == "auto":
        missing = assemble_tensorrt.why_not_here(settings.engine.device)
        kind, reason = "cpu" if missing else "tensorrt", f"engine.backend is auto, and there is no TensorRT: {missing}"
    if kind == "tensorrt":
        with assemble_tensorrt.open_backend(settings, _reference(settings)) as backend:
            yield backend
    else:
        with _open_cpu_backend(settings, reason) as backend:
            yield backend


@contextmanager
def _open_cpu_backend(settings: Settings, reason: str) -> Iterator[Backend]:
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
        reason=reason,
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
