"""A member of the consumer group: records in, offsets out, partitions coming and going."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.errors import KafkaRefused
from worker.kafka.connection import Connection
from worker.kafka.ledger import Entry, PartitionLedger, Reports
from worker.sections import KafkaSettings

log = logging.getLogger(__name__)

Place = tuple[str, int]  # (topic, partition)

DEFAULTS = {
    "auto.offset.reset": "earliest",
    "partition.assignment.strategy": "cooperative-sticky",
    "fetch.wait.max.ms": 100,
    "fetch.error.backoff.ms": 50,
    "queued.max.messages.kbytes": 16 * 1024,
    "fetch.max.bytes": 8 * 1024 * 1024,
    "max.partition.fetch.bytes": 4 * 1024 * 1024,
    "topic.metadata.refresh.interval.ms": 60_000,
}
CLASSIC_ONLY = ("partition.assignment.strategy",)  # librdkafka refuses them with group.protocol: consumer


class GroupConsumer:
    """Owns the confluent_kafka.Consumer and one ledger per assigned partition. One thread calls it."""

    def __init__(self, settings: KafkaSettings, connection: Connection) -> None:
        own = {**settings.client, **settings.consumer}
        defaults = dict(DEFAULTS)
        if own.get("group.protocol") == "consumer":
            defaults = {key: value for key, value in DEFAULTS.items() if key not in CLASSIC_ONLY}
        forced = {
            "group.id": settings.group_id,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "on_commit": self._on_commit,
        }
        self._connection = connection
        self._client = connection.open_client(Consumer, "consumer", defaults, {**settings.consumer, **forced})
        self._topics = list(settings.input_topics)
        self._is_held = False
        self._committed: dict[Place, int] = {}  # what was last sent to be committed
        self.in_flight = 0  # entries of all ledgers that are not settled
        self.reports = Reports()
        self.ledgers: dict[Place, PartitionLedger] = {}
        self.on_revoke: Callable[[frozenset[Place]], None] = lambda _places: None
        self.on_rebalance: Callable[[str], None] = lambda _kind: None  # assign, revoke or lost
        self.on_commit: Callable[[str], None] = lambda _outcome: None  # ok or failed

    def subscribe(self) -> None:
        """Join the group; partitions arrive through take()."""
        self._client.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def take(self, max_records: int, timeout_s: float) -> list[Entry]:
        """Up to max_records new records, each in its ledger; waits up to timeout_s for the first one.

        Raises:
            KafkaRefused: the cluster will not have us.
        """
        messages: Sequence[Message] = ()
        if timeout_s > 0 and (first := self._client.poll(timeout_s)) is not None:
            messages = [first, *self._client.consume(max_records - 1, 0)] if max_records > 1 else [first]
        elif timeout_s <= 0:
            messages = self._client.consume(max_records, 0)
        self._connection.raise_refusal()
        entries = []
        ledgers = self.ledgers
        for message in messages:
            if (error := message.error()) is not None:
                self._failed(error)
                continue
            ledger = ledgers.get((message.topic(), message.partition()))  # type: ignore[arg-type]  # consumed: never None
            if ledger is not None:  # else handed over while this very call ran
                entries.append(ledger.admit(message))  # type: ignore[arg-type]  # see records.Record
        self.in_flight += len(entries)
        return entries

    def settle(self, ledgers: Iterable[PartitionLedger]) -> None:
        """Close the accounts that these ledgers can close; they become due to be committed."""
        for ledger in ledgers:
            if not ledger.is_revoked:
                self.in_flight -= ledger.settle()

    def hold(self, is_held: bool) -> None:
        """Pause or resume every assigned partition. What the client had fetched ahead is fetched again on resume."""
        if is_held == self._is_held:
            return
        self._is_held = is_held
        partitions = self._client.assignment()
        if is_held:
            self._client.pause(partitions)
        else:
            self._client.resume(partitions)

    @property
    def is_held(self) -> bool:
        return self._is_held

    def commit(self, *, wait: bool = False, places: frozenset[Place] | None = None) -> None:
        """Commit what is settled and was not committed before.

        Args:
            wait: return only when the broker has answered; else the answer goes to on_commit.
            places: only these partitions; None for all.
        """
        offsets = []
        for place, ledger in self.ledgers.items():
            if places is not None and place not in places:
                continue
            offset = self._committable(ledger)
            if offset is not None and offset != self._committed.get(place):
                offsets.append(TopicPartition(*place, offset))
        if not offsets:
            return
        for partition in offsets:
            self._committed[(partition.topic, partition.partition)] = partition.offset
        try:
            if wait:
                answered = self._client.commit(offsets=offsets, asynchronous=False)
                self._on_commit(None, answered or [])
            else:
                self._client.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], offsets)

    def close(self) -> None:
        """Leave the group; what is not committed goes to the successor."""
        self._client.close()

    def _committable(self, ledger: PartitionLedger) -> int | None:
        """Where a successor would start. With nothing in flight that is the position, behind control records too."""
        if len(ledger):
            return ledger.next_offset
        (here,) = self._client.position([TopicPartition(ledger.topic, ledger.partition)])
        if here.offset < 0:
            return ledger.next_offset
        return max(here.offset, ledger.next_offset or 0)

    def _failed(self, error: KafkaError) -> None:
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            return
        if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            raise KafkaRefused(f"an input topic is gone: {error.str()}; create it and start again")
        if code == KafkaError._AUTO_OFFSET_RESET:
            raise KafkaRefused(f"the committed offset is gone and auto.offset.reset is error: {error.str()}")
        if self._connection.refuse(error):
            self._connection.raise_refusal()
        log.warning("kafka consumer: %s", error.str())

    def _assigned(self, _client: Consumer, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            self.ledgers[(partition.topic, partition.partition)] = PartitionLedger(
                partition.topic, partition.partition, self.reports
            )
        if self._is_held:
            self._is_held = False  # the new ones run: the pipeline holds all of them again if it still must
        self.on_rebalance("assign")
        log.info("assigned %s", _named(partitions))

    def _revoked(self, _client: Consumer, partitions: list[TopicPartition]) -> None:
        places = frozenset((partition.topic, partition.partition) for partition in partitions)
        self.on_revoke(places)
        self.commit(wait=True, places=places)
        self._forget(places)
        self.on_rebalance("revoke")
        log.info("revoked %s", _named(partitions))

    def _lost(self, _client: Consumer, partitions: list[TopicPartition]) -> None:
        """The group went on without us: whatever is in flight is somebody else's now."""
        self._forget(frozenset((partition.topic, partition.partition) for partition in partitions))
        self.on_rebalance("lost")
        log.warning("lost %s; their records will be answered by another member", _named(partitions))

    def _forget(self, places: frozenset[Place]) -> None:
        for place in places:
            self._committed.pop(place, None)
            if (ledger := self.ledgers.pop(place, None)) is not None:
                ledger.is_revoked = True
                self.in_flight -= len(ledger)

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        failed = [partition for partition in partitions if error is not None or partition.error is not None]
        for partition in failed:
            self._committed.pop((partition.topic, partition.partition), None)  # due again at the next commit
        if failed:
            reason = error.str() if error is not None else str(failed[0].error)
            log.warning("commit of %s failed, will be tried again: %s", _named(failed), reason)
        self.on_commit("failed" if failed or error is not None else "ok")


def _named(partitions: Sequence[TopicPartition]) -> str:
    return ", ".join(f"{partition.topic}/{partition.partition}" for partition in partitions) or "nothing"
