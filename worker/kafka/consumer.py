"""A member of the consumer group: records in, offsets out, partitions coming and going."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from worker.kafka.connection import Connection
from worker.kafka.early_records import EarlyRecords
from worker.kafka.group_client import open_group_client
from worker.kafka.leaving import close_within
from worker.kafka.ledger import Entry, PartitionLedger, Place, Reports, named, place_of, places_of
from worker.kafka.offsets import Offsets
from worker.sections import ClientValue, KafkaSettings

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 10.0
Callback = Callable[[object, list[TopicPartition]], None]
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
        self._settings = settings
        self._connection = connection
        self._forced = forced or {}
        self._number = 0  # of the present client
        self._client = self._open()
        self.is_held = False  # see hold()
        self._is_mixed = False  # held, and partitions came after that, which are not
        self._answered: list[bool] = []  # how the commits went since somebody waits for one
        self.in_flight = 0  # entries of all ledgers that are not settled
        self._reports = reports
        self.ledgers: dict[Place, PartitionLedger] = {}
        self.waiting: deque[Message] = deque()  # read, and not yet in a ledger; always the same one
        self.early = EarlyRecords()  # read, and not yet in a ledger, because their partition is closed
        self.offsets = Offsets(self._client, self.ledgers, self.waiting, self.early)
        self.on_assign: Callable[[frozenset[Place]], None] = lambda _places: None
        self.on_revoke: Callable[[frozenset[Place]], None] = lambda _places: None  # before they are forgotten
        self.on_forget: Callable[[frozenset[Place]], None] = lambda _places: None  # revoked or lost
        self.on_admit: Callable[[PartitionLedger, int], None] = lambda _ledger, _count: None
        self.on_rebalance: Callable[[str], None] = lambda _kind: None  # assign, revoke or lost
        self.on_commit: Callable[[str], None] = lambda _outcome: None  # ok or failed
        self.on_committed: Callable[[Iterable[Place]], None] = lambda _places: None  # the broker has answered

    def subscribe(self) -> None:
        """Join the group; partitions arrive through fetch()."""
        topics = list(self._settings.input_topics)
        on_assign, on_revoke, on_lost = map(self._ours, (self._assigned, self._revoked, self._lost))
        self._client.subscribe(topics, on_assign=on_assign, on_revoke=on_revoke, on_lost=on_lost)

    def rejoin(self) -> None:
        """Join the group anew, with another client; what the old one had is lost. Not inside of fetch()."""
        self._lost(None, [TopicPartition(*place) for place in self.ledgers])
        self._number += 1
        old, self._client = self._client, self._open()
        self.offsets.adopt(self._client)
        self.subscribe()
        close_within(0, [old])

    def fetch(self, max_records: int, timeout_s: float) -> list[Message]:
        """Up to max_records new records, for admit(); waits up to timeout_s for the first one.

        Raises:
            KafkaRefused: the cluster will not have us.
        """
        messages: Sequence[Message] = ()
        self.offsets.is_reading = True
        try:
            if timeout_s > 0 and (first := self._client.poll(timeout_s)) is not None:
                messages = [first, *self._client.consume(max_records - 1, 0)] if max_records > 1 else [first]
            elif timeout_s <= 0:
                messages = self._client.consume(max_records, 0)
        finally:
            self.offsets.is_reading = False
        self._connection.raise_refusal()
        return list(messages)

    def admit(self, messages: Iterable[Message], closed: Container[Place] = ()) -> list[Entry]:
        """Put fetched records into the ledgers of their partitions; drop those that were handed over meanwhile.

        Those of closed partitions are kept in `early`.
        """
        entries, run = list[Entry](), list[Message]()
        topic, partition = "", 0
        for message in messages:
            if (error := message.error()) is not None:
                self._connection.judge(error)
                continue
            if message.partition() != partition or message.topic() != topic:  # they come in long runs
                entries += self._admit_run((topic, partition), run, closed)
                (topic, partition), run = place_of(message), []
            run.append(message)
        entries += self._admit_run((topic, partition), run, closed)
        self.in_flight += len(entries)
        return entries

    def _admit_run(self, place: Place, run: list[Message], closed: Container[Place]) -> list[Entry]:
        ledger = self.ledgers.get(place)
        if ledger is None or not run:
            return []
        if place in closed:
            self.early.add(place, run)
            return []
        entries = ledger.admit(run)  # type: ignore[arg-type]  # see records.Record
        self.on_admit(ledger, len(entries))
        return entries

    def settle(self, ledgers: Iterable[PartitionLedger]) -> None:
        """Close the accounts that these ledgers can close; they become due to be committed."""
        for ledger in ledgers:
            if not ledger.is_revoked:
                self.in_flight -= ledger.settle()

    def hold(self, is_held: bool) -> None:
        """Pause or resume every assigned partition. What the client had fetched ahead is fetched again on resume."""
        if is_held == self.is_held and not (is_held and self._is_mixed):
            return
        self.is_held, self._is_mixed = is_held, False
        partitions = self._client.assignment()
        if is_held:
            self._client.pause(partitions)
        else:
            self._client.resume(partitions)

    def commit(self, *, wait: bool = False, places: frozenset[Place] | None = None) -> bool:
        """Commit what is due.

        Args:
            wait: return only when the broker has answered; else the answer goes to on_commit.
            places: only these partitions; None for all.

        Returns:
            False where it is known to have failed; it is due again then.
        """
        offsets = self.offsets.due(places)
        if not offsets:
            return True
        self.offsets.note(offsets)
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
        if not self.offsets.due():
            return True
        if not self.commit():
            return False
        give_up_s = time.monotonic() + timeout_s
        was_held, kept_bytes = self.is_held, 0
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
                self._connection.judge(error)
            else:
                self.waiting.append(message)

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
        for message in (*self.early.take_all(), *self.waiting):
            starts.setdefault(place_of(message), message.offset() or 0)
        self.waiting.clear()
        return starts

    def close(self) -> None:
        """Leave the group; what is not committed goes to the successor."""
        if not close_within(CLOSE_TIMEOUT_S, [self._client]):
            log.warning("the group does not let us go in %g s; it will miss us", CLOSE_TIMEOUT_S)

    def _open(self) -> Consumer:
        forced = {"on_commit": self._ours(self._on_commit), **self._forced}
        return open_group_client(self._settings, self._connection, forced)

    def _ours(self, call: Callable[[Any, list[TopicPartition]], object]) -> Callback:
        """Heard only from the present client: one that was replaced calls from another thread."""
        number = self._number

        def hear(told: object, partitions: list[TopicPartition]) -> None:
            if number == self._number:
                call(told, partitions)

        return hear

    def _assigned(self, _client: object, partitions: list[TopicPartition]) -> None:
        places = places_of(partitions)
        for place in places:
            self._renew(place)
        self._is_mixed = self.is_held  # the pipeline holds all of them again if it still must
        self.on_assign(places)
        self.on_rebalance("assign")
        log.info("assigned %s", named(partitions))

    def _revoked(self, _client: object, partitions: list[TopicPartition]) -> None:
        self.on_revoke(places := places_of(partitions))
        self._forget(places)
        self.on_rebalance("revoke")
        log.info("revoked %s", named(partitions))

    def _lost(self, _client: object, partitions: list[TopicPartition]) -> None:
        """The group goes on without us: whatever is in flight is somebody else's now."""
        self._forget(places_of(partitions))
        self.on_rebalance("lost")
        log.warning("lost %s; their records will be answered by another member", named(partitions))

    def _renew(self, place: Place) -> None:
        if (old := self.ledgers.get(place)) is not None:
            old.is_revoked = True
            self.in_flight -= len(old)
        self.ledgers[place] = PartitionLedger(*place, self._reports)

    def _forget(self, places: frozenset[Place]) -> None:
        if self.is_held:  # a pause outlives the assignment: a partition that came back would never be read
            with contextlib.suppress(KafkaException):
                self._client.resume([TopicPartition(*place) for place in places])
        self.offsets.forget(places)
        self.early.forget(places)
        for place in places:
            if (ledger := self.ledgers.pop(place, None)) is not None:
                ledger.is_revoked = True
                self.in_flight -= len(ledger)
        kept = [message for message in self.waiting if place_of(message) not in places]
        self.waiting.clear()
        self.waiting.extend(kept)
        self.on_forget(places)

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> bool:
        failed = [partition for partition in partitions if error is not None or partition.error is not None]
        self.offsets.forget(places_of(failed))  # due again at the next commit
        if failed:
            cause = error or failed[0].error
            if cause is not None:
                self._connection.refuse(cause)  # a right that was taken away: the next fetch ends the process
            reason = error.str() if error is not None else str(failed[0].error)
            log.warning("commit of %s failed, will be tried again: %s", named(failed), reason)
        is_ok = not failed and error is None
        self._answered = [is_ok]
        self.on_committed(places_of(partitions))
        self.on_commit("ok" if is_ok else "failed")
        return is_ok
