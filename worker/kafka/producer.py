"""Results, error answers and dead letters out."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from worker.kafka.connection import Connection
from worker.records import Headers
from worker.sections import KafkaSettings

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

    def __init__(self, settings: KafkaSettings, connection: Connection) -> None:
        self._connection = connection
        self._client = connection.open_client(Producer, "producer", DEFAULTS, settings.producer)
        self._partitions: dict[str, int] = {}

    def check(self, read: list[str], written: list[str]) -> None:
        """Wait for the cluster and see that all topics are there.

        Raises:
            KafkaRefused: no broker, no login, or a topic is missing.
        """
        self._partitions = self._connection.check(self._client, [*read, *written])

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
            self._client.produce(topic, value, key, partition, on_delivery, None, timestamp_ms, headers)
        except BufferError:
            return False
        except KafkaException as error:
            if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                raise TooLarge from error
            raise
        return True

    def poll(self, timeout_s: float) -> None:
        """Run delivery callbacks; waits up to timeout_s for the first one."""
        self._client.poll(timeout_s)

    @property
    def queued(self) -> int:
        """Messages that the broker has not acknowledged."""
        return len(self._client)

    def close(self) -> None:
        """Drop what is still queued: it is not committed, so a successor will publish it."""
        self._client.purge(in_queue=True, in_flight=False, blocking=False)
        self._client.flush(0.5)
