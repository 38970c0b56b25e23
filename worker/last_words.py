"""The end of a process whose backend does not answer any more: it may not let itself be closed either."""

from __future__ import annotations

import os
import sys
import threading

from worker.errors import GpuError

CLOSING_S = 10.0


def hung(after_s: float) -> GpuError:
    """The error of a batch that does not come back; the process ends soon after this, even if closing hangs, too."""
    error = GpuError(
        f"a batch did not come back from its lane in {after_s:g} s; its records will be run alone. If such batches are "
        "normal here, raise engine.lane_timeout_s"
    )

    def end() -> None:
        sys.stderr.write(f"trt-worker: {error}\n")
        sys.stderr.flush()
        os._exit(error.exit_code)

    timer = threading.Timer(CLOSING_S, end)
    timer.daemon = True
    timer.start()
    return error
