"""Real workers under load from real Kafka, scraped by a real Prometheus: every panel and every alert has its data."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import msgpack
import numpy as np
import pytest
from confluent_kafka import Producer

from tests.kafka_server import KafkaCluster, free_ports
from tests.monitoring import models, prometheus_server
from tests.monitoring.dashboard_file import ALERTS, filled_in, queries, variables, write_rules
from tests.monitoring.prometheus_server import Prometheus
from tests.system.worker_process import WorkerProcess

PARTITIONS = 4
RECORDS = 3000
PER_SECOND = 250
EVERYTHING = {"namespace": ".*", "job": ".+", "instance": ".+", "__rate_interval": "10s"}
REFUSED = {"malformed", "expired", "inference_failed"}

# (panel, legend) -> why it is nothing but zero here
ZERO = {
    ("Partitions", "paused"): "a worker pauses only when it is full for longer than a second",
    ("Client queues", "{{client}}"): "a worker that keeps up leaves nothing waiting",
}
NEEDS_A_GPU = {"h2d", "d2h"}  # stages


def requests() -> Iterator[bytes]:
    """Good ones, and some of each kind that is refused."""
    for number in range(RECORDS):
        if number % 50 == 7:
            yield b"no msgpack"
            continue
        row = np.array([[models.BEYOND if number % 200 == 11 else number]], np.float32)
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": row.tobytes()}
        late = {"expires_at_ms": 1_000} if number % 60 == 13 else {}
        yield msgpack.packb({"id": str(number), "inputs": [tensor], "parameters": late})


@dataclass
class Scene:
    """What was scraped: from when to when, by whom, and which instance is which worker."""

    prometheus: Prometheus
    start_s: float
    end_s: float
    plain: str
    joiner: str
    exact: str

    def series(self, text: str, **values: str) -> list[tuple[dict[str, str], list[float]]]:
        """A dashboard's query over the whole time."""
        return self.prometheus.over_time(filled_in(text, {**EVERYTHING, **values}), self.start_s, self.end_s)


@pytest.fixture(scope="module")
def scene(kafka: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Two workers of one group, the second a little later, and one in transactions; load, then quiet."""
    prometheus_server.require()
    directory = tmp_path_factory.mktemp("monitoring")
    mark = uuid.uuid4().hex[:8]
    topics = [kafka.create_topic(f"{purpose}-{mark}", PARTITIONS) for purpose in ("in", "out", "dead")]
    free, fixed = models.look_up(directory / "free.onnx", "batch"), models.look_up(directory / "fixed.onnx", 16)
    ports = dict(zip(("plain", "joiner", "exact"), free_ports(3), strict=True))
    targets: list[dict[str, Any]] = [
        {"targets": [f"127.0.0.1:{ports['plain']}", f"127.0.0.1:{ports['joiner']}"]},
        {"targets": [f"127.0.0.1:{ports['exact']}"], "labels": {"namespace": "inference", "pod": "trt-worker-0"}},
    ]
    with ExitStack() as stack:

        def worker(name: str, mode: str, model: Path, rows: int) -> WorkerProcess:
            settings: dict[str, Any] = {
                "model": {"name": "look-up", "onnx": str(model)},
                "engine": {"backend": "cpu"},
                "batching": {"max_rows": rows, "max_delay_ms": 100},
                "kafka": {
                    "bootstrap_servers": kafka.bootstrap_servers,
                    "group_id": f"{mode}-{mark}",
                    "input_topic": topics[0],
                    "output_topic": topics[1],
                    "dead_letter_topic": topics[2],
                },
                "delivery": {"mode": mode},
                "http": {"port": ports[name]},
            }
            return stack.enter_context(WorkerProcess(directory, name, settings)).start()

        prometheus = stack.enter_context(Prometheus(directory, targets, write_rules(directory)))
        start_s = time.time()
        first = [worker("plain", "at_least_once", free, 32), worker("exact", "exactly_once", fixed, 16)]
        for each in first:
            each.await_ready()
        load = Thread(target=_publish, args=(kafka.bootstrap_servers, topics[0]))
        load.start()
        time.sleep(3)
        worker("joiner", "at_least_once", free, 32).await_ready()
        load.join()
        _publish_in_a_transaction(kafka.bootstrap_servers, topics[0], mark)
        addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        scene = Scene(prometheus, start_s, time.time(), **addresses)
        _await(lambda: _settled(prometheus) >= 2 * (RECORDS + PARTITIONS), 30)
        _await(lambda: _lags(prometheus) == [0.0] * 2 * PARTITIONS, 15)
        time.sleep(2)  # the last look of a range query may be a second old
        scene.end_s = time.time()
        yield scene


def _publish(servers: str, topic: str) -> None:
    """All requests, evenly in time, so that a look at any moment finds some on their way."""
    producer = Producer({"bootstrap.servers": servers})
    start_s = time.monotonic()
    for number, value in enumerate(requests()):
        producer.poll(max(0.0, start_s + number / PER_SECOND - time.monotonic()))
        producer.produce(topic, value, partition=number % PARTITIONS)
    assert producer.flush(120) == 0


def _publish_in_a_transaction(servers: str, topic: str, mark: str) -> None:
    """One record for each partition, and a control record behind it, which nobody can consume."""
    producer = Producer({"bootstrap.servers": servers, "transactional.id": f"load-{mark}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for partition in range(PARTITIONS):
        producer.produce(topic, next(requests()), partition=partition)
    producer.commit_transaction(30)


def _settled(prometheus: Prometheus) -> float:
    answer = prometheus.ask(
        "query", query="sum(trt_worker_results_published_total) + sum(trt_worker_dead_letters_total)"
    )
    return float(answer["result"][0]["value"][1]) if answer["result"] else 0.0


def _lags(prometheus: Prometheus) -> list[float]:
    answer = prometheus.ask("query", query="trt_worker_consumer_lag")
    return [float(series["value"][1]) for series in answer["result"]]


def _await(holds: Callable[[], bool], timeout_s: float) -> None:
    """Wait for it; the tests tell what is missing where it never comes."""
    give_up_s = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < give_up_s:
        time.sleep(0.5)


@pytest.mark.parametrize("query", queries(), ids=[f"{query.panel}: {query.legend}" for query in queries()])
def test_every_query_of_every_panel_has_data(scene: Scene, query: Any) -> None:
    """Numbers, and not only zeros: a wrong label would give those."""
    values = [value for _, found in scene.series(query.text) for value in found]
    assert values, "no data"
    if (query.panel, query.legend) not in ZERO:
        assert max(values) > 0


def test_legends_can_be_filled_in(scene: Scene) -> None:
    """Each label that a legend names is on the series."""
    for query in queries():
        labels = {word.strip("{}") for word in query.legend.split() for word in word.split("/") if "{{" in word}
        for metric, _ in scene.series(query.text):
            assert {label.rstrip(",}") for label in labels} <= set(metric), query


def test_each_variable_narrows_every_query(scene: Scene) -> None:
    """One worker chosen: nothing of the others."""
    for query in queries():
        assert scene.series(query.text, instance="nowhere") == [], query
        for metric, _ in scene.series(query.text, instance=scene.exact):
            assert metric.get("instance", scene.exact) == scene.exact


@pytest.mark.parametrize("name", ["namespace", "job", "instance"])
def test_variables_find_their_values(scene: Scene, name: str) -> None:
    """Also where only some targets have the label, and where none is chosen."""
    selector, _, label = (
        variables()[name]["definition"].removeprefix("label_values(").removesuffix(")").rpartition(", ")
    )
    found = scene.prometheus.ask(f"label/{label}/values", **{"match[]": filled_in(selector, EVERYTHING)})
    expected = {
        "namespace": ["inference"],
        "job": ["trt-worker"],
        "instance": sorted([scene.plain, scene.joiner, scene.exact]),
    }
    assert found == expected[name]


def test_the_stages_that_are_empty_need_a_gpu(scene: Scene) -> None:
    (text,) = (query.text for query in queries() if query.panel == "Stages, p50")
    stages = {metric["stage"]: values for metric, values in scene.series(text)}
    assert {stage for stage, values in stages.items() if not values} == NEEDS_A_GPU


def test_refusals_are_counted_by_their_codes(scene: Scene) -> None:
    (text,) = (query.text for query in queries() if query.panel == "Refused records")
    assert {metric["code"] for metric, values in scene.series(text) if max(values) > 0} == REFUSED


def test_every_record_is_counted_once(scene: Scene) -> None:
    """Two groups read everything; what was refused and what was answered add up."""
    assert _settled(scene.prometheus) == 2 * (RECORDS + PARTITIONS)


@pytest.mark.parametrize("mode", ["plain", "exact"])
def test_lag_is_seen_while_there_is_work_and_is_gone_after_it(scene: Scene, mode: str) -> None:
    """In transactions, too, where the client does not know it; control records at the end do not count."""
    lag = f'sum(trt_worker_consumer_lag{{instance="{getattr(scene, mode)}"}})'
    ((_, values),) = scene.prometheus.over_time(lag, scene.start_s, scene.end_s)
    assert max(values) > 0
    assert values[-1] == 0


def test_the_later_worker_takes_partitions_over(scene: Scene) -> None:
    kinds = {
        (metric["instance"], metric["kind"]): values[-1]
        for metric, values in scene.series("trt_worker_rebalances_total")
        if values
    }
    assert kinds[scene.plain, "revoke"] >= 1
    assert kinds[scene.joiner, "assign"] >= 1
    assert kinds[scene.plain, "lost"] == kinds[scene.joiner, "lost"] == 0


def test_rules_are_evaluated_without_error_and_tell_of_the_refusals(scene: Scene) -> None:
    """Every rule is sound on real data; the dead letters of this load, and nothing critical but their share, fire."""
    rules = [rule for group in scene.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules] == [rule["alert"] for rule in ALERTS]
    assert [(rule["health"], rule.get("lastError", "")) for rule in rules] == [("ok", "")] * len(rules)
    firing = [alert for rule in rules for alert in rule["alerts"] if alert["state"] == "firing"]
    assert {alert["labels"]["alertname"] for alert in firing} == {"TrtWorkerDeadLetters"}
    assert {alert["labels"]["code"] for alert in firing} == REFUSED
    for alert in firing:
        assert "<no value>" not in str(alert["annotations"])
        assert alert["labels"]["code"] in alert["annotations"]["summary"]
