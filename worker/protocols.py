"""What the pipeline needs of its parts; whoever has these methods fits (assemble.py joins them)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from worker.deadline import Deadline
from worker.errors import ErrorCode
from worker.records import Headers
from worker.tensors import ModelSpec, Shape


class Lane(Protocol):
    """One batch's seat in the backend: open -> (write) -> launch -> Backend.finished -> outputs -> release."""

    @property
    def padded_rows(self) -> int:
        """Rows added to the last launched batch to reach a size the engine runs."""

    @property
    def stage_seconds(self) -> Mapping[str, float]:
        """Times of the last finished batch (h2d, compute, d2h); may be empty: sampled."""

    def open(self, row_shapes: Sequence[Shape]) -> tuple[int, list[memoryview]]:
        """Lay the batch's inputs out in the lane's host memory.

        Args:
            row_shapes: one fully known row shape per model input, in the model's order.

        Returns:
            The most rows that fit, and per input a writable flat view (format "B") of exactly that many rows;
            row i starts at i * row_bytes. The caller may write them until launch().

        Raises:
            BatchError: the engine cannot run these shapes at all.
        """

    def launch(self, rows: int) -> None:
        """Start the batch of the first `rows` rows and return at once.

        The inputs must not be written again before Backend.finished() has returned this lane. Never raises for this
        batch: what goes wrong is raised by outputs().

        Raises:
            FatalError: the backend is unusable.
        """

    def outputs(self) -> list[NDArray[Any]]:
        """The finished batch's outputs, each of shape (rows, …), in the model's order.

        Returns:
            C-contiguous views of the lane's memory, valid until release().

        Raises:
            BatchError: this batch failed; the lane may be used again after release().
        """

    def release(self) -> None:
        """Give the seat back, whether the batch was launched or not."""


class Backend(Protocol):
    """An engine with its lanes. One thread calls it."""

    @property
    def model(self) -> ModelSpec: ...

    @property
    def lane_count(self) -> int: ...

    @property
    def busy_lanes(self) -> int:
        """Lanes that are acquired: filling, running or being read."""

    @property
    def busy_seconds(self) -> float:
        """Seconds since the start in which at least one batch was running."""

    @property
    def is_saturated(self) -> bool:
        """Whether a batch launched now would only wait for others; one that is not full may as well go on filling."""

    def acquire(self) -> Lane | None:
        """A free lane, or None while all are taken."""

    def finished(self, timeout_s: float) -> Sequence[Lane]:
        """Lanes whose batch ended since the last call; waits up to timeout_s for the first one.

        Raises:
            FatalError: the backend is unusable; nothing that is running will end.
        """

    def describe(self) -> Mapping[str, str]:
        """Labels of engine_info: gpu, compute_capability, tensorrt, plan, reason, …"""

    def close(self) -> None:
        """Free everything; waits for what is running."""


Place = tuple[str, int]  # (topic, partition)


class Delivery(Protocol):
    """Intake, answers and offsets of one delivery mode. One thread calls it."""

    def take(self, max_records: int, timeout_s: float) -> Sequence[Any]:
        """Up to max_records new records, as tickets; waits up to timeout_s for the first one.

        Runs the rebalance callbacks, and so what on_revoke() was given.

        Raises:
            KafkaRefused: the cluster will not have us.
        """

    def answer(self, ticket: Any, value: bytes, headers: Headers) -> None:
        """The result of a record; published by settle(), after those of its partition that came before it."""

    def refuse(self, ticket: Any, value: bytes, headers: Headers, code: ErrorCode, message: str) -> None:
        """Dead-letter a record, and publish `value` as its error answer, as delivery.errors_to says."""

    def settle(self, timeout_s: float) -> None:
        """Publish what is answered, run acknowledgements, commit what is due; waits up to timeout_s for the broker.

        Raises:
            KafkaRefused: an answer could not be published.
        """

    def in_flight(self, places: frozenset[Place] | None = None) -> int:
        """Records taken in and not yet settled, of these partitions or of all."""

    @property
    def unacknowledged(self) -> int:
        """Messages that the broker has not acknowledged."""

    @property
    def has_room(self) -> bool:
        """False while the producer's memory is full: take no more in."""

    def hold(self, is_held: bool) -> None:
        """Pause (or resume) all assigned partitions; take() still serves the group."""

    def on_revoke(self, finish: Callable[[frozenset[Place], Deadline], None]) -> None:
        """What brings the records of partitions to an end, within the deadline, before they are handed over."""

    def commit(self) -> None:
        """Commit what is settled, and wait for the broker's answer."""
