"""Gathers requests of one shape into a batch until it is full, or its oldest record is old enough."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Generic

from worker.batching.open_batch import LaneT, OpenBatch
from worker.batching.padding import Padding, Placement
from worker.errors import BatchError, RecordError
from worker.records import Request
from worker.sections import PadSettings
from worker.tensors import ModelSpec, RequestShape, Shape

REMEMBERED = 4096  # distinct request shapes; more than that and the oldest knowledge is dropped at once


class MicroBatcher(Generic[LaneT]):
    """Batches that are filling, one per group of shapes, each already in its lane."""

    def __init__(
        self,
        model: ModelSpec,
        acquire: Callable[[], LaneT | None],
        *,
        max_rows: int,
        max_delay_s: float,
        pad: Mapping[str, PadSettings],
    ) -> None:
        """Args:
        model: what the rows are for.
        acquire: gives a free lane, or None while all are taken.
        max_rows: rows of a full batch.
        max_delay_s: age of the oldest record when a batch leaves that is not full; see take_due().
        pad: axes that are filled up to buckets, per input.
        """
        self._model = model
        self._acquire = acquire
        self.max_rows = max_rows
        self._max_delay_s = max_delay_s
        self._padding = Padding(model, pad)
        self._placements: dict[RequestShape, Placement] = {}
        self._filling: dict[tuple[Shape, ...], OpenBatch[LaneT]] = {}
        self._ready: list[OpenBatch[LaneT]] = []
        self._again: deque[Sequence[Request]] = deque()

    @property
    def due_s(self) -> float | None:
        """Monotonic time at which the next batch must leave; None while none is filling."""
        if self._ready:
            return self._ready[0].opened_s
        if not self._filling:
            return None
        return min(batch.opened_s for batch in self._filling.values()) + self._max_delay_s

    @property
    def filling(self) -> list[OpenBatch[LaneT]]:
        """The batches that are not yet full or due; a copy, for any thread."""
        return list(self._filling.values())

    @property
    def has_retries(self) -> bool:
        """Whether requests of a failed batch wait for a lane; they go before new ones."""
        return bool(self._again)

    def add(self, request: Request) -> bool:
        """Copy a request into its batch.

        Returns:
            False where that needs a lane and none is free: try again after a batch has left the backend.

        Raises:
            RecordError: this request can never be placed.
        """
        placement = self._placements.get(request.shape)
        if placement is None:
            placement = self._learn(request.shape)
        rows = request.shape.rows
        group = placement.group
        batch = self._filling.get(group)
        if batch is not None and batch.rows + rows > batch.max_rows:
            self._ready.append(self._filling.pop(group))
            batch = None
        if batch is None:
            batch = self._open(placement, request.taken_s)
            if batch is None:
                return False
            if rows > batch.max_rows:
                batch.lane.release()
                raise RecordError(
                    "too_large",
                    f"{rows} rows of {request.shape.total_bytes} bytes do not fit a batch (batching.max_bytes)",
                )
            self._filling[group] = batch
        batch.add(request, placement)
        if batch.rows >= batch.max_rows:
            self._ready.append(self._filling.pop(group))
        return True

    def add_run(self, requests: deque[Request]) -> None:
        """Move requests from the left that need no thought: they are like the first one, whose batch has room.

        That is what most requests do, at a third of what add() costs; what is left goes through add().
        """
        placement = self._placements.get(requests[0].shape) if requests else None
        if placement is None or placement.fills or placement.cuts:
            return
        batch = self._filling.get(placement.group)
        if batch is not None:
            batch.add_run(requests)
            if batch.rows >= batch.max_rows:
                self._ready.append(self._filling.pop(placement.group))

    def retry(self, requests: Sequence[Request]) -> None:
        """Put requests of a failed batch back, to run as a batch of their own."""
        self._again.append(requests)

    def take_due(self, now_s: float, *, everything: bool = False, only_full: bool = False) -> list[OpenBatch[LaneT]]:
        """The batches that must leave now: full ones, old ones, retries; with `everything`, all of them.

        With `only_full`, an old one that has room stays.

        The caller owns them and their lanes from here on.
        """
        while self._again and (batch := self._gather_again(self._again[0])) is not None:
            self._again.popleft()
            self._ready.append(batch)
        latest_s = now_s if everything else -inf if only_full else now_s - self._max_delay_s
        for group in [group for group, batch in self._filling.items() if batch.opened_s <= latest_s]:
            self._ready.append(self._filling.pop(group))
        due, self._ready = self._ready, []
        return due

    def abandon(self, is_lost: Callable[[Request], bool]) -> None:
        """Forget waiting retries of records that are no longer ours; what is in a lane runs for nothing."""
        kept = ([request for request in requests if not is_lost(request)] for requests in self._again)
        self._again = deque(requests for requests in kept if requests)

    def _learn(self, shape: RequestShape) -> Placement:
        placement = self._padding.place(shape)
        if len(self._placements) >= REMEMBERED:
            self._placements.clear()
        self._placements[shape] = placement
        return placement

    def _open(self, placement: Placement, opened_s: float) -> OpenBatch[LaneT] | None:
        lane = self._acquire()
        if lane is None:
            if self._filling and not self._ready:  # all seats taken by other shapes: let the oldest leave early
                oldest = min(self._filling, key=lambda group: self._filling[group].opened_s)
                self._ready.append(self._filling.pop(oldest))
            return None
        try:
            return OpenBatch(lane, self._model, placement.group, self.max_rows, opened_s)
        except BatchError as error:
            lane.release()
            raise RecordError("wrong_shape", f"the engine cannot run this shape: {error}") from error

    def _gather_again(self, requests: Sequence[Request]) -> OpenBatch[LaneT] | None:
        placements = [self._placements.get(request.shape) or self._learn(request.shape) for request in requests]
        batch = self._open(placements[0], requests[0].taken_s)
        if batch is not None:
            for request, placement in zip(requests, placements, strict=True):
                batch.add(request, placement)
        return batch
