"""How long the stages of a batch take on the GPU, measured on a batch now and then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from worker.gpu.cuda_runtime import Cuda, Handle

STAGES = ("h2d", "compute", "d2h")
SAMPLE_EVERY_S = 0.25  # a timed batch costs up to three times a graph's launch, so few are timed
NOTHING: Mapping[str, float] = {}


class StageClock:
    """Four events around the three stages. Made by stage_clock()."""

    def __init__(self, cuda: Cuda, events: list[Handle], sample_every_s: float = SAMPLE_EVERY_S) -> None:
        self._cuda = cuda
        self._events = events
        self._sample_every_s = sample_every_s
        self._next_s = 0.0
        self.is_marked = False  # the batch that is running is timed
        self.seconds: Mapping[str, float] = NOTHING

    def is_due(self, clock_s: float) -> bool:
        """Whether the batch launched now should be timed; forgets the last one's times."""
        self.seconds = NOTHING
        if clock_s < self._next_s:
            return False
        self._next_s = clock_s + self._sample_every_s
        return True

    def mark(self, place: int, *, stream: Handle) -> None:
        """Enqueue the border before stage `place`; 3 ends the last one."""
        self._cuda.record(self._events[place], stream=stream)
        self.is_marked = place == len(STAGES)

    def read(self) -> None:
        """Take the times of the batch that has just ended; it was timed."""
        self.is_marked = False
        pairs = zip(STAGES, self._events, self._events[1:], strict=False)
        self.seconds = {stage: self._cuda.elapsed_s(start, end) for stage, start, end in pairs}


@contextmanager
def stage_clock(cuda: Cuda) -> Iterator[StageClock]:
    """A clock whose events are destroyed on exit."""
    with ExitStack() as stack:
        events = []
        for _ in range(len(STAGES) + 1):
            event = cuda.create_event(has_timing=True)
            stack.callback(cuda.destroy_event, event)
            events.append(event)
        yield StageClock(cuda, events)
