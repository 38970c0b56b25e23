"""Partitions, answers and offsets in memory: protocols.Delivery for tests of the pipeline."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from tests.records import FakeRecord
from worker.deadline import Deadline
from worker.errors import ErrorCode
from worker.protocols import Place
from worker.records import Headers, source_of

Finish = Callable[[frozenset[Place], Deadline], None]


class MemoryTicket:
    """A record taken in, and what became of it."""

    def __init__(self, record: FakeRecord) -> None:
        self.record = record
        self.source = source_of(record)
        self.source_prefix = f"{record.topic()}/{record.partition()}/"
        self.place: Place = (record.topic(), record.partition())
        self.is_answered = False
        self.is_lost = False  # its partition was handed over: answers are dropped


class MemoryDelivery:
    """One thread calls it, the pipeline's. Answering a record twice is an AssertionError."""

    def __init__(self) -> None:
        self.waiting: dict[Place, deque[FakeRecord]] = {}  # what nobody has taken yet
        self.answers: dict[str, bytes] = {}  # source -> result
        self.refusals: dict[str, tuple[ErrorCode, str]] = {}  # source -> (code, message)
        self.values: dict[str, bytes] = {}  # source -> result or error answer
        self.order: list[str] = []  # sources, as they were answered or refused
        self.taken = 0
        self.takes = 0
        self.commits = 0
        self.holds: list[bool] = []  # changes of it
        self.has_room = True
        self.acknowledges = True
        self.revoke_timeout_s = 1.0
        self._offsets: dict[Place, int] = {}
        self._in_flight: dict[str, MemoryTicket] = {}
        self._revoking: frozenset[Place] = frozenset()
        self._finish: Finish = lambda _places, _deadline: None

    def send(
        self, value: bytes | None, *, partition: int = 0, key: bytes | None = None, headers: Headers | None = None
    ) -> str:
        """Put a record into a partition; its source."""
        place = ("requests", partition)
        offset = self._offsets[place] = self._offsets.get(place, -1) + 1
        record = FakeRecord(value, partition=partition, offset=offset, key=key, headers=headers)
        self.waiting.setdefault(place, deque()).append(record)
        return source_of(record)

    def revoke(self, *partitions: int) -> None:
        """The next take() hands these partitions over."""
        self._revoking = frozenset(("requests", partition) for partition in partitions)

    @property
    def is_held(self) -> bool:
        return bool(self.holds) and self.holds[-1]

    @property
    def ended(self) -> int:
        """Records with an answer of one kind or the other."""
        return len(self.order)

    def take(self, max_records: int, timeout_s: float) -> Sequence[MemoryTicket]:
        self.takes += 1
        if self._revoking:
            self._hand_over()
        tickets: list[MemoryTicket] = []
        if not self.is_held:
            for records in self.waiting.values():
                while records and len(tickets) < max_records:
                    tickets.append(MemoryTicket(records.popleft()))
        if not tickets:
            time.sleep(timeout_s)
        self.taken += len(tickets)
        self._in_flight.update({ticket.source: ticket for ticket in tickets})
        return tickets

    def answer(self, ticket: MemoryTicket, value: bytes, headers: Headers) -> None:
        if self._ends(ticket):
            self.answers[ticket.source] = self.values[ticket.source] = value

    def refuse(self, ticket: MemoryTicket, value: bytes, headers: Headers, code: ErrorCode, message: str) -> None:
        if self._ends(ticket):
            self.refusals[ticket.source] = (code, message)
            self.values[ticket.source] = value

    def settle(self, timeout_s: float) -> None:
        if self.acknowledges:
            self._in_flight = {source: each for source, each in self._in_flight.items() if not each.is_answered}
        else:
            time.sleep(timeout_s)

    def in_flight(self, places: frozenset[Place] | None = None) -> int:
        return sum(places is None or ticket.place in places for ticket in self._in_flight.values())

    @property
    def unacknowledged(self) -> int:
        return sum(ticket.is_answered for ticket in self._in_flight.values())

    def hold(self, is_held: bool) -> None:
        if is_held != self.is_held:
            self.holds.append(is_held)

    def on_revoke(self, finish: Finish) -> None:
        self._finish = finish

    def commit(self) -> None:
        self.commits += 1

    def _ends(self, ticket: MemoryTicket) -> bool:
        assert not ticket.is_answered, f"{ticket.source} is answered a second time"
        ticket.is_answered = True
        if not ticket.is_lost:
            self.order.append(ticket.source)
        return not ticket.is_lost

    def _hand_over(self) -> None:
        places, self._revoking = self._revoking, frozenset()
        self._finish(places, Deadline(self.revoke_timeout_s))
        for source, ticket in list(self._in_flight.items()):
            if ticket.place in places:
                ticket.is_lost = True
                del self._in_flight[source]
        for place in places:
            self.waiting.pop(place, None)
