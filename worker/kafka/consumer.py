"""A member of the consumer group: records in, offsets out, partitions coming and going."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.errors import KafkaRefused
from worker.kafka.connection import Connection
from worker.kafka.ledger import Entry, PartitionLedger, Reports
from worker.sections import ClientValue, KafkaSettings

log = logging.getLogger(__name__)

Place = tuple[str, int]  # (topic, partition)

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
}
CLASSIC_ONLY = ("partition.assignment.strategy",)  # librdkafka refuses them with group.protocol: consumer
SEEK_TIMEOUT_S = 5.0
MANY_BYTES = 32 << 20  # of records that wait for the answer to a commit


class GroupConsumer:
    """Owns the confluent_kafka.Consumer and one ledger per assigned partition. One thread calls it."""

    def __init__(
        self,
        settings: KafkaSettings,
        connection: Connection,
        reports: Reports,
        forced: Mapping[str, ClientValue] | None = None,
    ) -> None:
        """Args:
        settings: where, and the user's own keys.
        connection: opens the client.
        reports: where the ledgers' messages are reported.
        forced: keys of the delivery mode, over the user's.
        """
        own = {**settings.client, **settings.consumer}
        defaults = dict(DEFAULTS)
        if own.get("group.protocol") == "consumer":
            defaults = {key: value for key, value in DEFAULTS.items() if key not in CLASSIC_ONLY}
        always = {
            "group.id": settings.group_id,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "on_commit": self._on_commit,
            **(forced or {}),
        }
        self._connection = connection
        self._client = connection.open_client(Consumer, "consumer", defaults, {**settings.consumer, **always})
        self._topics = list(settings.input_topics)
        self._is_held = False
        self._is_mixed = False  # held, and partitions came after that, which are not
        self._answered: list[bool] = []  # how the commits went since somebody waits for one
        self.is_fetching = False  # rebalance callbacks run inside fetch()
        self._committed: dict[Place, tuple[int, str]] = {}  # what was last sent to be committed: offset, metadata
        self.in_flight = 0  # entries of all ledgers that are not settled
        self._reports = reports
        self.ledgers: dict[Place, PartitionLedger] = {}
        self.waiting: deque[Message] = deque()  # read, and not yet in a ledger
        self.on_assign: Callable[[frozenset[Place]], None] = lambda _places: None
        self.on_revoke: Callable[[frozenset[Place]], None] = lambda _places: None  # before they are forgotten
        self.on_forget: Callable[[frozenset[Place]], None] = lambda _places: None  # revoked or lost
        self.on_rebalance: Callable[[str], None] = lambda _kind: None  # assign, revoke or lost
        self.on_commit: Callable[[str], None] = lambda _outcome: None  # ok or failed
        self.metadata_of: Callable[[Place], str] = lambda _place: ""  # what a commit says besides the offset

    def subscribe(self) -> None:
        """Join the group; partitions arrive through fetch()."""
        self._client.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def fetch(self, max_records: int, timeout_s: float) -> list[Message]:
        """Up to max_records new records, for admit(); waits up to timeout_s for the first one.

        Raises:
            KafkaRefused: the cluster will not have us.
        """
        messages: Sequence[Message] = ()
        self.is_fetching = True  # what is in this method's hands is behind the position, and in no ledger
        try:
            if timeout_s > 0 and (first := self._client.poll(timeout_s)) is not None:
                messages = [first, *self._client.consume(max_records - 1, 0)] if max_records > 1 else [first]
            elif timeout_s <= 0:
                messages = self._client.consume(max_records, 0)
        finally:
            self.is_fetching = False
        self._connection.raise_refusal()
        return list(messages)

    def admit(self, messages: Iterable[Message]) -> list[Entry]:
        """Put fetched records into the ledgers of their partitions; drop those that were handed over meanwhile."""
        entries = list[Entry]()
        topic, partition, ledger = None, None, None
        for message in messages:
            if (error := message.error()) is not None:
                self.failed(error)
                continue
            if message.partition() != partition or message.topic() != topic:  # they come in long runs
                topic, partition = message.topic(), message.partition()
                ledger = self.ledgers.get((topic, partition))  # type: ignore[arg-type]  # consumed: never None
            if ledger is not None:
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
        if is_held == self._is_held and not (is_held and self._is_mixed):
            return
        self._is_held, self._is_mixed = is_held, False
        partitions = self._client.assignment()
        if is_held:
            self._client.pause(partitions)
        else:
            self._client.resume(partitions)

    @property
    def is_held(self) -> bool:
        return self._is_held

    def due(self, places: frozenset[Place] | None = None) -> list[TopicPartition]:
        """Offsets, with their metadata, that are settled and were not sent to be committed before."""
        found = []
        for place, ledger in self.ledgers.items():
            if places is not None and place not in places:
                continue
            offset = self._committable(ledger)
            if offset is None:
                continue
            metadata = self.metadata_of(place)
            if self._committed.get(place) != (offset, metadata):
                found.append(TopicPartition(*place, offset, metadata=metadata))
        return found

    def commit(self, *, wait: bool = False, places: frozenset[Place] | None = None) -> bool:
        """Commit what is due.

        Args:
            wait: return only when the broker has answered; else the answer goes to on_commit.
            places: only these partitions; None for all.

        Returns:
            False where it is known to have failed; it is due again then.
        """
        offsets = self.due(places)
        if not offsets:
            return True
        self.note(offsets)
        try:
            if wait:
                answered = self._client.commit(offsets=offsets, asynchronous=False)
                return self._on_commit(None, answered or [])
            self._client.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            return self._on_commit(error.args[0], offsets)
        return True

    def commit_within(self, timeout_s: float) -> bool:
        """Commit what is due, and wait so long for the broker's answer; the client's own wait knows no deadline.

        Records that arrive meanwhile are left in `waiting`; when they are many bytes, the partitions are paused.
        """
        self._answered.clear()
        if not self.due():
            return True
        if not self.commit():
            return False
        give_up_s = time.monotonic() + timeout_s
        was_held, kept_bytes = self._is_held, 0
        while not self._answered and time.monotonic() < give_up_s:
            messages = self.fetch(1, 0.01)
            self.keep(messages)
            kept_bytes += sum(len(message.value() or b"") for message in messages)
            if kept_bytes > MANY_BYTES:
                self.hold(True)
        self.hold(was_held)
        return bool(self._answered) and self._answered[-1]

    def keep(self, messages: Iterable[Message]) -> None:
        """Put fetched records into `waiting`, for later."""
        for message in messages:
            if (error := message.error()) is not None:
                self.failed(error)
            else:
                self.waiting.append(message)

    def note(self, offsets: Iterable[TopicPartition]) -> None:
        """These are committed, or sent to be: they are not due again."""
        for each in offsets:
            self._committed[(each.topic, each.partition)] = (each.offset, each.metadata or "")

    def noted(self, places: Iterable[Place]) -> list[TopicPartition]:
        """The last commits of these partitions again, where their metadata should be other by now."""
        found = []
        for place in places:
            offset, metadata = self._committed.get(place, (None, ""))
            if offset is not None and (now := self.metadata_of(place)) != metadata:
                found.append(TopicPartition(*place, offset, metadata=now))
        return found

    def is_noted(self, place: Place) -> bool:
        """Whether a commit of this partition was made, or read."""
        return place in self._committed

    def reach(self, place: Place) -> int | None:
        """How many records were taken in behind the last commit; None where none is known."""
        ledger, (offset, _) = self.ledgers.get(place), self._committed.get(place, (None, ""))
        if ledger is None or offset is None:
            return None
        return 0 if ledger.start is None else max(0, ledger.start + len(ledger) - offset)

    def committed(self, places: Iterable[Place], timeout_s: float) -> list[TopicPartition]:
        """Offsets and metadata that the group has committed; with read_committed it waits for open transactions.

        Raises:
            KafkaException: no answer, or not for every partition.
        """
        answered = self._client.committed([TopicPartition(*place) for place in places], timeout=timeout_s)
        for each in answered:
            if each.error is not None:
                raise KafkaException(each.error)
        return answered

    def group_metadata(self) -> object | None:
        """Who we are, for send_offsets_to_transaction; None while we are no member.

        An expelled client's metadata has no member id, and the broker takes a transaction's offsets from such a one
        without a look at the generation.
        """
        metadata = self._client.consumer_group_metadata()
        member = self._client.memberid()
        return metadata if member and member.encode() in metadata else None

    def forget_work(self) -> dict[Place, int]:
        """Start all ledgers anew, after an abort.

        Returns:
            Where each partition's unsettled work began, for those that had any.
        """
        starts = {}
        for place, ledger in self.ledgers.items():
            if ledger.start is not None:
                starts[place] = ledger.start
            self._renew(place)
        for message in self.waiting:
            starts.setdefault((message.topic() or "", message.partition() or 0), message.offset() or 0)
        self.waiting.clear()
        return starts

    def rewind(self, starts: Mapping[Place, int]) -> None:
        """Go on reading at these offsets; partitions that are no longer ours are left out.

        Raises:
            KafkaRefused: the client would not.
        """
        for place, offset in starts.items():
            if place not in self.ledgers:
                continue
            give_up_s = time.monotonic() + SEEK_TIMEOUT_S
            while True:
                try:
                    self._client.seek(TopicPartition(*place, offset))
                    break
                except KafkaException as error:
                    if time.monotonic() > give_up_s:
                        raise KafkaRefused(
                            f"cannot go back to {place[0]}/{place[1]}/{offset}: {error.args[0].str()}"
                        ) from error
                time.sleep(0.05)

    def close(self) -> None:
        """Leave the group; what is not committed goes to the successor."""
        self._client.close()

    def position(self, ledger: PartitionLedger, settled: int | None) -> int | None:
        """`settled`, or the place behind the control records that follow it, where nothing else was read."""
        if self.is_fetching:
            return settled
        for message in self.waiting:
            if message.partition() == ledger.partition and message.topic() == ledger.topic:
                return message.offset()
        (here,) = self._client.position([TopicPartition(ledger.topic, ledger.partition)])
        return settled if here.offset < 0 else max(here.offset, settled or 0)

    def _committable(self, ledger: PartitionLedger) -> int | None:
        """Where a successor would start. With nothing in flight that is the position, behind control records too."""
        if len(ledger):
            return ledger.start
        return self.position(ledger, ledger.next_offset)

    def failed(self, error: KafkaError) -> None:
        """Judge what the client gave in place of a record.

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
        if self._connection.refuse(error):
            self._connection.raise_refusal()
        log.warning("kafka consumer: %s", error.str())

    def _assigned(self, _client: Consumer, partitions: list[TopicPartition]) -> None:
        places = frozenset((partition.topic, partition.partition) for partition in partitions)
        for place in places:
            self._renew(place)
        self._is_mixed = self._is_held  # the pipeline holds all of them again if it still must
        self.on_assign(places)
        self.on_rebalance("assign")
        log.info("assigned %s", _named(partitions))

    def _revoked(self, _client: Consumer, partitions: list[TopicPartition]) -> None:
        places = frozenset((partition.topic, partition.partition) for partition in partitions)
        self.on_revoke(places)
        self._forget(places)
        self.on_rebalance("revoke")
        log.info("revoked %s", _named(partitions))

    def _lost(self, _client: Consumer, partitions: list[TopicPartition]) -> None:
        """The group went on without us: whatever is in flight is somebody else's now."""
        self._forget(frozenset((partition.topic, partition.partition) for partition in partitions))
        self.on_rebalance("lost")
        log.warning("lost %s; their records will be answered by another member", _named(partitions))

    def _renew(self, place: Place) -> None:
        if (old := self.ledgers.get(place)) is not None:
            old.is_revoked = True
            self.in_flight -= len(old)
        self.ledgers[place] = PartitionLedger(*place, self._reports)

    def _forget(self, places: frozenset[Place]) -> None:
        if self._is_held:  # a pause outlives the assignment: a partition that came back would never be read
            with contextlib.suppress(KafkaException):
                self._client.resume([TopicPartition(*place) for place in places])
        for place in places:
            self._committed.pop(place, None)
            if (ledger := self.ledgers.pop(place, None)) is not None:
                ledger.is_revoked = True
                self.in_flight -= len(ledger)
        self.waiting = deque(
            message for message in self.waiting if (message.topic(), message.partition()) not in places
        )
        self.on_forget(places)

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> bool:
        failed = [partition for partition in partitions if error is not None or partition.error is not None]
        for partition in failed:
            self._committed.pop((partition.topic, partition.partition), None)  # due again at the next commit
        if failed:
            cause = error or failed[0].error
            if cause is not None:
                self._connection.refuse(cause)  # a right that was taken away: the next fetch ends the process
            reason = error.str() if error is not None else str(failed[0].error)
            log.warning("commit of %s failed, will be tried again: %s", _named(failed), reason)
        is_ok = not failed and error is None
        self._answered = [is_ok]
        self.on_commit("ok" if is_ok else "failed")
        return is_ok


def _named(partitions: Sequence[TopicPartition]) -> str:
    return ", ".join(f"{partition.topic}/{partition.partition}" for partition in partitions) or "nothing"
