"""`trt-worker run` as a process of its own, as an operator would start it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import yaml

READY_DEADLINE_S = 60.0


class WorkerProcess:
    """A worker on settings of its own; a context manager that leaves nothing running."""

    def __init__(self, directory: Path, name: str, settings: dict[str, Any]) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._config = directory / f"{name}.yaml"
        settings = {**settings, "http": {"host": "127.0.0.1", "port": 0, **settings.get("http", {})}}
        self._config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None

    def start(self) -> Self:
        """Start it and return at once."""
        self._port = None
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker", "run", "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self

    def await_ready(self) -> Self:
        """Wait until /readyz says yes."""
        deadline_s = time.monotonic() + READY_DEADLINE_S
        while time.monotonic() < deadline_s:
            if self.exit_code is not None:
                raise RuntimeError(f"{self.name} ended with {self.exit_code}:\n{self.log.read_text()[-4000:]}")
            if self.port is not None and self.get("/readyz")[0] == 200:
                return self
            time.sleep(0.05)
        raise TimeoutError(f"{self.name} is not ready:\n{self.log.read_text()[-4000:]}")

    @property
    def process(self) -> psutil.Process:
        """For memory and CPU time."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    @property
    def exit_code(self) -> int | None:
        assert self._process is not None
        return self._process.poll()

    @property
    def port(self) -> int | None:
        """The HTTP port, once the log tells it."""
        if self._port is None:
            for line in self.log.read_text(encoding="utf-8").splitlines():
                if '"message": "http on ' in line:
                    self._port = int(json.loads(line)["message"].rpartition(":")[2])
        return self._port

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of a GET; status 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def status(self) -> Any:
        """What /status answers."""
        return json.loads(self.get("/status")[1])

    def terminate(self, wait_s: float = 60.0) -> int:
        """SIGTERM, and the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(wait_s)

    def kill(self) -> None:
        """SIGKILL: no drain, no commit, no leaving the group."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        if error is not None and self.log.exists():
            sys.stderr.write(f"--- {self.name}\n{self.log.read_text()[-3000:]}\n")
