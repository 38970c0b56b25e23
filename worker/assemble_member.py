"""One member of the consumer group, over whatever runs its batches: Kafka, codec, batching and the loop around them."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from worker.batching.micro_batcher import MicroBatcher
from worker.codec.decode import RequestDecoder
from worker.codec.encode import ResultEncoder
from worker.config import Settings
from worker.health import Heartbeat
from worker.kafka.at_least_once import AtLeastOnce
from worker.kafka.connection import Connection
from worker.kafka.exactly_once import ExactlyOnce
from worker.kafka.share_group import ShareGroup
from worker.metrics import Metrics
from worker.observe import Observer
from worker.pipeline import Pipeline
from worker.protocols import Backend, Delivery, Lane
from worker.sections import DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

BROKER_CHECK = "broker reached"
SPARE_LANES = 2  # full batches, above what the lanes hold, whose answers the broker may still owe an acknowledgement
AnyMode = AtLeastOnce | ExactlyOnce | ShareGroup
MODES: dict[str, Callable[[KafkaSettings, DeliverySettings, Connection], AnyMode]] = {
    "at_least_once": AtLeastOnce,
    "exactly_once": ExactlyOnce,
    "queue": ShareGroup,
}


@dataclass(frozen=True)
class Member:
    """Put together; delivery.start() joins the group, pipeline.run() works."""

    connection: Connection
    delivery: AnyMode
    pipeline: Pipeline
    observer: Observer


@contextmanager
def open_member(settings: Settings, backend: Backend, metrics: Metrics, heartbeat: Heartbeat) -> Iterator[Member]:
    """Leaves the group on exit.

    Raises:
        FatalError: a part cannot be made; the message says which and why.
    """
    connection = Connection(settings.kafka)
    delivery = MODES[settings.delivery.mode](settings.kafka, settings.delivery, connection)
    try:
        pipeline = join(settings, backend, delivery, metrics, heartbeat)
        delivery.explain = pipeline.explain
        observer = Observer(settings, metrics, connection, delivery, backend, pipeline.lanes)
        yield Member(connection, delivery, pipeline, observer)
    finally:
        delivery.close()


def join(settings: Settings, backend: Backend, delivery: Delivery, metrics: Metrics, heartbeat: Heartbeat) -> Pipeline:
    """The pipeline over this backend and delivery; sections batching, limits, delivery and engine are used."""
    batcher: MicroBatcher[Lane] = MicroBatcher(
        backend.model,
        backend.acquire,
        max_rows=rows_of_a_batch(settings, backend),
        max_delay_s=settings.batching.max_delay_ms / 1000,
        pad=settings.batching.pad,
    )
    return Pipeline(
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


def rows_of_a_batch(settings: Settings, backend: Backend) -> int:
    """batching.max_rows, or the rows that the engine takes where those are fewer."""
    wanted, most = settings.batching.max_rows, backend.model.max_rows
    if most is not None and wanted > most:
        log.warning("batching.max_rows is %d, the engine takes %d rows: batches will have %d", wanted, most, most)
        return most
    return wanted


def quiet_the_collector() -> None:
    """What start-up made stays; and the loop makes no cycles, so looking for them seldom is enough."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
