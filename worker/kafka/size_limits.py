"""What was too large for its topic, remembered until its record is answered in another way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from worker.kafka.ledger import Entry, Source, size_of

Replace = Callable[[Entry, str, int], None]  # (entry, topic, bytes): publish something smaller there


class SizeLimits:
    """Per record, how often a topic refused its message. A transaction is not mended, but done again without them."""

    def __init__(self) -> None:
        self._refused: dict[Source, Counter[str]] = {}  # topic -> times

    def __bool__(self) -> bool:
        return bool(self._refused)

    def refuse(self, entry: Entry, topic: str) -> None:
        """What was made of this record for the topic does not fit it."""
        self._refused.setdefault(entry.source, Counter())[topic] += 1

    def shrink(self, entry: Entry, replace: Replace) -> None:
        """Replace what would be refused again, before it is sent."""
        for topic, times in self._refused.get(entry.source, Counter()).items():
            for _ in range(times):
                for outgoing in list(entry.outgoing or ()):
                    if outgoing[0] == topic:
                        replace(entry, topic, size_of(outgoing))

    def shrink_unsent(self, entries: Iterable[Entry], replace: Replace) -> None:
        """The same for the leading ones that are answered, but for those that were sent in part."""
        for entry in entries:
            if entry.outgoing is None:
                break
            if not entry.sent:
                self.shrink(entry, replace)

    def forget(self, entries: Iterable[Entry]) -> None:
        """These are answered."""
        for entry in entries:
            self._refused.pop(entry.source, None)
