"""The settings of a consumer group's member: what the worker prefers, what users may change, what they may not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer

from worker.kafka.connection import Connection
from worker.sections import KafkaSettings

CONSUMER = "consumer"  # its name in the log and the metrics
DEFAULTS = {
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",
    "fetch.wait.max.ms": 100,
    "fetch.error.backoff.ms": 50,
    "fetch.queue.backoff.ms": 5,  # how long a full queue waits before it fetches again; librdkafka's default: a second
    "queued.max.messages.kbytes": 16 * 1024,
    "fetch.max.bytes": 8 * 1024 * 1024,
    "max.partition.fetch.bytes": 4 * 1024 * 1024,
    "topic.metadata.refresh.interval.ms": 60_000,
    "heartbeat.interval.ms": 500,  # with its next heartbeat a member hears of a rebalance; the others wait for it
}
# librdkafka refuses these with group.protocol: consumer
CLASSIC_ONLY = ("partition.assignment.strategy", "heartbeat.interval.ms")


def open_group_client(settings: KafkaSettings, connection: Connection, forced: Mapping[str, Any]) -> Consumer:
    """A consumer that commits only when it is told to.

    Args:
        settings: where, which group, and the user's own keys.
        connection: opens the client.
        forced: keys of the delivery mode and callbacks, over the user's.

    Raises:
        ConfigError: librdkafka does not know a key or refuses a value.
    """
    own = {**settings.client, **settings.consumer}
    is_classic = own.get("group.protocol") != "consumer"
    defaults = {key: value for key, value in DEFAULTS.items() if is_classic or key not in CLASSIC_ONLY}
    always = {"group.id": settings.group_id, "enable.auto.commit": False, "enable.auto.offset.store": False, **forced}
    return connection.open_client(Consumer, CONSUMER, defaults, {**settings.consumer, **always})
