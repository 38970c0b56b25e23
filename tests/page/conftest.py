"""A browser for all tests of the page, and a demo to look at."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.page.browser import Browser

RATE = 150


@dataclass(frozen=True)
class Demo:
    url: str  # of the page
    bootstrap_servers: str


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        reason = "needs Chromium and its driver (Debian: apt install chromium chromium-driver)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; with CI=true that is a failure", pytrace=False)
        pytest.skip(reason)
    with Browser(chromium, driver, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")  # it goes on working, and so must not outlive the tests of the page
def demo() -> Iterator[Demo]:
    """`trt-worker demo --keep-running`, once its first requests are answered and traffic goes on."""
    command = [sys.executable, "-m", "worker", "demo", "--requests", str(RATE), "--rate", str(RATE), "--keep-running"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"(http://127\.0\.0\.1:(\d+)/)$", line.rstrip()):
                break
        else:
            pytest.fail(f"the demo does not run:\n{said}")
        yield Demo(found[1], _broker_of(process.pid, int(found[2])))
    finally:
        process.kill()
        process.communicate()


def _broker_of(pid: int, http_port: int) -> str:
    """The address of the broker inside this process: the other port that it listens on."""
    listening = [
        each.laddr.port for each in psutil.Process(pid).net_connections("tcp") if each.status == psutil.CONN_LISTEN
    ]
    (port,) = set(listening) - {http_port}
    return f"127.0.0.1:{port}"


@pytest.fixture
def picture(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Where this test's screenshot goes."""
    return tmp_path / f"{re.sub(r'[^a-z0-9]+', '-', request.node.name.lower()).strip('-')}.png"
