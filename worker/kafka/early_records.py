"""Records that were read before their partition could be entered; see caution.py for what is to be written first."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from itertools import chain

from confluent_kafka import Message

from worker.kafka.caution import MARK_TIMEOUT_S
from worker.kafka.ledger import Place

log = logging.getLogger(__name__)


class EarlyRecords:
    """Kept by partition, in offset order, while a commit is on its way. One thread calls it."""

    def __init__(self) -> None:
        self._messages: dict[Place, list[Message]] = {}
        self._since_s: dict[Place, float] = {}
        self._is_news = False

    def __len__(self) -> int:
        return sum(map(len, self._messages.values()))

    def __bool__(self) -> bool:
        return bool(self._messages)

    @property
    def is_news(self) -> bool:
        """Whether there are records of one more partition since forget_news(): a commit is due that lets them in."""
        return self._is_news

    def forget_news(self) -> None:
        """That commit is on its way."""
        self._is_news = False

    @property
    def places(self) -> frozenset[Place]:
        return frozenset(self._messages)

    def add(self, place: Place, messages: Iterable[Message]) -> None:
        """Keep these; they come in offset order."""
        if place not in self._messages:
            self._messages[place], self._since_s[place] = [], time.monotonic()
            self._is_news = True
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
                if now_s - since_s < MARK_TIMEOUT_S:  # they run all the same then
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
