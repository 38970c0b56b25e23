"""The worker itself, on a thread of this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future

from worker import assemble
from worker.assemble import Service
from worker.config import Settings


class Resident:
    """Builds, runs and frees a Service, all on one thread: what it owns may be bound to the thread that made it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._service: Future[Service] = Future()
        self._error: BaseException | None = None
        self._is_stopping = False
        self._thread = threading.Thread(target=self._live, name="worker", daemon=True)
        self._thread.start()

    def await_start(self, timeout_s: float) -> Service | None:
        """The service once it is built, or None after `timeout_s`.

        Raises:
            FatalError: it could not be built.
        """
        try:
            return self._service.result(timeout_s)
        except TimeoutError:
            return None

    def check(self) -> None:
        """Raise what ended the worker, if something did."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Let the worker finish what it has taken in; returns when it has left. Idempotent."""
        self._is_stopping = True
        if self._service.done() and self._service.exception() is None:
            self._service.result().stop()
        self._thread.join()

    def _live(self) -> None:
        try:
            with assemble.build(self._settings) as service:
                self._service.set_result(service)
                if self._is_stopping:  # stopped while it was being built
                    service.stop()
                service.run()
        except BaseException as error:  # noqa: BLE001  # the main thread raises it, in await_start() or check()
            self._error = error
            if not self._service.done():
                self._service.set_exception(error)


@contextlib.contextmanager
def resident(settings: Settings) -> Iterator[Resident]:
    """A worker that lives as long as the block."""
    worker = Resident(settings)
    try:
        yield worker
    finally:
        worker.stop()
