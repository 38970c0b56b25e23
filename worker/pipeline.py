"""The loop: the order of the steps."""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from worker.batching.micro_batcher import MicroBatcher
from worker.batching.open_batch import OpenBatch
from worker.batching.split import split
from worker.codec.decode import RequestDecoder
from worker.codec.encode import ResultEncoder
from worker.deadline import Deadline
from worker.errors import BatchError, ErrorCode, RecordError
from worker.health import Heartbeat
from worker.lane_states import LaneState, LaneStates
from worker.last_words import hung
from worker.metrics import Metrics
from worker.protocols import Backend, Delivery, Lane, Place
from worker.records import Headers, Request, Ticket

log = logging.getLogger(__name__)

IDLE_S = 0.1  # the poll's longest sleep: signals and health are looked at when it returns
RUNNING_S = 0.0005  # while a batch runs: nobody wakes the poll when it ends
UNACKNOWLEDGED_S = 0.001  # while the broker owes acknowledgements
BLOCKED_S = 0.02  # while nothing more fits in
LOOK_EVERY_S = 1.0  # blocked for longer: poll for one record all the same, or the group would go on without us
HOLD_AFTER_S = 10.0  # blocked for longer: pause the partitions, so that polling brings no more records
INTAKE_BYTES = 1 << 20  # of one take; more would only wait in memory
MAX_INTAKE = 128  # records of one take
MAX_MESSAGE_CHARS = 1000


class Pipeline:
    """Moves records from intake to commit. One thread runs it; stop() may be called from anywhere."""

    def __init__(
        self,
        *,
        delivery: Delivery,
        backend: Backend,
        decoder: RequestDecoder,
        batcher: MicroBatcher[Lane],
        encoder: ResultEncoder,
        metrics: Metrics,
        heartbeat: Heartbeat,
        max_in_flight_batches: int,
        max_in_flight_bytes: int,
        drain_timeout_s: float,
        lane_timeout_s: float = 60.0,
    ) -> None:
        """Args:
        max_in_flight_batches: full batches whose records are not settled; past that nothing is taken in.
        max_in_flight_bytes: the same in bytes: a record is kept until its answer is acknowledged.
        drain_timeout_s: for finishing what was taken in, on stop() and before partitions are handed over.
        """
        self._delivery = delivery
        self._backend = backend
        self._decoder = decoder
        self._batcher = batcher
        self._encoder = encoder
        self._metrics = metrics
        self._heartbeat = heartbeat
        self._max_in_flight = max_in_flight_batches * batcher.max_rows
        self._max_in_flight_bytes = max_in_flight_bytes
        self._drain_timeout_s = drain_timeout_s
        self._lane_timeout_s = lane_timeout_s
        self._placing: deque[Request] = deque()  # decoded, not yet in a batch
        self._running: dict[Lane, OpenBatch[Lane]] = {}  # oldest first
        self._lane_states = LaneStates()
        self._batches_of = functools.cache(metrics.batches.labels)  # by bucket; labels() takes longer than the counting
        self._is_held = False
        self._taken_s = self._looked_s = time.monotonic()  # when there was room; when we last polled
        self._record_bytes = 1024.0  # moving average of a record's key and value
        self._is_stopping = False
        delivery.on_revoke(self._hand_over)

    def run(self) -> None:
        """Turn until stop(), then drain: finish what was taken in, commit it.

        Raises:
            FatalError: the process cannot go on.
        """
        while not self._is_stopping:
            self.step()
        deadline = Deadline(self._drain_timeout_s)
        self._drain(None, deadline)
        if left := self._delivery.in_flight():
            log.warning("%d records were not answered in time; they are not committed and will be read again", left)
        self._delivery.commit()

    def stop(self) -> None:
        """Take no more in; run() drains and returns. Safe in a signal handler."""
        self._is_stopping = True

    @property
    def is_stopping(self) -> bool:
        """Whether stop() was called: it drains, or has drained."""
        return self._is_stopping

    def lanes(self) -> list[LaneState]:
        """Every lane that has had a batch, in the order of their first ones. Any thread may ask; nobody waits."""
        filling = {batch.lane: (batch.rows, batch.max_rows) for batch in self._batcher.filling}
        return self._lane_states.all(filling, list(self._running))

    def step(self) -> None:
        """Advance once; the poll is the only sleep, and never sleeps past the next deadline."""
        self._heartbeat.beat()
        self._take_in()  # kafka/consumer -> codec/decode -> batching/micro_batcher
        has_launched = self._launch()  # lane: host memory -> device -> execute -> host memory
        blocked_s = 0.0 if self._has_room() else BLOCKED_S  # then this waits for a lane, or for the broker
        has_finished = self._finish(blocked_s)  # batching/split -> codec/encode
        goes_on = has_launched or has_finished or (bool(self._running) and self._delivery.has_room)
        self._settle(0.0 if goes_on else blocked_s)  # kafka/producer -> kafka/ledger -> commit

    def _take_in(self) -> None:
        self._place()
        if not self._has_room():
            self._mind_the_membership()
            return
        self._hold(False)
        while self._has_room():
            wanted = max(1, min(MAX_INTAKE, int(INTAKE_BYTES / self._record_bytes)))
            tickets = self._delivery.take(wanted, self._sleep_s())
            self._decode(tickets)
            self._place()
            if len(tickets) < wanted:
                break
            self._launch()  # what is full runs while the next records are read
        self._taken_s = self._looked_s = time.monotonic()

    def _has_room(self) -> bool:
        return (
            not self._placing
            and not self._batcher.has_retries
            and self._delivery.has_room
            and (in_flight := self._delivery.in_flight()) < self._max_in_flight
            and in_flight * self._record_bytes < self._max_in_flight_bytes
        )

    def _mind_the_membership(self) -> None:
        """While nothing fits in, nobody polls: see to it that the group hears of us once in a while."""
        now_s = time.monotonic()
        if now_s - self._looked_s > LOOK_EVERY_S:
            self._looked_s = now_s
            if now_s - self._taken_s > HOLD_AFTER_S:  # it throws away what the client has fetched ahead
                self._hold(True)
            self._decode(self._delivery.take(1, 0.0))

    def _hold(self, is_held: bool) -> None:
        if is_held or self._is_held:
            self._is_held = is_held
            self._delivery.hold(is_held)  # again and again: partitions that come meanwhile are not paused

    def _sleep_s(self) -> float:
        """How long the poll may sleep."""
        sleep_s = IDLE_S
        if self._running:
            sleep_s = RUNNING_S
        elif self._delivery.unacknowledged:
            sleep_s = UNACKNOWLEDGED_S
        due_s = None if self._backend.is_saturated else self._batcher.due_s
        return sleep_s if due_s is None else min(sleep_s, max(0.0, due_s - time.monotonic()))

    def _decode(self, tickets: Sequence[Any]) -> None:
        if not tickets:
            return
        start_s = time.monotonic()
        requests, refused, held_bytes = self._decoder.decode_all(tickets, start_s)
        self._placing.extend(requests)
        for ticket, error in refused:
            self._refuse(ticket, error.request_id, error.code, str(error))
        self._record_bytes = 0.8 * self._record_bytes + 0.2 * held_bytes / len(tickets) + 1
        self._metrics.stage_seconds.of["decode"].observe(time.monotonic() - start_s)

    def _place(self) -> None:
        placing = self._placing
        if not placing:
            return
        start_s = time.monotonic()
        add, add_run = self._batcher.add, self._batcher.add_run
        while placing:
            request = placing[0]
            try:
                if request.expires_at_ms is not None and request.expires_at_ms <= time.time() * 1000:
                    raise RecordError(
                        "expired", f"the request expired at {request.expires_at_ms:.0f} ms and was not run"
                    )
                if not add(request):
                    break
            except RecordError as error:
                self._refuse(request.ticket, request.id, error.code, str(error))
            placing.popleft()
            add_run(placing)
        self._metrics.stage_seconds.of["gather"].observe(time.monotonic() - start_s)

    def _launch(self, *, everything: bool = False) -> bool:
        """Start what is due; whether there was anything."""
        now_s = time.monotonic()
        due = self._batcher.take_due(now_s, everything=everything, only_full=self._backend.is_saturated)
        for batch in due:
            batch.lane.launch(batch.rows)
            self._running[batch.lane] = batch
            batch.launched_s = now_s
            self._count(batch, now_s)
        return bool(due)

    def _finish(self, timeout_s: float) -> bool:
        """Answer what has ended, after waiting so long for the first batch; whether there was any."""
        if not self._delivery.has_room:
            return False  # a finished batch stays in its lane until its answers can leave: no second copy in memory
        lanes = self._backend.finished(timeout_s if self._running else 0.0)
        for lane in lanes:
            self._answer(lane, self._running.pop(lane))
        oldest = next(iter(self._running.values()), None)
        if oldest is not None and time.monotonic() - oldest.launched_s > self._lane_timeout_s:
            raise hung(self._lane_timeout_s)
        return bool(lanes)

    def _answer(self, lane: Lane, batch: OpenBatch[Lane]) -> None:
        start_s = time.monotonic()
        try:
            parts = split(lane.outputs(), [request.shape.rows for request in batch.requests], batch.cuts)
        except (BatchError, ValueError) as error:
            lane.release()
            self._bisect(batch.requests, error)
            return
        answer = self._delivery.answer
        for request, (value, headers) in zip(batch.requests, self._encoder.results(batch.requests, parts), strict=True):
            answer(request.ticket, value, headers)
        for stage, seconds in lane.stage_seconds.items():
            self._metrics.stage_seconds.of[stage].observe(seconds)
        lane.release()
        self._metrics.stage_seconds.of["encode"].observe(time.monotonic() - start_s)

    def _settle(self, timeout_s: float) -> None:
        start_s = time.monotonic()
        self._delivery.settle(timeout_s)
        self._metrics.stage_seconds.of["publish"].observe(time.monotonic() - start_s)

    def _bisect(self, requests: Sequence[Request], error: Exception) -> None:
        """Run a failed batch again in halves, until only the guilty request is refused."""
        if len(requests) == 1:
            self._refuse(requests[0].ticket, requests[0].id, "inference_failed", str(error))
            return
        log.warning("a batch of %d requests failed and runs again in halves: %s", len(requests), error)
        self._metrics.retries.labels("batch_failed").inc()
        middle = len(requests) // 2
        self._batcher.retry(requests[:middle])
        self._batcher.retry(requests[middle:])

    def _refuse(self, ticket: Ticket, request_id: str | None, code: ErrorCode, message: str) -> None:
        message = message[:MAX_MESSAGE_CHARS]
        value, headers = self._encoder.error(ticket.record, request_id, code, message)
        self._delivery.refuse(ticket, value, headers, code, message)

    def explain(self, ticket: Ticket, code: ErrorCode, message: str) -> tuple[bytes, Headers, ErrorCode, str]:
        """An error answer for a record whose result could not be published; the arguments of Delivery.refuse()."""
        try:
            request_id: str | None = self._decoder.decode(ticket, 0.0).id
        except RecordError as error:  # it has expired since
            request_id = error.request_id
        return *self._encoder.error(ticket.record, request_id, code, message), code, message

    def _hand_over(self, places: frozenset[Place], deadline: Deadline) -> None:
        """Bring the records of these partitions to an end; runs inside take()."""
        self._drain(places, deadline)

        def is_lost(request: Request) -> bool:
            return (request.ticket.record.topic(), request.ticket.record.partition()) in places

        self._placing = deque(request for request in self._placing if not is_lost(request))
        self._batcher.abandon(is_lost)

    def _drain(self, places: frozenset[Place] | None, deadline: Deadline) -> None:
        while self._delivery.in_flight(places) and not deadline.is_over:
            self._heartbeat.beat()
            self._place()
            self._launch(everything=True)
            self._finish(RUNNING_S)
            self._settle(0.0 if self._running and self._delivery.has_room else UNACKNOWLEDGED_S)

    def _count(self, batch: OpenBatch[Lane], now_s: float) -> None:
        metrics, rows = self._metrics, batch.rows
        metrics.stage_seconds.of["wait"].observe(now_s - batch.opened_s)
        metrics.batch_rows.observe(rows)
        metrics.batch_fill_ratio.observe(rows / batch.max_rows)
        self._batches_of(1 << (rows - 1).bit_length()).inc()
        self._lane_states.note(batch.lane, rows, batch.max_rows)
        if padded := batch.lane.padded_rows:
            metrics.padded_rows.inc(padded)
