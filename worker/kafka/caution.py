"""Records that may have taken the process down: found again, run alone, and given up in the end.

What a crash leaves behind is the metadata of the last commit, so everything that a successor must know stands there:

    nothing                             the partition was handed over in order, or never was touched
    trt-worker/1 run [N]                somebody was at work here, at full speed, on N records from here on at most
    trt-worker/1 care U D F E HOW       up to offset U, care was being taken; the records from F up to E were in the
                                        backend, HOW: `alone`, `together`, or `idle` (nothing was running), after the
                                        process had died D times before

1. `run` is written before the first record of an assignment runs, once; ordinary commits repeat it and cost nothing.
   They say how far the work went behind a commit so far, with something to spare; the first one cannot know yet.
   An orderly end (SIGTERM, a revoke) writes nothing in its place.
2. Who finds `run` at the start of a partition succeeds a process that died. Any of the next N records may be guilty:
   they run in small groups, one group at a time, and `care` is committed before each.
3. Who finds `care` knows the group. Its records run one by one, and the mark of each is committed before it runs.
4. Who finds a record that ran alone when the process died for the D-th time, D at least delivery.max_attempts, does not
   run it again: it is a dead letter. Its neighbours are answered, and care goes on up to U.

Dying for another reason (kill -9, a lost node) costs the successor the careful stretch, and no record is blamed for it
unless it was there every time. If the guilty one is further away than the stretch, the process dies once more, after
progress; the next stretch starts there.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

log = logging.getLogger(__name__)

Place = tuple[str, int]  # (topic, partition)
How = Literal["alone", "together", "idle"]

PREFIX = "trt-worker/1 "
RUN = PREFIX + "run"
CAREFUL_RECORDS = 20_000  # more than can be in flight with default settings
LEAST_CAREFUL = 1_024
GROUP_RECORDS = 64
MARK_TIMEOUT_S = 2.0  # for the answer to a commit that says what is about to run


@dataclass(frozen=True)
class Care:
    """One partition's suspects."""

    until: int  # care ends at this offset
    deaths: int  # of the process, while the suspects were there
    first: int = 0  # the suspects: offsets from here …
    end: int = 0  # … up to here
    how: How = "idle"

    @property
    def text(self) -> str:
        return f"{PREFIX}care {self.until} {self.deaths} {self.first} {self.end} {self.how}"


def read(offset: int, metadata: str | None) -> Care | None:
    """What the predecessor left at this committed offset; None: it ended in order."""
    words = (metadata or "").removeprefix(PREFIX).split()
    match words if (metadata or "").startswith(PREFIX) else ():
        case ["run"]:
            return Care(until=offset + CAREFUL_RECORDS, deaths=1)
        case ["run", records] if records.isdecimal():
            return Care(until=offset + min(int(records), CAREFUL_RECORDS), deaths=1)
        case ["care", until, deaths, first, end, ("alone" | "together" | "idle") as how] if all(
            word.isdecimal() for word in (until, deaths, first, end)
        ):
            care = Care(int(until), int(deaths), int(first), int(end), how)
            if care.until <= offset:
                return None
            return care if how == "idle" else replace(care, deaths=care.deaths + 1)
        case _:
            return None


class Caution:
    """Which partitions need care, and what the next commit says about each."""

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._group_records = GROUP_RECORDS if max_attempts > 2 else 1  # few attempts: no group, alone at once
        self._care: dict[Place, Care] = {}
        self._running: dict[Place, Care] = {}  # what is in the backend now
        self._reach: dict[Place, int] = {}  # how many records a death might leave in doubt
        self.unread: set[Place] = set()  # assigned; what the predecessor left is not read yet
        self.unmarked: set[Place] = set()  # no `run` written yet
        self.is_active = False  # else every record may run at once

    def assign(self, places: Collection[Place]) -> None:
        self.forget(places)
        self.unread.update(places)
        self._look()  # a rebalance may bring nothing

    def forget(self, places: Iterable[Place]) -> None:
        for place in places:
            self._care.pop(place, None)
            self._running.pop(place, None)
            self._reach.pop(place, None)
            self.unread.discard(place)
            self.unmarked.discard(place)
        self._look()

    def note(self, place: Place, offset: int, metadata: str | None) -> None:
        """What the predecessor left there."""
        self.unread.discard(place)
        self.unmarked.add(place)
        if (care := read(offset, metadata)) is not None:
            log.warning(
                "whoever had %s/%d before died at work; its next records, up to offset %d, run in small groups",
                *place,
                care.until,
            )
            self._care[place] = care
        self._look()

    def reach(self, place: Place, records: int) -> None:
        """So many were taken in since the last commit; in powers of two, so that commits seldom have news of it."""
        doubt = max(LEAST_CAREFUL, 2 << records.bit_length())
        self._reach[place] = max(self._reach.get(place, 0), doubt)

    def mark(self, place: Place) -> str:
        """Metadata of a commit while this worker is at work on the partition."""
        care = self._running.get(place) or self._care.get(place)
        if care is not None:
            return care.text
        reach = self._reach.get(place, CAREFUL_RECORDS)
        return RUN if reach >= CAREFUL_RECORDS else f"{RUN} {reach}"

    def last_mark(self, place: Place) -> str:
        """Metadata of the commit with which the partition is handed over in order."""
        care = self._care.get(place)
        return "" if care is None else replace(care, first=0, end=0, how="idle").text

    def is_over(self, place: Place, offset: int) -> bool:
        """Whether this record took the process down often enough."""
        care = self._care.get(place)
        return (
            care is not None
            and care.how == "alone"
            and care.first <= offset < care.end
            and care.deaths >= self._max_attempts
        )

    def deaths(self, place: Place) -> int:
        return self._care[place].deaths

    def give_up(self, place: Place) -> None:
        """The suspect is a dead letter: the records behind it start with a clean slate."""
        self._care[place] = Care(until=self._care[place].until, deaths=1)

    def group(self, sources: Sequence[tuple[Place, int]]) -> int:
        """How many of the next records, given as (partition, offset), may run together; at least 1."""
        count = 0
        for place, offset in sources[: self._group_records]:
            if self.is_over(place, offset):
                break
            care = self._care.get(place)
            if care is not None and care.how != "idle" and care.first <= offset < care.end:
                return max(1, count)
            count += 1
        return max(1, count)

    def begin(self, sources: Sequence[tuple[Place, int]]) -> None:
        """These records are about to run together; mark() tells of them until the next begin()."""
        how: How = "alone" if len(sources) == 1 else "together"
        self._running.clear()
        for place in {place for place, _ in sources}:
            offsets = [offset for each, offset in sources if each == place]
            care = self._care.get(place)
            if care is None:
                continue
            if offsets[0] >= care.until:
                del self._care[place]
                continue
            deaths = care.deaths if care.how != "idle" and care.first <= offsets[0] < care.end else 1
            self._running[place] = replace(care, deaths=deaths, first=offsets[0], end=offsets[-1] + 1, how=how)
        self._look()

    def end(self) -> None:
        """What was begun has ended well."""
        self._running.clear()

    def _look(self) -> None:
        self.is_active = bool(self._care or self.unread)
