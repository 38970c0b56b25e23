"""`trt-worker run` whose engine does what a test wants: `python -m tests.system.scripted_worker CONFIG JSON`.

What the JSON may ask for:

    load_s     the engine takes so long to load and to pass its self-test
    batch_s    a batch takes so long; one lane, so that nothing runs beside it
    block      a batch with this value in it never lets the loop go on
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from typing import Any, Self

from tests.records import model_of, spec
from tests.scripted_backend import Action, Answer, Batch, ScriptedBackend
from tests.system.traffic import COLUMNS
from tests.system.worker_process import WorkerProcess
from worker import assemble, cli
from worker.config import Settings

ROOT = Path(__file__).parent.parent.parent


class ScriptedWorker(WorkerProcess):
    """That as a process; see system/conftest.py for workers of the real kind."""

    def __init__(self, directory: Path, name: str, settings: dict[str, Any], script: dict[str, float]) -> None:
        super().__init__(directory, name, settings)
        self._script = script

    def start(self) -> Self:
        with self.log.open("wb") as log:
            self._process = Popen(
                [sys.executable, "-m", "tests.system.scripted_worker", str(self._config), json.dumps(self._script)],
                cwd=ROOT,
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
            )
        return self

    def await_port(self, timeout_s: float = 30.0) -> Self:
        """Wait until the HTTP port is open: long before it is ready."""
        give_up_s = time.monotonic() + timeout_s
        while self.port is None:
            assert time.monotonic() < give_up_s, self.log.read_text()
            time.sleep(0.02)
        return self


def main() -> None:
    config, options = sys.argv[1], json.loads(sys.argv[2])
    batch_s, block = options.get("batch_s", 0.001), options.get("block")

    def script(batch: Batch) -> Action:
        while block is not None and batch.has(block):
            time.sleep(1)
        return Answer(after_s=batch_s)

    @contextmanager
    def open_backend(settings: Settings) -> Iterator[ScriptedBackend]:
        time.sleep(options.get("load_s", 0))
        model = model_of(spec("x", shape=(-1, COLUMNS)), outputs=(spec("y", shape=(-1, COLUMNS)),))
        rows = settings.batching.max_rows
        yield ScriptedBackend(model, script, lanes=1, max_rows=rows, max_bytes=rows * 4 * COLUMNS)

    assemble.open_backend = open_backend
    sys.argv = ["trt-worker", "run", "--config", config]
    cli.main()


if __name__ == "__main__":
    main()
