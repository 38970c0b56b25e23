"""An intake process's end of the link to the engine process: what it is told, and what it tells."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from worker.errors import FatalError, GpuError

log = logging.getLogger(__name__)

LOOK_S = 0.2  # between looks whether we are calm
CALM_LOOKS = 5  # so often in a row
CLOSING_S = 10.0  # after the engine process is gone: time to leave the group


class Link:
    """JSON lines both ways: hello() first; then start(), and the rest happens on a thread."""

    def __init__(self, link: socket.socket) -> None:
        self._socket = link
        self._buffer = b""
        self._lock = threading.Lock()  # the pipeline's thread tells, too
        self._calm_looks = 0
        self._look_s = 0.0
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self.report: Callable[[], Mapping[str, Any]] = dict
        self.is_calm: Callable[[], bool] = lambda: True
        self.stop: Callable[[], None] = lambda: None
        self.may_leave = threading.Event()  # all the others have drained, too, or the engine process is gone

    def hello(self) -> str:
        """What the engine process says first.

        Raises:
            GpuError: it is gone.
        """
        if (command := self._next(None)) is None:
            raise GpuError("the engine process is gone")
        text: str = command["hello"]
        return text

    def start(self) -> None:
        """Answer questions and obey from now on; when the engine process is gone, this one ends in CLOSING_S."""
        self._thread.start()

    def tell(self, news: Mapping[str, Any]) -> None:
        with self._lock:
            self._socket.sendall(json.dumps(news).encode() + b"\n")

    def tell_fatal(self, error: FatalError) -> None:
        """Why no restart would help."""
        try:
            self.tell({"fatal": error.exit_code, "text": str(error)})
        except OSError:  # nobody is there to end for it
            sys.stderr.write(f"trt-worker: {error}\n")

    def _run(self) -> None:
        try:
            while (command := self._next(LOOK_S)) is not None:
                if "ask" in command:
                    self.tell({**self._reported(), "number": command["ask"]})
                elif "stop" in command:
                    self.stop()
                elif "leave" in command:
                    self.may_leave.set()
                self._look()
        except OSError:
            pass
        except Exception:  # whoever does not hear "stop" any more must not go on
            log.exception("the link to the engine process failed")
            self.stop()
        self.may_leave.set()
        timer = threading.Timer(CLOSING_S, os._exit, (GpuError.exit_code,))
        timer.daemon = True
        timer.start()

    def _reported(self) -> Mapping[str, Any]:
        """The report; without it the last one counts."""
        try:
            return {"report": self.report()}
        except Exception:  # one that fails must not cost the next ones
            log.exception("a report failed")
            return {}

    def _look(self) -> None:
        now_s = time.monotonic()
        if self._calm_looks >= CALM_LOOKS or now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_S
        self._calm_looks = self._calm_looks + 1 if self.is_calm() else 0
        if self._calm_looks == CALM_LOOKS:
            self.tell({"calm": True})

    def _next(self, timeout_s: float | None) -> Mapping[str, Any] | None:
        """The next command; an empty one after timeout_s; None: hung up."""
        while b"\n" not in self._buffer:
            if timeout_s is not None and not select.select([self._socket], [], [], timeout_s)[0]:
                return {}
            data = self._socket.recv(1 << 16)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        command: Mapping[str, Any] = json.loads(line)
        return command
