"""What was too large for its topic, remembered until its record is answered in another way."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from worker.kafka.ledger import Entry, Outgoing

Smaller = Callable[[Entry, str, int], list[Outgoing]]


class SizeLimits:
    """Per record: the sizes that a topic refused. A transaction cannot be mended, only done again without them."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, int, int], dict[str, int]] = {}  # source -> topic -> bytes

    def __bool__(self) -> bool:
        return bool(self._refused)

    def refuse(self, entry: Entry, topic: str, size: int) -> None:
        """A message of `size` bytes, made for this record, does not fit the topic."""
        self._refused.setdefault(_source(entry), {})[topic] = size

    def shrink(self, entry: Entry, smaller: Smaller) -> None:
        """Replace what would be refused again."""
        limits = self._refused.get(_source(entry), {})
        outgoing = entry.outgoing or []
        place = 0
        while place < len(outgoing):
            topic, value, _headers = outgoing[place]
            size = len(value or b"")
            if topic not in limits or size < limits[topic]:
                place += 1
                continue
            kept = outgoing[:place]  # of the others, `smaller` may think anew: it sets entry.outgoing
            outgoing[place : place + 1] = smaller(entry, topic, size)
            outgoing = [*kept, *outgoing[place:]]
        entry.outgoing = outgoing

    def forget(self, entries: Iterable[Entry]) -> None:
        """These are answered."""
        for entry in entries:
            self._refused.pop(_source(entry), None)


def _source(entry: Entry) -> tuple[str, int, int]:
    return entry.record.topic(), entry.record.partition(), entry.record.offset()
