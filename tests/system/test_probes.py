"""What Kubernetes is told: by the service itself, with real Kafka, when it loads, is cut off, hangs and drains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.kafka_server import KafkaCluster
from tests.system.conftest import PARTITIONS, Site
from tests.system.scripted_worker import ScriptedWorker
from tests.system.traffic import committed, publish, request

MakeWorker = Callable[..., ScriptedWorker]
ROWS = 16


@pytest.fixture
def scripted(site: Site) -> Iterator[MakeWorker]:
    """A worker with a scripted engine, not yet started."""
    with ExitStack() as stack:

        def make(*, stalled_after_s: float = 30.0, servers: str = site.servers, **script: float) -> ScriptedWorker:
            settings = site.settings(
                http={"stalled_after_s": stalled_after_s},
                batching={"max_rows": ROWS},
                kafka={"bootstrap_servers": servers},
            )
            return stack.enter_context(ScriptedWorker(site.directory, "scripted", settings, script))

        yield make


def probes(worker: ScriptedWorker) -> tuple[int, int]:
    """(liveness, readiness) as HTTP status codes."""
    return worker.get("/healthz")[0], worker.get("/readyz")[0]


def await_probes(worker: ScriptedWorker, wanted: tuple[int, int], timeout_s: float) -> float:
    """Wait until the probes say this; the seconds that took."""
    start_s = time.monotonic()
    while (seen := probes(worker)) != wanted:
        assert worker.exit_code is None, f"it ended with {worker.exit_code}:\n{worker.log.read_text()[-4000:]}"
        assert time.monotonic() - start_s < timeout_s, f"after {timeout_s:g} s the probes say {seen}, not {wanted}"
        time.sleep(0.05)
    return time.monotonic() - start_s


def test_it_is_alive_and_not_ready_until_the_engine_has_passed_its_self_test(scripted: MakeWorker) -> None:
    """However long loading takes: a restart would only make it load again."""
    load_s = 3.0
    worker = scripted(stalled_after_s=0.5, load_s=load_s).start().await_port()
    start_s = time.monotonic()
    seen = set()
    while time.monotonic() - start_s < load_s - 0.5:
        seen.add(probes(worker))
        time.sleep(0.1)
    assert seen == {(200, 503)}
    assert "FAILED: engine loaded, self-test passed" in worker.get("/readyz")[1]
    assert worker.status()["is_ready"] is False
    await_probes(worker, (200, 200), 20)
    assert worker.status()["is_ready"] is True
    assert worker.terminate() == 0


def test_it_is_alive_and_says_what_it_waits_for_when_no_broker_is_there_at_start(scripted: MakeWorker) -> None:
    """The engine is loaded by then, and the probe must not blame it."""
    worker = scripted(stalled_after_s=0.5, servers="127.0.0.1:1").start().await_port()
    give_up_s = time.monotonic() + 15
    while "ok: engine loaded" not in worker.get("/readyz")[1]:
        assert time.monotonic() < give_up_s, worker.get("/readyz")
        time.sleep(0.05)
    time.sleep(1)
    assert probes(worker) == (200, 503)
    assert [line for line in worker.get("/readyz")[1].splitlines() if "FAILED" in line] == ["FAILED: broker reached"]


@pytest.mark.timeout(180)
def test_it_is_alive_and_not_ready_while_the_broker_is_away_and_comes_back_by_itself(
    scripted: MakeWorker, kafka: KafkaCluster
) -> None:
    """A restart would not bring the broker back; nobody has to do anything when it is."""
    worker = scripted(stalled_after_s=5.0).start().await_ready()
    kafka.stop()
    await_probes(worker, (200, 503), 15)
    assert "FAILED: broker reached" in worker.get("/readyz")[1]
    time.sleep(6)  # longer than stalled_after_s: the loop goes on turning
    assert probes(worker) == (200, 503)
    kafka.start()
    await_probes(worker, (200, 200), 40)
    assert worker.terminate() == 0


@pytest.mark.timeout(120)
def test_it_is_not_alive_when_its_loop_hangs(scripted: MakeWorker, site: Site) -> None:
    """Only a restart helps then; until the kubelet sees to it, the port still answers."""
    worker = scripted(stalled_after_s=2.0, block=666.0).start().await_ready()
    reader = site.reader()
    publish(site.servers, site.input_topic, (request(n) for n in range(100)), PARTITIONS)
    assert len(reader.read(until=100, timeout_s=60).times) == 100
    assert probes(worker) == (200, 200)
    publish(site.servers, site.input_topic, [request(666)], PARTITIONS)
    assert await_probes(worker, (503, 200), 20) > 1.0
    assert "FAILED: the loop turned" in worker.get("/healthz")[1]
    assert worker.status()["is_alive"] is False


@pytest.mark.timeout(180)
def test_sigterm_under_load_drains_in_time_and_the_probes_tell(scripted: MakeWorker, site: Site) -> None:
    """All that was taken in is answered and committed; meanwhile it is alive and, for whoever looks, not ready."""
    worker = scripted(batch_s=0.2).start().await_ready()  # 80 rows a second: the backlog lasts for minutes
    reader = site.reader()
    values = (request(n) for n in range(20_000))
    publish(site.servers, site.input_topic, values, PARTITIONS)
    reader.read(until=200, timeout_s=60)
    patience_s = time.monotonic() + 30
    while worker.status()["delivery"]["in_flight"] <= 5 * ROWS:  # it rises and falls with each look at Kafka
        assert time.monotonic() < patience_s, "too little to drain"
    with ThreadPoolExecutor() as pool:
        start_s = time.monotonic()
        ending = pool.submit(worker.terminate, 60)
        seen = []
        while not ending.done():
            seen.append(probes(worker))
            time.sleep(0.05)
        took_s = time.monotonic() - start_s
    assert ending.result() == 0
    assert took_s < 20 + 2, "delivery.drain_timeout_s, and what closing takes"
    draining = [each for each in seen if each == (200, 503)]
    assert len(draining) >= 5, f"it was seen {seen}"
    assert set(seen) <= {(200, 200), (200, 503), (200, 0), (0, 0)}, "alive to the end"
    answers = reader.read(until=20_000, timeout_s=3)
    assert answers.duplicates == 0
    assert answers.wrong == []
    assert sum(committed(site.servers, site.group).values()) == len(answers.times)
    assert len(answers.times) < 20_000, "it was no load"
