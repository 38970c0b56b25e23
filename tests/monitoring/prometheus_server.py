"""A Prometheus of our own: own process, own port, own data, never the system's service."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

from tests.kafka_server import free_ports

START_DEADLINE_S = 30.0
PROGRAMS = ("prometheus", "promtool")


def require() -> None:
    """Skip the test where Prometheus is not installed; with CI=true that is a failure."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if not missing:
        return
    reason = f"needs {' and '.join(missing)} (Debian, Ubuntu: apt install prometheus)"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; with CI=true that is a failure", pytrace=False)
    pytest.skip(reason)


class Prometheus:
    """Scrapes every second from start to end; a context manager that leaves nothing running."""

    def __init__(self, directory: Path, targets: Sequence[Mapping[str, Any]], rules: Path) -> None:
        """Args:
        directory: an empty folder.
        targets: static_configs of the job trt-worker.
        rules: a rules file, evaluated every second.
        """
        self._directory = directory
        self._log = directory / "prometheus.log"
        self.address = f"127.0.0.1:{next(free_ports(1))}"
        settings = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "trt-worker", "static_configs": [dict(each) for each in targets]}],
        }
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._directory / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={self._directory / 'data'}",
                    f"--web.listen-address={self.address}",
                    "--log.level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        give_up_s = time.monotonic() + START_DEADLINE_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up_s:
                self._end()
                raise RuntimeError(f"Prometheus does not start:\n{self._log.read_text()[-3000:]}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of its HTTP interface; a query that does not parse raises HTTPError."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def over_time(self, query: str, start_s: float, end_s: float) -> list[tuple[dict[str, str], list[float]]]:
        """Every series of a query with its finite values, second by second."""
        answer = self.ask("query_range", query=query, start=str(start_s), end=str(end_s), step="1")
        return [
            (series["metric"], [float(value) for _, value in series["values"] if math.isfinite(float(value))])
            for series in answer["result"]
        ]

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
