"""The chosen setting once more as the whole service, behind a broker, with traffic from another process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from worker import assemble
from worker.assemble import Service
from worker.config import Settings
from worker.errors import KafkaRefused
from worker.tuning.measurement import Setting
from worker.tuning.open_loop import ArrivalKind
from worker.tuning.outcome import KafkaRun
from worker.tuning.payload import Payload
from worker.tuning.trial import GoOn, settings_with

JOIN_S = 30.0
MOST_RATE = 30_000.0  # what one process can send and read
EMBEDDED_BYTES_PER_S = 10e6  # the embedded broker keeps some 5 MB of a partition


class Stage(Protocol):
    """A broker, with topics that nobody else uses."""

    @property
    def bootstrap_servers(self) -> str: ...
    @property
    def where(self) -> str:
        """The broker's name, for people."""

    @property
    def name(self) -> str:
        """Also the consumer group's."""

    @property
    def consumer(self) -> Mapping[str, str | int]:
        """Settings of any consumer of this broker."""

    @property
    def group(self) -> Mapping[str, str | int]:
        """And of group members."""

    @property
    def requests(self) -> str: ...
    @property
    def results(self) -> str: ...
    @property
    def dead_letters(self) -> str: ...


OpenStage = Callable[[], AbstractContextManager[Stage]]


def most_rate(payload: Payload, *, is_embedded: bool) -> float:
    """Requests a second that such a check can carry."""
    return min(MOST_RATE, EMBEDDED_BYTES_PER_S / payload.value_bytes) if is_embedded else MOST_RATE


def run_through_kafka(
    settings: Settings,
    setting: Setting,
    payload: Payload,
    rate: float,
    seconds: float,
    open_stage: OpenStage,
    *,
    arrivals: ArrivalKind,
    go_on: GoOn,
) -> KafkaRun:
    """Run the service on the calling thread until the traffic has ended.

    Raises:
        FatalError: the service could not start, or failed.
        KafkaRefused: the broker cannot be used, or the traffic failed.
    """
    with open_stage() as stage, tempfile.TemporaryDirectory(prefix="trt-worker-tune-") as folder:
        order = _write_order(Path(folder), stage, payload, rate, seconds, arrivals)
        with assemble.build(_on(stage, settings_with(settings, setting))) as service:
            driver = _Driver(service, order, go_on)
            driver.start()
            try:
                service.run()
            finally:
                driver.end()
        told = driver.result()
        return KafkaRun(where=stage.where, rate=rate, **told)


def _on(stage: Stage, settings: Settings) -> Settings:
    """The service's settings on the stage's topics, at least once, with nothing open to the outside."""
    kafka = settings.kafka.model_copy(
        update={
            "bootstrap_servers": stage.bootstrap_servers,
            "group_id": stage.name,
            "input_topics": (stage.requests,),
            "output_topic": stage.results,
            "dead_letter_topic": stage.dead_letters,
            "consumer": {**settings.kafka.consumer, **stage.consumer, **stage.group},
        }
    )
    delivery = settings.delivery.model_copy(update={"mode": "at_least_once", "drain_timeout_s": 5.0})
    http = settings.http.model_copy(update={"host": "127.0.0.1", "port": 0})
    return settings.model_copy(update={"kafka": kafka, "delivery": delivery, "http": http})


def _write_order(
    folder: Path, stage: Stage, payload: Payload, rate: float, seconds: float, arrivals: ArrivalKind
) -> Path:
    values = folder / "values.npz"
    np.savez(values, *(np.frombuffer(value, np.uint8) for value in payload.values))
    order = {
        "bootstrap_servers": stage.bootstrap_servers,
        "requests": stage.requests,
        "results": stage.results,
        "consumer": dict(stage.consumer),
        "rate": rate,
        "seconds": seconds,
        "arrivals": arrivals,
        "seed": 1,
        "values": str(values),
    }
    file = folder / "order.json"
    file.write_text(json.dumps(order))
    return file


class _Driver:
    """Starts the traffic when the service has its partitions, and stops the service when the traffic has ended."""

    def __init__(self, service: Service, order: Path, go_on: GoOn) -> None:
        self._service, self._order, self._go_on = service, order, go_on
        self._thread = threading.Thread(target=self._drive, name="traffic", daemon=True)
        self._process: subprocess.Popen[str] | None = None
        self._output = ""
        self._error: BaseException | None = None
        self._is_ending = False

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Whatever is still running has nobody to talk to."""
        self._is_ending = True
        self._thread.join()

    def result(self) -> dict[str, Any]:
        """Raises what went wrong on the way."""
        if self._error is not None:
            raise self._error
        if not self._output:
            raise KafkaRefused("the traffic of the last check ended without a result")
        told: dict[str, Any] = json.loads(self._output)
        return told

    def _drive(self) -> None:
        try:
            self._await_partitions()
            command = [sys.executable, "-m", "worker.tuning.traffic", str(self._order)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            while self._process.poll() is None and not self._is_ending:
                self._go_on()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._output = self._process.communicate(timeout=0.1)[0]
        except BaseException as error:  # noqa: BLE001  # raised again by result(), on the thread that called
            self._error = error
        finally:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
                self._process.communicate()
            self._service.stop()

    def _await_partitions(self) -> None:
        due_s = time.monotonic() + JOIN_S
        while not self._service.status()["kafka"]["partitions"]:
            self._go_on()
            if self._is_ending:
                return
            if time.monotonic() > due_s:
                raise KafkaRefused(f"the worker was given no partitions in {JOIN_S:g} s; is the broker overloaded?")
            time.sleep(0.02)
