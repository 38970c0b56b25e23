"""Results, error answers and dead letters out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker.kafka.connection import Connection
from worker.records import Headers
from worker.sections import ClientValue, KafkaSettings

DEFAULTS = {
    "enable.idempotence": True,
    "linger.ms": 1,
    "partitioner": "murmur2_random",  # the Java client's: equal keys meet whoever produced them
    "queue.buffering.max.kbytes": 24 * 1024,
    "queue.buffering.max.messages": 500_000,
    "message.max.bytes": 16 * 1024 * 1024,
    "batch.num.messages": 10_000,
}
OnDelivery = Callable[[KafkaError | None, Message], None]


class TooLarge(Exception):
    """The client itself will not send a message of this size."""


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
        self.client = self._open()
        self._partitions: dict[str, int] = {}

    def renew(self, *, is_stuck: bool = False) -> None:
        """Put a new client in the place of the old one, and forget what that one still had.

        Args:
            is_stuck: a call of the old one does not return; another one would not either.
        """
        old, self.client = self.client, self._open()
        if not is_stuck:
            _drop(old, 0)

    def check(self, read: list[str], written: list[str]) -> None:
        """Wait for the cluster and see that all topics are there.

        Raises:
            KafkaRefused: no broker, no login, or a topic is missing.
        """
        self._partitions = self._connection.check(self.client, [*read, *written])

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Headers,
        source_partition: int,
        timestamp_ms: int,
        on_delivery: OnDelivery,
    ) -> bool:
        """Hand a message to the client, which copies it and retries by itself.

        A message without a key goes to the partition that has its source's number (modulo), so that the order of one
        input partition survives.

        Returns:
            False where the client's memory is full: poll() and try again.

        Raises:
            TooLarge: bigger than the producer's message.max.bytes.
        """
        partition = source_partition % self._partitions[topic] if key is None else -1  # -1: by the key
        try:
            # by position: names would cost half a microsecond a record
            self.client.produce(topic, value, key, partition, on_delivery, None, timestamp_ms, headers)
        except BufferError:
            return False
        except KafkaException as error:
            if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                raise TooLarge from error
            raise
        return True

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

    def _open(self) -> Producer:
        is_replaceable = "transactional.id" in self._defaults
        return self._connection.open_client(
            Producer, "producer", self._defaults, self._settings.producer, is_replaceable=is_replaceable
        )


def _drop(client: Producer, timeout_s: float) -> None:
    """Forget what a client still has to send; wait so long for what is on its way."""
    with contextlib.suppress(KafkaException):  # a client that was fenced has nothing more to say
        client.purge(in_queue=True, in_flight=False, blocking=False)
        client.flush(timeout_s)
