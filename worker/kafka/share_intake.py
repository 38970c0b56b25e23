"""Members of a share group: records in, each with a lock that runs out; acknowledgements back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from confluent_kafka import AcknowledgeType, KafkaError, KafkaException, Message, ShareConsumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource

from worker.deadline import Deadline
from worker.errors import KafkaRefused
from worker.kafka.connection import Connection, client_log
from worker.kafka.leaving import close_within
from worker.kafka.ledger import Entry, PartitionLedger, Reports, Source, place_of
from worker.kafka.suspects import times
from worker.records import readable
from worker.sections import KafkaSettings

log = logging.getLogger(__name__)

SEATS = 2  # a member may not poll before all that it has is acknowledged: the other one takes in meanwhile
LOCK_S = 30.0  # Kafka's default
LOCK_SHARE = 0.7  # of the lock, after which a record is given back
ADMIN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 10.0
REMEMBERED = 100_000  # answered records whose acknowledgements failed
DEFAULTS = {"fetch.wait.max.ms": 100, "max.poll.records": 256}
NOT_HERE = frozenset((KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE, KafkaError.INVALID_REQUEST))


class Seat:
    """One member, and the records that it holds."""

    def __init__(self, name: str, client: ShareConsumer) -> None:
        self.name = name  # the client's
        self.client = client
        self.held: set[Entry] = set()
        self.give_back_s = 0.0

    def acknowledge(self, entry: Entry, how: AcknowledgeType) -> None:
        """Say what became of a record; the broker learns it with the batch's last one."""
        self.held.discard(entry)
        record = entry.record
        self.client.acknowledge_offset(record.topic(), record.partition(), record.offset(), how)
        if not self.held:
            self.client.commit_async()


class ShareIntake:
    """Owns the share consumers. One thread calls it."""

    def __init__(self, settings: KafkaSettings, connection: Connection, reports: Reports) -> None:
        self._settings = settings
        self._connection = connection
        self._lock_s = LOCK_S
        self._seats: list[Seat] = []
        self._seat_of: dict[Entry, Seat] = {}
        self._given_back: set[Source] = set()  # and the broker may not know it
        self._answered: set[Source] = set()  # and the broker may not know it: the acknowledgement failed
        self._reports = reports
        self.ledgers: dict[tuple[str, int], PartitionLedger] = {}  # only names: there is no order, and no offset
        self.is_held = False
        self.on_rebalance: Callable[[str], None] = lambda _kind: None
        self.on_commit: Callable[[str], None] = lambda _outcome: None  # ok or failed

    def subscribe(self) -> None:
        """Join the group.

        Raises:
            KafkaRefused: this cluster has no share groups.
        """
        self._prepare_group()
        self._open_seat()

    def widen(self) -> None:
        """Have all members, now that what is given out was not given out before.

        Not from the start: what an idle one fetches, and its successor again, is given out once more with every death,
        though it never ran.
        """
        if len(self._seats) < SEATS:
            self._open_seat()

    def _open_seat(self) -> None:
        name = f"consumer-{len(self._seats)}"
        own = {**self._settings.consumer, "group.id": self._settings.group_id}
        client = self._connection.open_share_consumer(name, DEFAULTS, own)
        client.set_acknowledgement_commit_callback(self._acknowledged)
        client.subscribe(list(self._settings.input_topics))
        self._seats.append(Seat(name, client))

    @property
    def in_flight(self) -> int:
        return len(self._seat_of)

    def take(self, timeout_s: float) -> list[Entry]:
        """What the next free member gets; waits up to timeout_s for it.

        Raises:
            KafkaRefused: the cluster will not have us.
        """
        self._connection.raise_refusal()
        seat = next((seat for seat in self._seats if not seat.held), None)
        if seat is None:
            time.sleep(min(timeout_s, 0.001))
            return []
        self._seats.append(self._seats.pop(self._seats.index(seat)))  # in turn
        try:
            messages = seat.client.poll(timeout_s)
        except KafkaException as error:
            self._failed(error.args[0])
            return []
        entries = []
        for message in messages:
            if (trouble := message.error()) is not None:
                self._failed(trouble)
            else:
                entries.append(self._admit(seat, message))
        seat.give_back_s = time.monotonic() + LOCK_SHARE * self._lock_s
        return self._unanswered(entries) if self._answered else entries

    def _unanswered(self, entries: list[Entry]) -> list[Entry]:
        """What is left when those are accepted that were answered here, where only the acknowledgement failed."""
        for entry in entries:
            if times(entry) > 1 and entry.source in self._answered:  # once: another topic has the name by now
                self._answered.discard(entry.source)
                entry.is_done = True
                self._acknowledge(entry, AcknowledgeType.ACCEPT)
        return [entry for entry in entries if not entry.is_done]

    def accept(self, entry: Entry) -> None:
        """Its answer is safely in Kafka: nobody gets the record again. A dead letter is rejected."""
        if self._given_back:
            self._given_back.discard(entry.source)
        self._acknowledge(entry, AcknowledgeType.ACCEPT if entry.refusal is None else AcknowledgeType.REJECT)

    def release_late(self) -> int:
        """Give back what cannot finish before its lock ends; how many these were."""
        now_s = time.monotonic()
        late = [entry for seat in self._seats if seat.held and now_s >= seat.give_back_s for entry in seat.held]
        for entry in late:
            self.release(entry)
        return len(late)

    def release(self, entry: Entry) -> None:
        """Give a record back at once; what still comes of it is dropped."""
        entry.is_done = True
        self._given_back.add(entry.source)
        self._acknowledge(entry, AcknowledgeType.RELEASE)

    def commit(self, timeout_s: float) -> None:
        """Wait so long for the broker to know all acknowledgements."""
        deadline = Deadline(timeout_s)
        for seat in self._seats:
            try:
                seat.client.commit_sync(deadline.left_s)
            except KafkaException as error:
                log.warning("acknowledgements failed: %s", error.args[0].str())

    def close(self) -> None:
        """Give back what is held, and leave; the client's own wait for the broker's word on it may last a minute.

        Idle members leave first: one whose last poll was in vain still fetches, and would be given what the others
        give back. Kafka counts that, and an innocent record would look guilty.
        """
        deadline = Deadline(CLOSE_TIMEOUT_S)
        idle, holders = ([seat for seat in self._seats if bool(seat.held) is holds] for holds in (False, True))
        close_within(deadline.left_s / 2, [seat.client for seat in idle])
        for entry in list(self._seat_of):
            self.release(entry)
        close_within(deadline.left_s, [seat.client for seat in holders])

    def rejoin(self) -> None:
        """Give back what is held, and join the group anew, with another client."""
        self.close()
        for seat in self._seats:
            self._connection.retire(seat.name)
        self._seats.clear()
        self._open_seat()

    def _admit(self, seat: Seat, message: Message) -> Entry:
        place = place_of(message)
        ledger = self.ledgers.get(place)
        if ledger is None:
            ledger = self.ledgers[place] = PartitionLedger(*place, self._reports)
        entry = Entry(ledger, readable(message), ledger.source_prefix)  # type: ignore[arg-type]  # see records.Record
        seat.held.add(entry)
        self._seat_of[entry] = seat
        return entry

    def _acknowledge(self, entry: Entry, how: AcknowledgeType) -> None:
        seat = self._seat_of.pop(entry, None)
        if seat is not None:
            seat.acknowledge(entry, how)

    def _acknowledged(self, offsets: dict[TopicPartition, set[int]], error: KafkaException | None) -> None:
        if error is not None or self._given_back:
            told = {(place.topic, place.partition, offset) for place, each in offsets.items() for offset in each}
            if error is None:
                self._given_back -= told
            else:
                log.warning(
                    "%d acknowledgements failed: %s; Kafka gives those records out again",
                    len(told),
                    error.args[0].str(),
                )
                self._remember(told - self._given_back - {entry.source for entry in self._seat_of})
        self.on_commit("ok" if error is None else "failed")

    def _remember(self, answered: set[Source]) -> None:
        if len(self._answered) > REMEMBERED:
            self._answered.clear()  # then some are answered twice
        self._answered |= answered

    def _failed(self, error: KafkaError) -> None:
        if error.code() in NOT_HERE:
            raise KafkaRefused(
                f"{self._settings.bootstrap_servers} has no share groups, which delivery.mode queue needs: "
                f"{error.str()}; use Kafka 4.2 or newer with share.version=1, or another mode"
            )
        if self._connection.refuse(error):
            self._connection.raise_refusal()
        log.warning("kafka consumer: %s", error.str())

    def _prepare_group(self) -> None:
        """Learn the lock's duration, and have a new group start at the oldest record, as in the other modes."""
        where = {**self._settings.client, "bootstrap.servers": self._settings.bootstrap_servers}
        admin = AdminClient(where, logger=client_log)
        group = ConfigResource(ConfigResource.Type.GROUP, self._settings.group_id)
        reset = ConfigEntry("share.auto.offset.reset", "earliest", incremental_operation=AlterConfigOpType.SET)
        try:
            known = admin.describe_configs([group], request_timeout=ADMIN_TIMEOUT_S)[group].result(ADMIN_TIMEOUT_S)
            lock = known.get("share.record.lock.duration.ms")
            if lock is None:
                raise KafkaRefused(
                    f"{self._settings.bootstrap_servers} has no share groups, which delivery.mode queue needs; "
                    "use Kafka 4.2 or newer with share.version=1, or another mode"
                )
            self._lock_s = int(lock.value) / 1000
            if known["share.auto.offset.reset"].is_default:
                change = ConfigResource(ConfigResource.Type.GROUP, self._settings.group_id, incremental_configs=[reset])
                admin.incremental_alter_configs([change])[change].result(ADMIN_TIMEOUT_S)
        except KafkaException as error:
            log.warning(
                "the group's settings cannot be read or set: %s; set share.auto.offset.reset=earliest for it yourself",
                error.args[0].str(),
            )
