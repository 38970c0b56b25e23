"""Queue mode: records that Kafka gives out again, run with care, and given up in the end.

How often a record was given out is all that is known of what became of its holders, and a process that dies leaves one
more on everything that it held. So what comes again runs a few at a time, and what is answered is acknowledged before
the next ones run: if that kills the process, too, the guilty one is among the first that come back.

    given out   what is done
    once        it runs at full speed
    twice       groups of GROUP_RECORDS, one after the other, in offset order
    3 times     the guilty one is among the first GROUP_RECORDS: all others run first, in groups; then these, one by one
    4 times     it is the first: a dead letter; the others run one by one
    5 times     a dead letter: after that Kafka drops it without a word
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter

from worker.kafka.ledger import Entry, Place

GROUP_RECORDS = 32
ALONE_FROM = 3
GUILTY_FROM = 4
LAST_TIME = 5  # Kafka's default, group.share.delivery.count.limit
NEAR = 256  # offsets; what is so near behind a guilty record was its company
SOURCE, PLACE = attrgetter("source"), attrgetter("ledger.place")


class Suspects:
    """Records that were taken in, were given out before, and do not run yet."""

    def __init__(self) -> None:
        self._groups: deque[list[Entry]] = deque()
        self._given_up: dict[Place, int] = {}  # partition -> offset of the last one

    def __len__(self) -> int:
        groups = list(self._groups)  # other threads ask, too
        return sum(not entry.is_done for group in groups for entry in group)  # done: given back, as it was late

    def add(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take over what was given out before.

        Returns:
            Those of them that must not run again.
        """
        guilty, crowds, heads = list[Entry](), list[list[Entry]](), list[list[Entry]]()
        for place, run in groupby(sorted(entries, key=SOURCE), key=PLACE):
            suspects = list(run)
            guilty += [entry for entry in suspects if times(entry) >= LAST_TIME]
            suspects = [entry for entry in suspects if times(entry) < LAST_TIME]
            if suspects and times(suspects[0]) >= GUILTY_FROM and not self._had_company(suspects[0]):
                guilty.append(suspects.pop(0))
                self._given_up[place] = guilty[-1].record.offset()
            crowd = [entry for entry in suspects if times(entry) < ALONE_FROM]
            rest = [entry for entry in suspects if times(entry) >= ALONE_FROM]
            heads += [[entry] for entry in rest[:GROUP_RECORDS]]
            crowds += [*_cut(crowd), *_cut(rest[GROUP_RECORDS:])]
        self._groups.extend([*crowds, *heads])
        return guilty

    def group(self) -> list[Entry]:
        """What may run now, once nothing else does; empty where nothing waits."""
        while self._groups:
            if group := [entry for entry in self._groups.popleft() if not entry.is_done]:
                return group
        return []

    def _had_company(self, entry: Entry) -> bool:
        """Whether the guilty one was given up before, and this one came later only because it was fetched later."""
        given_up = self._given_up.get(entry.ledger.place)
        return given_up is not None and 0 < entry.record.offset() - given_up < NEAR


def times(entry: Entry) -> int:
    """How often Kafka gave the record out, this time included."""
    return entry.record.delivery_count() or 1  # type: ignore[attr-defined]  # a share consumer's message has it


def _cut(entries: list[Entry]) -> list[list[Entry]]:
    return [entries[start : start + GROUP_RECORDS] for start in range(0, len(entries), GROUP_RECORDS)]
