"""Workers of several intake processes on real Kafka: nothing lost, nothing doubled that need not be, one service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from tests.delivery.flow import Flow
from tests.system.conftest import PARTITIONS, Site
from tests.system.traffic import lag, publish, request
from tests.system.worker_process import WorkerProcess

ROOT = Path(__file__).parent.parent.parent
TWO = {"intake_processes": 2, "backend": "cpu"}
QUICK = {"consumer": {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}}
GUILTY = 333
MAX_ATTEMPTS = 3


class MortalWorker(WorkerProcess):
    """Its engine process dies of GUILTY; see runner.py."""

    def start(self) -> Self:
        self._port = None
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.intake.runner", str(self._config), str(GUILTY)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self


def await_that(holds: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Wait until it holds; what it returned last."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := holds()) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return found


def intake_processes(worker: WorkerProcess, count: int = 2) -> list[psutil.Process]:
    """Those that serve, all of them, by index."""
    told: list[Any] = []

    def all_there() -> bool:
        told[:] = worker.status().get("intake_processes", [])
        return len(worker.process.children()) == count and len(told) == count and all(each["pid"] for each in told)

    assert await_that(all_there), worker.log.read_text()
    return [psutil.Process(each["pid"]) for each in told]


def metric(worker: WorkerProcess, series: str) -> float:
    """The sum of all series whose line begins so."""
    lines = worker.get("/metrics")[1].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(series))


@pytest.fixture
def per_second() -> float:
    """Of the load; a test may choose another."""
    return 2_000.0


@pytest.fixture
def flow(site: Site, per_second: float) -> Iterator[Flow]:
    """A load that goes on until it is stopped."""
    made = Flow(site.servers, site.input_topic, PARTITIONS, 1 << 30, per_second)
    yield made
    made.stop()


def published(count: int) -> list[int]:
    """Records of each partition, of so many that the flow has sent."""
    return [len(range(number, count, PARTITIONS)) for number in range(PARTITIONS)]


@pytest.mark.timeout(150)
def test_a_killed_intake_process_is_replaced_and_every_request_is_answered(site: Site, flow: Flow) -> None:
    """Its partitions move, its seats are used again, the counters never go back; then a drain leaves no lag."""
    reader = site.reader()
    worker = site.worker(engine=TWO, kafka=QUICK).start().await_ready()
    victim = intake_processes(worker)[1]
    libraries = {Path(entry.path).name for entry in victim.memory_maps()}
    assert not any("onnx" in name or "nvinfer" in name for name in libraries), "a member needs no engine"
    assert os.getpgid(victim.pid) != os.getpgid(worker.process.pid), "Ctrl-C would reach it before the drain"
    flow.start()
    reader.read(until=4_000, timeout_s=60)
    results_before = metric(worker, "trt_worker_results_published_total")
    assert results_before > 0
    victim.kill()
    assert await_that(lambda: worker.status()["intake_processes"][1]["restarts"] == 1)
    assert metric(worker, "trt_worker_results_published_total") >= results_before
    so_far = len(reader.answers.times)
    reader.read(until=so_far + 4_000, timeout_s=60)
    count = flow.stop()
    answers = reader.read(until=count, timeout_s=60, quiet_s=1)
    assert len(answers.times) == count
    assert answers.wrong == []
    assert worker.get("/healthz")[0] == 200
    assert worker.terminate() == 0
    assert lag(site.servers, site.group, published(count)) == 0


@pytest.mark.timeout(150)
def test_sigterm_under_load_drains_them_all(site: Site, flow: Flow) -> None:
    """What was taken in is answered and committed: the successor repeats nothing. The metrics are everybody's sum."""
    reader = site.reader()
    first = site.worker("first", engine=TWO).start().await_ready()
    flow.start()
    intake_processes(first)  # a rebalance is on its way when the signal comes
    reader.read(until=4_000, timeout_s=60)
    assert first.terminate() == 0
    behind = reader.read(until=0, timeout_s=30, quiet_s=1)
    assert behind.duplicates == 0
    answered = len(behind.times)
    second = site.worker("second", engine=TWO).start().await_ready()
    reader.read(until=answered + 4_000, timeout_s=60)
    count = flow.stop()
    answers = reader.read(until=count, timeout_s=60, quiet_s=1)
    assert len(answers.times) == count
    assert answers.duplicates == 0
    assert answers.wrong == []
    assert answers.out_of_order() == 0
    expected = count - answered
    assert await_that(lambda: metric(second, "trt_worker_results_published_total") == expected)
    assert metric(second, "trt_worker_records_consumed_total") == expected
    assert metric(second, "trt_worker_end_to_end_seconds_count") == expected
    assert second.status()["records"]["settled"] == expected
    assert metric(second, "trt_worker_lanes ") == 3
    second.process.send_signal(signal.SIGINT)
    assert await_that(lambda: second.exit_code is not None, 60.0), second.log.read_text()[-3000:]
    assert second.exit_code == 0
    assert lag(site.servers, site.group, published(count)) == 0


@pytest.mark.timeout(120)
def test_intake_processes_go_with_the_engine_process(site: Site) -> None:
    """kill -9 of the parent: no orphans, and what they had not committed is answered by the successor."""
    count = 6_000
    publish(site.servers, site.input_topic, (request(n) for n in range(count)), PARTITIONS)
    reader = site.reader()
    first = site.worker("first", engine=TWO, kafka=QUICK).start().await_ready()
    reader.read(until=1, timeout_s=60)
    orphans = first.process.children()
    assert orphans
    first.kill()
    _, alive = psutil.wait_procs(orphans, timeout=8)
    assert not alive
    second = site.worker("second", engine=TWO, kafka=QUICK).start().await_ready()
    answers = reader.read(until=count, timeout_s=60)
    assert len(answers.times) == count
    assert answers.wrong == []
    # what the first had answered and not committed is answered again, behind the last of them, it may be
    assert await_that(lambda: lag(site.servers, site.group, published(count)) == 0)
    assert second.terminate() == 0


@pytest.mark.timeout(150)
@pytest.mark.parametrize("per_second", [500.0])  # care after the death takes a transaction for 64 records
def test_exactly_once_holds_when_an_intake_process_is_killed(site: Site, flow: Flow) -> None:
    """A reader of committed data sees every answer, and every one once."""
    reader = site.reader()
    exactly_once = {"mode": "exactly_once", "transactional_id": site.group}
    worker = site.worker(engine=TWO, kafka=QUICK, delivery=exactly_once).start().await_ready()
    victim = intake_processes(worker)[0]
    flow.start()
    reader.read(until=1_000, timeout_s=60)
    victim.kill()
    assert await_that(lambda: worker.status()["intake_processes"][0]["restarts"] == 1)
    reader.read(until=len(reader.answers.times) + 1_000, timeout_s=60)
    count = flow.stop()
    answers = reader.read(until=count, timeout_s=60, quiet_s=2)
    assert len(answers.times) == count
    assert answers.duplicates == 0
    assert answers.wrong == []
    assert answers.out_of_order() == 0
    assert worker.terminate() == 0
    assert lag(site.servers, site.group, published(count)) == 0


@pytest.mark.timeout(120)
def test_a_record_that_takes_the_engine_process_down_becomes_a_dead_letter_and_no_other(site: Site) -> None:
    """Recognised by the marks of the intake process that had it; what ran beside it in another one is not blamed."""
    count = 600
    publish(site.servers, site.input_topic, (request(number) for number in range(count)), PARTITIONS)
    reader = site.reader()
    settings = site.settings(engine=TWO, kafka=QUICK, delivery={"max_attempts": MAX_ATTEMPTS})
    with MortalWorker(site.directory, "mortal", settings) as worker:
        worker.start()
        deaths = 0
        deadline_s = time.monotonic() + 90
        while time.monotonic() < deadline_s and len(reader.read(until=count, timeout_s=0.3).times) < count:
            if worker.exit_code is not None:
                deaths += 1
                worker.start()
        answers = reader.read(until=count, timeout_s=5, quiet_s=1)
        assert len(answers.times) == count
        assert answers.errors == {"inference_failed": 1}
        assert answers.wrong == []
        assert deaths == MAX_ATTEMPTS
        assert worker.await_ready().terminate() == 0


@pytest.mark.timeout(60)
def test_what_no_restart_mends_ends_the_service_with_its_exit_code(site: Site) -> None:
    """The engine process says why, in one line, as a worker of one process does."""
    worker = site.worker(engine=TWO, kafka={"output_topic": "nowhere"}).start()
    assert await_that(lambda: worker.exit_code is not None)
    assert worker.exit_code == 4
    (line,) = [line for line in worker.log.read_text().splitlines() if line.startswith("trt-worker:")]
    assert "topic nowhere does not exist" in line
    assert "Traceback" not in worker.log.read_text()


@pytest.mark.timeout(60)
def test_there_is_no_service_of_no_processes(site: Site) -> None:
    worker = site.worker(engine={"intake_processes": 0}).start()
    assert await_that(lambda: worker.exit_code is not None)
    assert worker.exit_code == 2
    assert "engine.intake_processes is 0" in worker.log.read_text()
