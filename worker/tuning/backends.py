"""The engine with so many lanes, with and without graphs: opened when first needed, kept while memory allows."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

from worker import assemble
from worker.config import Settings
from worker.errors import GpuError
from worker.protocols import Backend
from worker.tuning.measurement import Graphs, Setting
from worker.tuning.trial import settings_with


class Backends:
    """A context manager; one thread calls it, the one that runs the batches."""

    def __init__(self, settings: Settings, max_rows: int) -> None:
        """Args:
        settings: sections model, engine and batching are used.
        max_rows: of every backend; smaller batches run on it too.
        """
        self._settings = settings
        self._max_rows = max_rows
        self._open: dict[tuple[int, Graphs], tuple[Backend, ExitStack]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, setting: Setting) -> Backend:
        """The backend for this setting's lanes and graphs.

        Raises:
            ConfigError, EngineError: nothing here can run the model.
            GpuError: too little memory for so many lanes, even alone.
        """
        key = (setting.lanes, setting.cuda_graphs)
        if key not in self._open:
            try:
                self._open[key] = self._open_one(setting)
            except GpuError:
                if not self._open:
                    raise
                self.close()  # alone it may fit
                self._open[key] = self._open_one(setting)
        return self._open[key][0]

    def close(self) -> None:
        """Free all of them."""
        while self._open:
            _, (_, stack) = self._open.popitem()
            stack.close()

    def _open_one(self, setting: Setting) -> tuple[Backend, ExitStack]:
        largest = Setting(self._max_rows, setting.max_delay_ms, setting.lanes, setting.cuda_graphs)
        with ExitStack() as stack:
            backend = stack.enter_context(assemble.open_backend(settings_with(self._settings, largest)))
            return backend, stack.pop_all()
