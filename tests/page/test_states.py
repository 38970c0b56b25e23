"""The page of a worker that starts, drains, hangs, goes away or is large: the real port, made-up numbers."""

from __future__ import annotations

import copy
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page.browser import DESKTOP, PHONE, TABLET, Browser
from tests.page.conftest import Demo
from worker.health import DRAINING_CHECK, ENGINE_CHECK, Health, HealthServer, Heartbeat
from worker.sections import HttpSettings

H200 = {
    "gpu": "NVIDIA H200",
    "compute_capability": "9.0",
    "tensorrt": "tensorrt 10.6.0",
    "plan": "0123456789ab",
    "reason": "built for exactly this GPU (NVIDIA H200); by this TensorRT (10.6.0)",
    "cuda_graphs": "64, 8, 1 rows",
}


class Worker:
    """A port whose numbers a test makes up."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.status = copy.deepcopy(status)
        self.asked = 0
        self.heartbeat = Heartbeat()
        self.health = Health(HttpSettings(stalled_after_s=30.0), self.heartbeat)
        self.port = 0
        self.come()

    def load(self) -> None:
        """From now on the engine is there."""
        self.health.checks = {ENGINE_CHECK: lambda: True, "broker reached": lambda: True, DRAINING_CHECK: lambda: True}
        self.health.status = self._told

    def come(self) -> None:
        self._server = HealthServer(HttpSettings(host="127.0.0.1", port=self.port), self.health)
        self.port = self._server.port

    def go(self) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def _told(self) -> dict[str, Any]:
        self.asked += 1
        return self.status


@pytest.fixture(scope="module")
def real_status(demo: Demo) -> dict[str, Any]:
    """What a real worker says, for tests to change."""
    with urllib.request.urlopen(f"{demo.url}status", timeout=5) as answer:
        told: dict[str, Any] = json.load(answer)
    return {name: value for name, value in told.items() if name not in ("is_alive", "is_ready", "checks")}


@pytest.fixture
def worker(real_status: dict[str, Any]) -> Iterator[Worker]:
    opened = Worker(real_status)
    opened.load()
    yield opened
    opened.go()


def test_a_worker_that_went_away_is_missed_and_found_again(browser: Browser, worker: Worker, picture: Path) -> None:
    """Nobody reloads: the page says that its numbers are old, and goes on when the worker is back."""
    browser.open(worker.url, PHONE)
    browser.await_(lambda: browser.text("state-word") == "Ready")
    worker.go()
    browser.await_(lambda: browser.text("state-word") == "No answer")
    assert "does not answer" in browser.text("away")
    assert browser.number("flow-inTotal") > 0, "the last numbers stay"
    assert browser.ask("return document.body.dataset.moving") == "no"
    assert [(text, ratio) for text, ratio in browser.contrasts() if ratio < 4.5] == []
    browser.screenshot(picture)
    worker.status["records"]["taken"] = 7_654_321
    worker.come()
    browser.await_(lambda: browser.number("flow-inTotal") == 7_654_321)
    assert browser.text("state-word") == "Ready"
    assert browser.text("away") == ""


def test_a_worker_that_loads_is_starting_and_then_shown(browser: Browser, worker: Worker) -> None:
    """The port is open long before the engine is loaded."""
    worker.health.checks, worker.health.status = {ENGINE_CHECK: lambda: False}, dict
    browser.open(worker.url)
    browser.await_(lambda: browser.text("state-word") == "Starting")
    assert browser.text("engine") == ""
    worker.load()
    browser.await_(lambda: browser.text("state-word") == "Ready" and browser.number("flow-inTotal") > 0)
    assert browser.console() == []


@pytest.mark.parametrize(
    ("check", "word", "why"),
    [("broker reached", "Not ready", "missing: broker reached"), (DRAINING_CHECK, "Draining", "finishes")],
)
def test_what_is_not_ready_says_why(browser: Browser, worker: Worker, check: str, word: str, why: str) -> None:
    browser.open(worker.url)
    browser.await_(lambda: browser.text("state-word") == "Ready")
    worker.health.checks[check] = lambda: False
    browser.await_(lambda: browser.text("state-word") == word)
    assert why in browser.text("state-why")


def test_a_loop_that_hangs_is_said(browser: Browser, worker: Worker) -> None:
    worker.health._stalled_after_s = 0.5
    worker.heartbeat.beat()
    time.sleep(0.6)
    browser.open(worker.url)
    browser.await_(lambda: browser.text("state-word") == "Stalled")


def test_nobody_asks_while_nobody_looks(browser: Browser, worker: Worker) -> None:
    """A hundred forgotten tabs must not cost the worker anything."""
    browser.open(worker.url)
    browser.await_(lambda: worker.asked >= 3)
    tab = browser.leave()
    time.sleep(1.5)  # an answer may be on its way
    asked = worker.asked
    time.sleep(3)
    assert worker.asked == asked
    browser.come_back(tab)
    browser.await_(lambda: worker.asked > asked + 1)


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_who_wants_no_motion_gets_none(browser: Browser, worker: Worker, motion: str) -> None:
    worker.status["records"]["taken_per_second"] = 5.0
    browser.open(worker.url, motion=motion)
    browser.await_(lambda: browser.text("state-word") == "Ready")
    running = browser.ask("return document.getAnimations().length")
    assert (running == 0) == (motion == "reduce")


@pytest.mark.parametrize("size", [DESKTOP, (1010, 900), TABLET, PHONE], ids=["desktop", "narrow", "tablet", "phone"])
def test_a_large_worker_fits(browser: Browser, worker: Worker, picture: Path, size: tuple[int, int]) -> None:
    """Many lanes, many partitions, long names, large numbers, on an H200."""
    topic, status = "a-topic.with-a-rather-long-name." * 4, worker.status
    lanes = [{"state": ("running", "filling", "free")[n % 3], "rows": 8 * n, "max_rows": 128} for n in range(12)]
    status["lanes"] = {"all": 12, "busy": 8, "busy_ratio": 0.973, "each": lanes}
    status["model"] |= {"name": "a" * 80, "version": "2026-11-03"}
    status["engine"] = H200
    status["kafka"] |= {
        "input_topics": [topic, "other"],
        "output_topic": topic,
        "group_id": topic,
        "partitions": [f"{topic}/{n}" for n in range(200)],
        "lags": {f"{topic}/{n}": 1000 * n for n in range(200)},
        "lag": 19_900_000,
    }
    numbers = {"taken": 8_123_456_789, "published": 8_123_450_000, "refused": 123_456, "taken_per_second": 1_234_567.0}
    status["records"] |= {**numbers, "published_per_second": 234_567.8, "refused_per_second": 12.5}
    refusal = {
        "time_s": 1.0,
        "code": "inference_failed",
        "source": f"{topic}/199/8123456789",
        "message": "<b>x</b>" * 37,
    }
    status["refused"] = [refusal] * 10
    browser.open(worker.url, size)
    browser.await_(lambda: browser.text("state-word") == "Ready")
    browser.screenshot(picture)
    assert browser.ask("return document.documentElement.scrollWidth") <= size[0]
    assert browser.overflow() == []
    assert browser.overlaps() == []
    assert "NVIDIA H200, compute capability 9.0" in browser.text("engine")
    assert "built for exactly this GPU" in browser.text("engine")
    assert browser.text("flow-more") == "and 4 more lanes"
    told = browser.ask("return [...document.querySelectorAll('#flow .told')].map((node) => node.textContent)")
    assert told[3:6] == ["running 24 of 128 rows", "filling 32 of 128 rows", "free, last 40 of 128 rows"]
    assert "199,000" in browser.text("partitions")
    assert f"{topic}/199" in browser.text("partitions")
    assert "16 of 200" in browser.text("partitions")
    assert browser.ask("return document.querySelectorAll('main b').length") == 0
    assert browser.console() == []


def test_a_share_group_has_no_lag_of_its_own(browser: Browser, worker: Worker) -> None:
    worker.status["delivery"]["mode"] = "queue"
    worker.status["kafka"] |= {"partitions": [], "lags": {}, "lag": 0}
    browser.open(worker.url)
    browser.await_(lambda: browser.text("lag") == "–")
    assert "share group" in browser.text("no-partitions")
    assert browser.console() == []
