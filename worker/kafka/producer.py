"""Results, error answers and dead letters out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping

from confluent_kafka import KafkaException, Producer

from worker.deadline import Deadline
from worker.kafka.connection import Connection
from worker.sections import ClientValue, KafkaSettings

log = logging.getLogger(__name__)

PRODUCER = "producer"  # its name in the log and the metrics
BATCH_BYTES = 1_000_000  # librdkafka's own default
DEFAULTS = {
    "enable.idempotence": True,
    "linger.ms": 1,
    "partitioner": "murmur2_random",  # the Java client's: equal keys meet whoever produced them
    "queue.buffering.max.kbytes": 24 * 1024,
    "queue.buffering.max.messages": 500_000,
    "message.max.bytes": 16 * 1024 * 1024,
    "batch.num.messages": 10_000,
}
SMALLER = 4  # by how much batches shrink at a time


class ResultProducer:
    """Owns the confluent_kafka.Producer. One thread calls it."""

    def __init__(
        self, settings: KafkaSettings, connection: Connection, mode: Mapping[str, ClientValue] | None = None
    ) -> None:
        """Args:
        settings: where, and the user's own keys.
        connection: opens the client.
        mode: defaults of the delivery mode, beside the ones for all.
        """
        self._connection = connection
        self._settings = settings
        self._defaults = {**DEFAULTS, **(mode or {})}
        self._batch_bytes = int(settings.producer.get("batch.size", settings.client.get("batch.size", BATCH_BYTES)))
        self._forced: dict[str, ClientValue] = {}
        self.partitions: Mapping[str, int] = {}  # topic -> number of them, of those that check() saw
        self._adopt(self._open())

    def renew(self, *, is_stuck: bool = False) -> None:
        """Put a new client in the place of the old one, and forget what that one still had.

        Args:
            is_stuck: a call of the old one does not return; another one would not either.
        """
        old = self.client
        self._adopt(self._open())
        if not is_stuck:
            _drop(old, 0)

    @property
    def is_lost(self) -> bool:
        """Whether the client will never reach the cluster again; known when poll() has brought what it reports."""
        return PRODUCER in self._connection.lost

    def is_alone(self, size: int) -> bool:
        """Whether a message of so many bytes fills a batch, so that the broker means it and no other."""
        return size > self._batch_bytes or self._batch_bytes <= 1

    def shrink_batches(self) -> None:
        """Let the next client, see renew(), make batches of a quarter of the size.

        A topic refuses batches above its max.message.bytes, whatever is in them.
        """
        self._batch_bytes //= SMALLER
        self._forced = {"batch.size": max(1, self._batch_bytes)}
        log.warning(
            "a topic refused a batch of answers for its size: batches are %d bytes from here on; to start so, set "
            "batch.size in kafka.producer to what the topics take (max.message.bytes)",
            self._batch_bytes,
        )

    def check(self, read: list[str], written: list[str]) -> None:
        """Wait for the cluster and see that all topics are there.

        Raises:
            KafkaRefused: no broker, no login, or a topic is missing.
        """
        self.partitions = self._connection.check(self.client, read, written)

    def poll(self, timeout_s: float) -> None:
        """Run delivery callbacks; waits up to timeout_s for the first one."""
        self.client.poll(timeout_s)

    @property
    def queued(self) -> int:
        """Messages that the broker has not acknowledged."""
        return len(self.client)

    def close(self) -> None:
        """Drop what is still queued: it is not committed, so a successor will publish it."""
        _drop(self.client, 0.5)

    def _adopt(self, client: Producer) -> None:
        self.client = client
        self.produce = client.produce  # one look-up less for every record

    def _open(self) -> Producer:
        is_replaceable = "transactional.id" in self._defaults
        own = {**self._settings.producer, **self._forced}
        return self._connection.open_client(Producer, PRODUCER, self._defaults, own, is_replaceable=is_replaceable)


def _drop(client: Producer, timeout_s: float) -> None:
    """Forget what a client still has to send; wait so long for what is on its way.

    A client that was fenced may learn that here. poll() returns with that error, and reports deliveries the next time;
    flush() would run their callbacks with the error already set, and raise what no `except` catches.
    """
    deadline = Deadline(timeout_s)
    with contextlib.suppress(KafkaException):
        client.purge(in_queue=True, in_flight=False, blocking=False)
    while True:
        with contextlib.suppress(KafkaException):
            client.poll(deadline.left_s)
        if deadline.is_over or not len(client):
            return
