"""Messages of a transaction that the broker did not take: what has become of it, and what to do otherwise next time."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from confluent_kafka import KafkaError

from worker.errors import KafkaRefused
from worker.kafka.ledger import Failure
from worker.kafka.producer import ResultProducer
from worker.kafka.remedies import with_remedy
from worker.kafka.size_limits import SizeLimits
from worker.kafka.transactions import Outcome
from worker.sections import KafkaSettings

log = logging.getLogger(__name__)

LOSSES = frozenset((KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT))  # what an abort itself makes
WORST_FIRST = (Outcome.TOO_LARGE, Outcome.BROKEN, Outcome.REFUSED)  # each mends what those behind it need, too


def judge_failures(
    failed: Iterable[Failure], producer: ResultProducer, limits: SizeLimits, kafka: KafkaSettings
) -> tuple[Outcome, str]:
    """What the transaction has come to, and why, in words.

    Args:
        failed: at least one.
        producer: knows how large its batches are.
        limits: learns which message is too large for its topic by itself; the next one will be smaller.
        kafka: for the remedy.

    Raises:
        KafkaRefused: a topic takes no answers of this user, or is gone.
    """
    outcomes, why = {Outcome.REFUSED}, "a message was too large for its topic"
    for entry, topic, size, error in failed:
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            if not producer.is_alone(size):
                outcomes.add(Outcome.TOO_LARGE)  # which messages are so by themselves shows in smaller batches
            elif not entry.ledger.is_revoked:
                limits.refuse(entry, topic)
        elif error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._UNKNOWN_TOPIC):
            raise KafkaRefused(
                f"topic {topic} does not take answers: {with_remedy(error, kafka, topic)}; nothing was committed for it"
            )
        elif error.code() not in LOSSES:
            outcomes.add(Outcome.BROKEN)
            if why != (seen := f"topic {topic} did not take an answer: {error.str()}"):
                why = seen
                log.warning("%s", why)  # once: it is the same for all messages of a transaction
    return next(each for each in WORST_FIRST if each in outcomes), why
