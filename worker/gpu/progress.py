"""How far a build is, out of TensorRT's nested phases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OnProgress = Callable[[str, float], None]  # (innermost phase, fraction of the whole between 0 and 1)


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: float = 0.0


class PhaseTree:
    """Phases that run inside one another; each child fills one step of its parent."""

    def __init__(self) -> None:
        self._phases: dict[str, _Phase] = {}
        self._furthest = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self._phases[name] = _Phase(parent, max(1, steps))

    def step(self, name: str, step: int) -> None:
        if name in self._phases:
            self._phases[name].done = step + 1.0

    def finish(self, name: str) -> None:
        self._phases.pop(name, None)

    @property
    def fraction(self) -> float:
        """Share of the whole that is done; never goes back."""
        share = 0.0
        weight = 1.0
        for phase in list(self._phases.values()):  # outermost first: a phase starts after its parent
            share += weight * min(phase.done, phase.steps) / phase.steps
            weight /= phase.steps
        self._furthest = max(self._furthest, min(share, 1.0))
        return self._furthest


def make_monitor(trt: Any, on_progress: OnProgress, should_stop: threading.Event) -> Any:
    """An IProgressMonitor that reports to `on_progress` and ends the build once `should_stop` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module is known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._tree = PhaseTree()
            self._lock = threading.Lock()  # phases may be reported from several threads

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._report(phase_name, lambda: self._tree.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, lambda: self._tree.step(phase_name, step))
            return not should_stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._report(phase_name, lambda: self._tree.finish(phase_name))

        def _report(self, phase_name: str, change: Callable[[], None]) -> None:
            with self._lock:
                change()
                fraction = self._tree.fraction
            on_progress(phase_name, fraction)

    return Monitor()
