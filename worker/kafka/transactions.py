"""A transactional producer whose slow calls (commit, abort, replacement) run on a thread of their own."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.deadline import Deadline
from worker.errors import KafkaRefused
from worker.kafka.connection import REFUSALS, Connection
from worker.kafka.producer import ResultProducer
from worker.kafka.remedies import with_remedy
from worker.sections import DeliverySettings, KafkaSettings

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 10.0  # of one call to the cluster; then the outcome is unknown and the producer is replaced
RECOVERY_TIMEOUT_S = 300.0  # as long as an answer may wait to be published in the other modes
STUCK_S = 3.0  # past its deadline: send_offsets_to_transaction of librdkafka 2.16 may never return after a cut
RETRY_S = 0.1
FENCES_ALLOWED = 5  # in so many seconds; a transaction that timed out looks like a fence, but is much slower
FENCES_WITHIN_S = 30.0
FENCED = frozenset(
    (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED, KafkaError._FATAL)
)
Offsets = Sequence[TopicPartition]


def transactional_id(kafka: KafkaSettings, delivery: DeliverySettings) -> str:
    """delivery.transactional_id, or the group and this host's name."""
    return delivery.transactional_id or f"{kafka.group_id}-{socket.gethostname()}"


class Outcome(Enum):
    """How a transaction ended."""

    COMMITTED = "committed"
    REFUSED = "refused"  # nothing of it counts; the producer is good once it has aborted
    BROKEN = "broken"  # what of it counts is not known; the producer must be replaced
    TOO_LARGE = "too large"  # nothing of it counts; its batches were above a topic's limit
    FENCED = "fenced"  # another producer has our transactional.id, or the transaction took too long


class Work(threading.Thread):
    """A call on a thread of its own, which nobody has to wait for."""

    def __init__(self, call: Callable[[], Outcome], timeout_s: float) -> None:
        super().__init__(name="transactions", daemon=True)
        self._call = call
        self._deadline = Deadline(timeout_s + STUCK_S)
        self._is_done = threading.Event()
        self._outcome = Outcome.BROKEN
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._outcome = self._call()
        except Exception as error:  # noqa: BLE001  # raised by result(), in the thread that asks
            self._error = error
        except:  # noqa: E722  # the client library may raise what is no exception: see what producer.py says of flush()
            log.warning("the transactional producer broke: %s", sys.exc_info()[1])
        self._is_done.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether it is over: done, or stuck."""
        return self._is_done.wait(min(timeout_s, self._deadline.left_s)) or self._deadline.is_over

    @property
    def is_stuck(self) -> bool:
        return not self._is_done.is_set()

    def result(self) -> Outcome:
        if self._error is not None:
            raise self._error
        return self._outcome


class Transactions:
    """One transactional.id. Between begin() and the end of commit(), the owner sends through `producer`.

    While `is_busy` the producer belongs to the thread: a client serves one thread at a time.
    """

    def __init__(
        self, settings: KafkaSettings, connection: Connection, transactional_id: str, interval_s: float
    ) -> None:
        self._kafka = settings
        self._id = transactional_id
        self._fenced_s: list[float] = []
        self._work: Work | None = None
        self.should_abort: Callable[[], bool] = lambda: False  # tests abort on purpose
        self.producer = ResultProducer(
            settings,
            connection,
            {
                "transactional.id": transactional_id,
                "transaction.timeout.ms": int(1000 * max(CALL_TIMEOUT_S, 3 * interval_s)),
                "delivery.report.only.error": True,  # the commit waits for the others
            },
        )

    def start(self, timeout_s: float) -> None:
        """End what a predecessor with the same transactional.id left open.

        Raises:
            KafkaRefused: not in time, or not for this user.
        """
        self._init(Deadline(timeout_s))

    def begin(self) -> None:
        """Raises:
        KafkaException: the producer is no good any more.
        """
        self.producer.client.begin_transaction()

    def commit(self, offsets: Offsets, group_metadata: object) -> None:
        """Commit what was sent, and these offsets; finish() tells the Outcome."""
        self._start(lambda: self._commit(offsets, group_metadata), CALL_TIMEOUT_S)

    def recover(self, how: Outcome) -> None:
        """Get rid of the transaction; a broken producer is replaced. finish() tells COMMITTED when that is done."""
        timeout_s = CALL_TIMEOUT_S if how is Outcome.REFUSED else RECOVERY_TIMEOUT_S
        self._start(lambda: self._recover(how), timeout_s)

    @property
    def is_busy(self) -> bool:
        return self._work is not None

    def wait(self, timeout_s: float) -> bool:
        """Whether the thread is done, or stuck, after waiting so long for it."""
        return self._work is None or self._work.wait(timeout_s)

    def finish(self) -> Outcome:
        """What the thread's work came to.

        Raises:
            KafkaRefused: no transaction can be had.
        """
        work, self._work = self._work, None
        if work is None:
            return Outcome.COMMITTED
        if work.is_stuck:
            log.error("a call of the transactional producer does not return: the producer is left alone and replaced")
            self.producer.renew(is_stuck=True)
        return work.result()

    def close(self, *, is_open: bool) -> None:
        """Leave no transaction open, where that is known and quick: readers would wait for its timeout."""
        if self._work is not None and (not self._work.wait(CALL_TIMEOUT_S) or self._work.is_stuck):
            return
        if is_open:
            try:
                self.producer.client.abort_transaction(2.0)
            except KafkaException as error:
                log.warning("the open transaction could not be aborted: %s", error.args[0].str())
        self.producer.close()

    def _start(self, call: Callable[[], Outcome], timeout_s: float) -> None:
        self._work = Work(call, timeout_s)
        self._work.start()  # not before it is known as ours: it looks

    def _commit(self, offsets: Offsets, group_metadata: object) -> Outcome:
        deadline = Deadline(CALL_TIMEOUT_S)
        client = self.producer.client
        try:
            if offsets:
                _retry(
                    lambda: client.send_offsets_to_transaction(list(offsets), group_metadata, deadline.left_s), deadline
                )
            if self.should_abort():
                return Outcome.REFUSED
            _retry(lambda: client.commit_transaction(deadline.left_s), deadline)
        except KafkaException as error:
            log.warning("the transaction failed and is done again: %s", error.args[0].str())
            return judge(error.args[0])
        return Outcome.COMMITTED

    def _recover(self, how: Outcome) -> Outcome:
        if how is Outcome.REFUSED:
            once = Deadline(CALL_TIMEOUT_S)
            try:
                _retry(lambda: self.producer.client.abort_transaction(once.left_s), once)
            except KafkaException as error:
                log.warning("the transaction could not be aborted, the producer is replaced: %s", error.args[0].str())
                how = judge(error.args[0])
                if self._work is None or threading.current_thread() is not self._work:
                    return Outcome.BROKEN  # too late: somebody else goes on from here
            else:
                return Outcome.COMMITTED
        if how is Outcome.TOO_LARGE:
            self.producer.shrink_batches()
        if how is Outcome.FENCED:
            self._count_fence()
        self._replace(Deadline(RECOVERY_TIMEOUT_S))
        return Outcome.COMMITTED

    def _replace(self, deadline: Deadline) -> None:
        self.producer.renew()
        self._init(deadline)
        log.info("the producer was replaced; the engine stays loaded")

    def _init(self, deadline: Deadline) -> None:
        while True:
            try:
                self.producer.client.init_transactions(min(CALL_TIMEOUT_S, max(0.1, deadline.left_s)))
                return
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if reason.code() in REFUSALS or deadline.is_over:
                    raise KafkaRefused(
                        f"delivery.transactional_id is {self._id}: no transaction can be had: "
                        f"{with_remedy(reason, self._kafka)}"
                    ) from error
                if reason.code() in FENCED or reason.fatal():
                    self._count_fence()
                    self.producer.renew()
                elif not reason.retriable() or self._is_lost():
                    self.producer.renew()
            time.sleep(RETRY_S)

    def _is_lost(self) -> bool:
        with contextlib.suppress(KafkaException):
            self.producer.poll(0)  # brings what the client has reported of itself meanwhile
        return self.producer.is_lost

    def _count_fence(self) -> None:
        now_s = time.monotonic()
        self._fenced_s = [at_s for at_s in self._fenced_s if now_s - at_s < FENCES_WITHIN_S] + [now_s]
        if len(self._fenced_s) >= FENCES_ALLOWED:
            raise KafkaRefused(
                f"delivery.transactional_id is {self._id}, and another worker uses it, too "
                f"({FENCES_ALLOWED} times fenced in {FENCES_WITHIN_S:g} s); give every worker its own"
            )


def _retry(call: Callable[[], object], deadline: Deadline) -> None:
    """Make a call again while the client says that this helps.

    Raises:
        KafkaException: of another kind, or the last one.
    """
    while True:
        try:
            call()
            return
        except KafkaException as error:
            if not error.args[0].retriable() or deadline.left_s < 1.0:
                raise
        time.sleep(RETRY_S)


def judge(error: KafkaError) -> Outcome:
    """What a transaction that met this error has come to."""
    if error.code() in FENCED or error.fatal():
        return Outcome.FENCED
    return Outcome.REFUSED if error.txn_requires_abort() else Outcome.BROKEN
