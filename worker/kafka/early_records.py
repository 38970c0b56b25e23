"""Records that were read before their partition could be entered; see caution.py for what is to be written first."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from itertools import chain

from confluent_kafka import Message

from worker.kafka.ledger import Place

log = logging.getLogger(__name__)

PATIENCE_S = 2.0  # the records run all the same then


class EarlyRecords:
    """Kept by partition, in offset order, while a commit is on its way. One thread calls it."""

    def __init__(self) -> None:
        self._messages: dict[Place, list[Message]] = {}
        self._since_s: dict[Place, float] = {}
        self.is_news = False  # since somebody set it to False: there are records of one more partition

    def __len__(self) -> int:
        return sum(map(len, self._messages.values()))

    def __bool__(self) -> bool:
        return bool(self._messages)

    @property
    def places(self) -> frozenset[Place]:
        return frozenset(self._messages)

    def add(self, place: Place, messages: Iterable[Message]) -> None:
        """Keep these; they come in offset order."""
        if place not in self._messages:
            self._messages[place], self._since_s[place] = [], time.monotonic()
            self.is_news = True
        self._messages[place].extend(messages)

    def first_offset(self, place: Place) -> int | None:
        """Of what is kept of this partition; None where that is nothing."""
        messages = self._messages.get(place)
        return messages[0].offset() if messages else None

    def take(self, closed: Collection[Place]) -> list[Message]:
        """Those whose partition is not closed any more, or was for too long."""
        now_s, found = time.monotonic(), list[Message]()
        for place, since_s in list(self._since_s.items()):
            if place in closed:
                if now_s - since_s < PATIENCE_S:
                    continue
                log.warning(
                    "%s/%d: the commit before its first records has no answer yet; they run all the same", *place
                )
            found += self._messages[place]
            self.forget((place,))
        return found

    def take_all(self) -> list[Message]:
        """What is kept, partition by partition."""
        found = list(chain.from_iterable(self._messages.values()))
        self.forget(self.places)
        return found

    def forget(self, places: Iterable[Place]) -> None:
        """These partitions are somebody else's, or their records are read again."""
        for place in places:
            self._messages.pop(place, None)
            self._since_s.pop(place, None)
