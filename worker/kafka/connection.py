"""One Kafka cluster as this process knows it: client settings, troubles, and what the clients report."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, ShareConsumer

from worker.errors import ConfigError, KafkaRefused
from worker.kafka.lost_clients import LostClients
from worker.kafka.remedies import of_silence, with_remedy
from worker.logs import Repeats
from worker.sections import KafkaSettings

log = logging.getLogger(__name__)
client_log = logging.getLogger("worker.kafka.librdkafka")
for logger in (log, client_log):
    logger.addFilter(Repeats())

ClientT = TypeVar("ClientT", Consumer, Producer)
AnyClientT = TypeVar("AnyClientT", Consumer, Producer, ShareConsumer)
Listen = Callable[[str, Mapping[str, Any]], None]  # client, its statistics as librdkafka writes them

STATISTICS_INTERVAL_MS = 2000
REFUSALS = frozenset(
    (
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    )
)


class Connection:
    """Shared by the consumer and the producer of one process; their callbacks run in the thread that polls them."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._last_error = ""
        self._refusal: str | None = None
        self._was_reached = False
        self._brokers_up: dict[str, bool] = {}  # per client: whether any broker was connected at the last report
        self._opened = Counter[str]()  # per client: goes up when it is replaced
        self._lost = LostClients()
        self.on_statistics: Listen | None = None

    @property
    def is_up(self) -> bool:
        """Whether brokers were connected when the clients last reported."""
        return self._was_reached and all(self._brokers_up.values())

    @property
    def lost(self) -> frozenset[str]:
        """Clients that will never reach the cluster again; their owner opens others under the same names."""
        return self._lost.names

    def open_client(
        self,
        kind: type[ClientT],
        name: str,
        defaults: Mapping[str, Any],
        own: Mapping[str, Any],
        *,
        is_replaceable: bool = False,
    ) -> ClientT:
        """A consumer or producer of this cluster.

        Args:
            kind: Consumer or Producer.
            name: what log lines and statistics call it.
            defaults: the worker's own choice, which the user's settings override.
            own: the user's settings for this kind of client; kafka.client applies to all.
            is_replaceable: when this client breaks for good, its owner opens another; else it ends the process.

        Raises:
            ConfigError: librdkafka does not know a key or refuses a value.
        """
        error_cb = self._on_replaceable_error if is_replaceable else self._on_error
        see = "kafka.client, kafka.consumer, kafka.producer"
        return self._open(kind, name, defaults, {**own, "error_cb": error_cb}, see, self._on_statistics)

    def open_share_consumer(self, name: str, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> ShareConsumer:
        """A member of a share group that acknowledges each record.

        Raises:
            ConfigError: librdkafka does not know a key or refuses a value.
        """
        forced = {"share.acknowledgement.mode": "explicit", "error_cb": self._on_error}
        see = "kafka.client and kafka.consumer"
        return self._open(ShareConsumer, name, defaults, {**own, **forced}, see, lambda _name, _report: None)

    def _open(
        self,
        kind: type[AnyClientT],
        name: str,
        defaults: Mapping[str, Any],
        own: Mapping[str, Any],
        see: str,
        listen: Listen,
    ) -> AnyClientT:
        """Args:
        see: the sections of the settings that may hold what librdkafka refuses.
        listen: gets its statistics.
        """
        self.retire(name)
        number = self._opened[name]

        def on_statistics(text: str) -> None:
            if number == self._opened[name]:  # else it was replaced
                report = msgspec.json.decode(text)
                self._lost.note(name, report)
                listen(name, report)

        config = {
            "client.id": f"trt-worker-{name}",
            "statistics.interval.ms": STATISTICS_INTERVAL_MS,
            **defaults,
            **self._settings.client,
            **own,
            "bootstrap.servers": self._settings.bootstrap_servers,
            "stats_cb": on_statistics,
        }
        try:
            return kind(config, logger=client_log)
        except KafkaException as error:
            raise ConfigError(f"librdkafka refuses the {name}'s settings: {error.args[0].str()}; see {see}") from error

    def retire(self, name: str) -> None:
        """Hear no more of what this client reports; opening another one of its name does that, too."""
        self._opened[name] += 1
        self._lost.forget(name)

    def check(self, client: Producer, read: Iterable[str], written: Iterable[str] = ()) -> dict[str, int]:
        """Wait for the first answer of the cluster and see that the topics are there.

        Args:
            client: any client of this cluster.
            read: topics that need the right to read; patterns (^…) are left out.
            written: topics that need the right to write.

        Returns:
            topic -> number of partitions.

        Raises:
            KafkaRefused: no broker answered in kafka.startup_timeout_s, the login was refused, or a topic is missing.
        """
        give_up_s = time.monotonic() + self._settings.startup_timeout_s
        while True:
            client.poll(0)  # runs the error callback, which sees a refused login
            self.raise_refusal()
            try:
                known = client.list_topics(timeout=1.0).topics
                break
            except KafkaException as error:
                if time.monotonic() < give_up_s:
                    client.poll(0.2)
                    continue
                client.poll(0)
                self.raise_refusal()
                reason = self._last_error or error.args[0].str()
                raise KafkaRefused(
                    f"kafka.bootstrap_servers is {self._settings.bootstrap_servers}: no broker answered in "
                    f"{self._settings.startup_timeout_s:g} s ({reason}); {of_silence(reason, self._settings)}"
                ) from error
        self._was_reached = True
        rights = {topic: "Read" for topic in read if not topic.startswith("^")} | dict.fromkeys(written, "Write")
        if missing := [topic for topic in rights if topic not in known]:
            raise KafkaRefused(
                f"topic {', '.join(missing)} does not exist on {self._settings.bootstrap_servers}, or this user may "
                f"not see it; create it, or grant {' and '.join(f'{rights[topic]} on {topic}' for topic in missing)}"
            )
        return {topic: len(known[topic].partitions) for topic in rights}

    def raise_refusal(self) -> None:
        """Raises:
        KafkaRefused: a client reported that the cluster will not have us.
        """
        if self._refusal is not None:
            raise KafkaRefused(f"{self._settings.bootstrap_servers} refused: {self._refusal}")

    def refuse(self, error: KafkaError) -> bool:
        """Note an error that no retry will mend; False where it is of another kind."""
        if error.code() in REFUSALS or error.fatal() or error.code() == KafkaError._FATAL:  # in place of a record
            self._refusal = with_remedy(error, self._settings)
            return True
        return False

    def judge(self, error: KafkaError) -> None:
        """Judge what a consumer gave in place of a record.

        Raises:
            KafkaRefused: no waiting mends it.
        """
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            return
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            raise KafkaRefused(f"an input topic is gone: {error.str()}; create it and start again")
        if code == KafkaError._AUTO_OFFSET_RESET:
            raise KafkaRefused(f"the committed offset is gone and auto.offset.reset is error: {error.str()}")
        if self.refuse(error):
            self.raise_refusal()
        log.warning("kafka consumer: %s", error.str())

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # the errors before it say why
            self._last_error = error.str()
        if not self.refuse(error):
            log.warning("kafka client: %s", error.str())

    def _on_replaceable_error(self, error: KafkaError) -> None:
        if not error.fatal():
            self._on_error(error)

    def _on_statistics(self, name: str, report: Mapping[str, Any]) -> None:
        nodes = [broker for broker in report.get("brokers", {}).values() if broker.get("nodeid", -1) >= 0]
        self._brokers_up[name] = any(broker.get("state") == "UP" for broker in nodes)
        if self.on_statistics is not None:
            self.on_statistics(name, report)
