"""After a transaction failed: where reading goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from math import inf

from confluent_kafka import KafkaError, KafkaException, Message

from worker.errors import KafkaRefused
from worker.kafka.connection import REFUSALS
from worker.kafka.consumer import GroupConsumer
from worker.kafka.ledger import Place, place_of
from worker.kafka.remedies import with_remedy
from worker.kafka.transactions import CALL_TIMEOUT_S, RECOVERY_TIMEOUT_S
from worker.sections import KafkaSettings

log = logging.getLogger(__name__)

PATIENCE_S = RECOVERY_TIMEOUT_S + CALL_TIMEOUT_S
OFFSETS_TIMEOUT_S = 1.0  # nobody polls meanwhile


class Recovery:
    """Goes back to the committed offsets: an abort alone does not rewind the consumer."""

    def __init__(self, kafka: KafkaSettings, consumer: GroupConsumer) -> None:
        self._kafka = kafka
        self._consumer = consumer
        self._starts: dict[Place, int] = {}  # where to go back to if nothing is committed
        self._first_s = self._last_s = -inf  # of the failures since something was committed

    def begin(self) -> None:
        """Forget all work in hand."""
        for place, offset in self._consumer.forget_work().items():
            self._starts.setdefault(place, offset)  # it may begin again before it has ended
        now_s = time.monotonic()
        if now_s - self._last_s > PATIENCE_S:  # of another time, and nothing was to be committed since
            self._first_s = now_s
        self._last_s = now_s

    def succeed(self) -> None:
        """Something was committed."""
        self._last_s = -inf

    @property
    def is_over(self) -> bool:
        """Whether it has lasted too long, be it one recovery or one after the other."""
        return time.monotonic() - self._first_s > PATIENCE_S

    def pass_over(self, messages: Iterable[Message]) -> None:
        """These were read meanwhile; they are read again."""
        for message in messages:
            if message.error() is None:
                self._starts.setdefault(place_of(message), message.offset() or 0)

    def assign(self, places: Iterable[Place]) -> None:
        """They begin where the group has them."""
        for place in places:
            self._starts.pop(place, None)

    def end(self) -> bool:
        """Go back; False where the committed offsets cannot be read yet.

        Never inside of a fetch, whose records are from before.

        Raises:
            KafkaRefused: they cannot be read at all, or for too long.
        """
        try:
            committed = self._consumer.offsets.committed(self._consumer.ledgers, OFFSETS_TIMEOUT_S)
        except KafkaException as error:
            reason: KafkaError = error.args[0]
            if reason.code() in REFUSALS or self.is_over:
                words = with_remedy(reason, self._kafka)
                raise KafkaRefused(f"the committed offsets cannot be read: {words}") from error
            log.warning("the committed offsets cannot be read yet: %s", reason.str())
            return False
        starts = dict(self._starts)
        for each in committed:
            if each.offset >= 0:
                starts[(each.topic, each.partition)] = each.offset
                self._consumer.offsets.note([each])
        was_held = self._consumer.is_held
        self._consumer.hold(False)  # before the seek, which a pause would undo; nothing where all is running
        self._consumer.offsets.rewind(starts)
        self._consumer.hold(was_held)
        self._starts.clear()
        return True
