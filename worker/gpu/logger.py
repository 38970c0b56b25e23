"""TensorRT's messages in the worker's log, and the last error for those who must explain a None."""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from typing import Any, Protocol

log = logging.getLogger("worker.tensorrt")

KEPT = 8  # errors of one failed call; the first of them is most often the cause


class TrtLogger(Protocol):
    """An ILogger that remembers."""

    def clear(self) -> None:
        """Forget the errors so far; call before what might fail."""

    def errors(self) -> str:
        """The errors since clear(), or a sentence saying that there were none."""


@functools.cache  # TensorRT keeps the first logger it sees for the whole process
def make_logger(trt: Any) -> TrtLogger:
    """The process's logger for this TensorRT module."""
    level_of = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.CRITICAL,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
        trt.ILogger.Severity.INFO: logging.INFO,
        trt.ILogger.Severity.VERBOSE: logging.DEBUG,
    }

    class WorkerLogger(trt.ILogger):  # type: ignore[misc]  # the module is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=KEPT)
            self._lock = threading.Lock()  # TensorRT logs from threads of its own

        def log(self, severity: Any, message: str) -> None:
            level = level_of.get(severity, logging.INFO)
            if level >= logging.ERROR:
                with self._lock:
                    self._errors.append(" ".join(message.split()))
            if log.isEnabledFor(level):
                log.log(level, "%s", message.rstrip())

        def clear(self) -> None:
            with self._lock:
                self._errors.clear()

        def errors(self) -> str:
            with self._lock:
                return "; ".join(self._errors) or "TensorRT gave no reason"

    logger: TrtLogger = WorkerLogger()
    return logger
