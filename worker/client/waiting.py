"""The requests that have no answer yet."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from worker.client.wire import Arrays, InferenceFailure, Result
from worker.errors import WorkerError


class InferenceError(WorkerError):
    """The worker answered with an error; `code` is one of worker.errors.ErrorCode."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class NotDelivered(WorkerError):
    """Kafka did not take the request, or the client was closed before the answer came."""


@dataclass(frozen=True, slots=True, eq=False)
class _Seat:
    timeout_s: float
    due_s: float  # on the monotonic clock
    future: Future[Arrays] = field(default_factory=Future)


class WaitingRoom:
    """Futures by request id. Any thread may call it; whoever takes a future out settles it, so each is settled once."""

    def __init__(self) -> None:
        self._seats: dict[str, _Seat] = {}
        self._closed: Exception | None = None
        self._lock = threading.Lock()  # never held while a future is settled: that runs its callbacks

    def enter(self, id: str, timeout_s: float) -> Future[Arrays]:
        """A future for this request; cancelling it gives the seat back.

        Raises:
            ValueError: the id is waiting already.
            WorkerError: the room is closed; says why.
        """
        seat = _Seat(timeout_s, time.monotonic() + timeout_s)
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if id in self._seats:
                raise ValueError(f"a request with id {id!r} is waiting for its answer already; ids must differ")
            self._seats[id] = seat
        seat.future.add_done_callback(lambda _: self._leave(id, seat))
        return seat.future

    def answer(self, answer: Result | InferenceFailure) -> None:
        """Settle the request that this answers; without effect when none of ours waits for it."""
        seat = self._leave(answer.id)
        if seat is None or not seat.future.set_running_or_notify_cancel():
            return
        if isinstance(answer, Result):
            seat.future.set_result(answer.outputs)
        else:
            seat.future.set_exception(InferenceError(answer.code, answer.message))

    def fail(self, id: str, error: Exception) -> None:
        """Settle a request with an error, if it still waits."""
        seat = self._leave(id)
        if seat is not None and seat.future.set_running_or_notify_cancel():
            seat.future.set_exception(error)

    def fail_overdue(self) -> None:
        """Settle with TimeoutError what has waited long enough."""
        now_s = time.monotonic()
        with self._lock:
            overdue = [(name, seat.timeout_s) for name, seat in self._seats.items() if seat.due_s <= now_s]
        for name, timeout_s in overdue:
            self.fail(name, TimeoutError(f"no answer to request {name} within {timeout_s:g} s; is a worker running?"))

    def close(self, error: Exception) -> None:
        """Fail everything that waits, and refuse whoever comes later, with this error; the first call's error stays."""
        with self._lock:
            self._closed = self._closed or error
            names = list(self._seats)
        for name in names:
            self.fail(name, error)

    def _leave(self, id: str, seat: _Seat | None = None) -> _Seat | None:
        """Take the seat out of the room: only this very one, if given (its id may be in use again)."""
        with self._lock:
            if seat is None or self._seats.get(id) is seat:
                return self._seats.pop(id, None)
            return None
