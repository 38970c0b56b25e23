"""`trt-worker run` whose engine process dies of one value: `python -m tests.intake.runner CONFIG VALUE`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from worker import cli
from worker.cpu.onnx_session import OnnxSession


def main() -> None:
    config, value = sys.argv[1], float(sys.argv[2])
    run = OnnxSession.run

    def run_or_die(self: OnnxSession, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """As a crash in the driver would have it."""
        if any((array == value).any() for array in arrays):
            os.abort()
        return run(self, arrays)

    OnnxSession.run = run_or_die  # type: ignore[method-assign]
    sys.argv = ["trt-worker", "run", "--config", config]
    cli.main()


if __name__ == "__main__":
    main()
