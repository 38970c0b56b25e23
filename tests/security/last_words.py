"""How a worker that was refused ended."""

from __future__ import annotations

import time

from tests.system.worker_process import WorkerProcess


def last_words(worker: WorkerProcess, timeout_s: float = 60.0) -> str:
    """The one line that a refused worker leaves, once it has ended with exit code 4; no traceback, no flood."""
    deadline_s = time.monotonic() + timeout_s
    while worker.exit_code is None and time.monotonic() < deadline_s:
        time.sleep(0.05)
    text = worker.log.read_text(encoding="utf-8")
    assert worker.exit_code == 4, text[-3000:]
    assert "Traceback" not in text
    *lines, last = text.splitlines()
    assert len(lines) < 60, text[-3000:]
    assert all(line.startswith("{") for line in lines), text  # the log; nothing speaks past it
    assert last.startswith("trt-worker: ")
    return last
