"""A Kafka broker inside this process, for the demo and for trying things out."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException, Producer

from worker.errors import KafkaRefused

# A fetch from this broker returns when its wait is over, not when a record arrives: keep consumers' waits short.
CONSUMER_SETTINGS = {"fetch.wait.max.ms": 2}
# Its classic group protocol waits 3 s for more members before it hands out partitions; the newer one does not.
GROUP_SETTINGS = {"group.protocol": "consumer"}


class EmbeddedBroker:
    """One broker on a free port of 127.0.0.1 (librdkafka's mock cluster), open to other processes; a context manager.

    It keeps about the last 5 MB of each partition, knows no offsets inside transactions and fences nobody: bound what
    is outstanding, and conclude nothing about delivery from it. Topics appear with their first use, in four partitions.
    """

    def __init__(self, *topics: str, timeout_s: float = 10.0) -> None:
        """Start, with these topics.

        Raises:
            KafkaRefused: it did not come up within `timeout_s`.
        """
        self._host: Producer | None = Producer(
            {
                "bootstrap.servers": "",
                "test.mock.num.brokers": 1,
                "log_level": 2,
            }  # else it announces itself as a warning
        )
        try:
            brokers = self._host.list_topics(timeout=timeout_s).brokers
        except KafkaException as error:
            raise KafkaRefused(f"the embedded broker did not start: {error.args[0].str()}") from error
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers.values())
        self._timeout_s = timeout_s
        self.create(*topics)

    def create(self, *topics: str) -> None:
        """Create topics; those that exist already stay as they are."""
        for topic in topics:
            if self._host is not None:
                self._host.list_topics(topic, timeout=self._timeout_s)  # asking for a topic creates it

    def close(self) -> None:
        """Stop; its topics are gone. Idempotent."""
        self._host = None  # the cluster lives as long as the client that hosts it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
