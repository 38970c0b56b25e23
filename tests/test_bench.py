"""The bench harness: it runs, and it sees what it claims to see."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from confluent_kafka import Producer

from bench import answers, command, contestants, gpu_tests, growth, latency, models, page, peers, report, throughput
from bench.answers import CHECK_EVERY, _messages
from bench.growth import Holding
from bench.one_round import Figures
from bench.requests import Requests, fill
from bench.scenario import SCENARIOS, Scenario
from bench.traffic import Order, Receipts, traffic
from tests.conftest import MakeTopic
from tests.kafka_server import KafkaCluster
from worker.kafka.producer import DEFAULTS

NOBODY = peers.Peer("no_such_package", ("no-such-package==1",), ())
SMALL = Scenario("small", records=400, row_bytes=64, partitions=2)


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    return Requests(SMALL, models.write(SMALL, tmp_path / "model.onnx"))


def result(requests: Requests, number: int, of: int | None = None) -> bytes:
    """The answer to a request, with the outputs of another one where `of` names it."""
    tensor = msgpack.unpackb(requests.value(number if of is None else of))["inputs"][0]
    told = {"model_name": "m", "model_version": "1", "id": str(number), "outputs": [{**tensor, "name": "output"}]}
    packed: bytes = msgpack.packb(told)
    return packed


def publish(kafka: KafkaCluster, topic: str, results: list[tuple[int, bytes]]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number, value in results:
        producer.produce(topic, value, str(number), partition=number % 2)
    assert producer.flush(30) == 0


def test_right_answers_are_found_right(kafka: KafkaCluster, topics: MakeTopic, requests: Requests) -> None:
    """Every result once, with the row that was asked about."""
    topic = topics("right", 2, message_timestamp_type="LogAppendTime")
    publish(kafka, topic, [(number, result(requests, number)) for number in range(SMALL.records)])
    found = answers.read(kafka.bootstrap_servers, topic, SMALL.records, requests)
    assert found.are_right
    assert found.checked == 5
    assert 0 < found.first_s <= found.last_s
    assert found.steady_per_s > 0


def test_faults_are_counted(kafka: KafkaCluster, topics: MakeTopic, requests: Requests) -> None:
    """One answer missing, one given twice, one that belongs to another request."""
    topic = topics("faulty", 2)
    results = {number: result(requests, number) for number in range(SMALL.records)}
    results[CHECK_EVERY] = result(requests, CHECK_EVERY, of=CHECK_EVERY + 1)
    del results[17]
    publish(kafka, topic, [*results.items(), (3, results[3])])
    found = answers.read(kafka.bootstrap_servers, topic, SMALL.records, requests)
    assert (found.missing, found.duplicates, found.wrong) == (1, 1, 1)


def test_several_processes_fill_what_one_would(
    kafka: KafkaCluster, topics: MakeTopic, requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large topics are filled by several processes: every request once, as its number says."""
    monkeypatch.setattr("bench.requests.ALONE_BYTES", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    topic = topics("filled", 2)
    assert fill(kafka.bootstrap_servers, topic, SMALL, tmp_path / "model.onnx") == len(requests.value(0))
    found = answers.read(kafka.bootstrap_servers, topic, SMALL.records, requests, cut=1 << 20)
    assert found.are_right


@pytest.mark.parametrize("by_key", [True, False])
def test_records_by_key_lie_where_their_answers_will(
    kafka: KafkaCluster, topics: MakeTopic, tmp_path: Path, by_key: bool
) -> None:
    """The worker's producer puts the same keys on the same partitions; in turns they lie elsewhere."""
    topic, answered = topics("placed", 2), topics("answered", 2)
    scenario = SMALL.over(2, by_key=by_key)
    fill(kafka.bootstrap_servers, topic, scenario, models.write(scenario, tmp_path / "model.onnx"))
    producer = Producer({**DEFAULTS, "bootstrap.servers": kafka.bootstrap_servers})
    for number in range(scenario.records):
        producer.produce(answered, key=str(number))
    assert producer.flush(30) == 0
    of_requests, of_answers = (
        {
            message.key(): message.partition()
            for message in _messages(kafka.bootstrap_servers, name, scenario.records, 2)
        }
        for name in (topic, answered)
    )
    assert len(of_requests) == len(of_answers) == scenario.records
    assert len(set(of_answers.values())) == 2
    assert (of_requests == of_answers) == by_key


def test_the_models_answer_is_known(tmp_path: Path) -> None:
    """An MLP's answer is right within its tolerance, and that of another request is wrong."""
    scenario = SCENARIOS["mlp-16"]
    asked = Requests(scenario, models.write(scenario, tmp_path / "mlp.onnx"))
    assert len(msgpack.unpackb(asked.value(3))["inputs"][0]["data"]) == scenario.payload_bytes

    def answer(number: int, of: int) -> bytes:
        outputs = [
            {"name": name, "datatype": "FP32", "shape": [*array.shape], "data": array.astype(np.float32).tobytes()}
            for name, array in asked._expected_of(of).items()
        ]
        packed: bytes = msgpack.packb({"id": str(number), "outputs": outputs})
        return packed

    assert asked.is_right(answer(3, of=3), 3)
    assert not asked.is_right(answer(3, of=4), 3)
    assert not asked.is_right(answer(4, of=3), 3)


def test_many_records_of_every_size() -> None:
    """200,000 small records; of large ones as many as fit."""
    assert SCENARIOS["pass-through-0.6k"].records == SCENARIOS["pass-through-16k"].records == 200_000
    for scenario in SCENARIOS.values():
        assert scenario.records * scenario.payload_bytes <= 4 << 30
        assert scenario.records >= 5000


def test_contestants_are_told_by_their_names() -> None:
    """Modes, intake processes and process counts are part of the name."""
    for name in (
        "worker-eos-intake-8",
        "worker-queue",
        "worker-no-metrics",
        "raw-8",
        "raw-quick",
        "pull-quick-2",
        "careful",
        "ideal",
    ):
        assert contestants.is_known(name), name
    for name in ("worker-fast", "worker-intake-0", "raw-", "carefully"):
        assert not contestants.is_known(name), name
    assert contestants.is_several("worker-eos-intake-8")
    assert contestants.is_several("raw-8")
    assert not contestants.is_several("worker-eos")
    assert not contestants.is_several("worker-intake-1")


BY_COMMAND = pytest.mark.timeout(300)  # Kafka and several processes, one after the other


def run_bench(kind: str, kept: Path, *arguments: str, **variables: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what was said, and the JSON file."""
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{kind}", "--results", str(kept), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )
    files = list(kept.glob(f"{kind}-*.json"))
    assert len(files) == 1, done.stdout
    document: dict[str, Any] = json.loads(files[0].read_text(encoding="utf-8"))
    assert document["machine"]["kafka"]
    return done.returncode, done.stdout, document


@BY_COMMAND
@pytest.mark.broker
def test_a_small_run_measures_every_contestant(tmp_path: Path) -> None:
    """The command that `make bench` runs, with few records."""
    names = ["raw", "pull", "worker", "worker-eos", "worker-queue", "worker-no-metrics", "careful", "batch-1"]
    how = ("--records", "2000", "--warm-ups", "0", "--repetitions", "1")
    code, said, document = run_bench("throughput", tmp_path, *how, "--scenario", "mlp-1", "--contestants", *names)
    assert code == 0, said
    assert list(document["medians"]) == names
    for row in document["medians"].values():
        assert row["records_per_s"] > 0
        assert (row["missing"], row["duplicates"], row["wrong"], row["uncommitted"]) == (0, 0, 0, 0)
    is_measured = all(each["cpu_us"] for each in document["rounds"] if each["contestant"] in ("worker", report.QUIET))
    assert set(document["cost_of_metrics"] or ()) == ({"throughput", "cpu"} if is_measured else set())


@BY_COMMAND
@pytest.mark.broker
def test_a_contestant_that_fails_is_told_of(tmp_path: Path) -> None:
    """A worker with impossible settings: the others are measured, and the exit code says that something was wrong."""
    how = ("--records", "500", "--warm-ups", "0", "--repetitions", "1", "--contestants", "worker", "raw")
    code, said, document = run_bench("throughput", tmp_path, *how, TRT_WORKER__BATCHING__MAX_ROWS="0")
    assert code == 1, said
    assert list(document["medians"]) == ["raw"]
    assert "max_rows" in document["failed"]["worker"]


@BY_COMMAND
@pytest.mark.broker
def test_who_cannot_be_installed_is_left_out_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are measured, and nothing is wrong with that: exit code 0."""
    for name in peers.PEERS:
        monkeypatch.setitem(peers.PEERS, name, NOBODY)
    monkeypatch.setattr(peers, "CACHE", tmp_path / "peers")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    how = ("--records", "500", "--warm-ups", "0", "--repetitions", "1", "--contestants", "raw", *peers.PEERS)
    monkeypatch.setattr(sys, "argv", ["throughput", "--results", str(tmp_path), *how])
    assert throughput.main() == 0
    (file,) = tmp_path.glob("throughput-*.json")
    document = json.loads(file.read_text(encoding="utf-8"))
    assert list(document["medians"]) == ["raw"]
    assert document["failed"] == {}
    assert list(document["left_out"]) == list(peers.PEERS)
    said = " ".join(capsys.readouterr().out.split())
    for name in peers.PEERS:
        assert f"note: {name} is left out: no-such-package==1 cannot be installed here" in said


def test_an_installation_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that it leaves behind looks complete; also where pip takes for ever, or there is no disk for it."""
    monkeypatch.setitem(peers.PEERS, "quix", NOBODY)
    monkeypatch.setattr(peers, "CACHE", tmp_path / "peers")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for _ in range(2):
        assert "no-such-package==1 cannot be installed here" in peers.left_out(["raw", "quix", "quix"])["quix"]
    monkeypatch.setattr(peers, "INSTALL_DEADLINE_S", 0.01)
    assert "timed out" in peers.left_out(["quix"])["quix"]
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(peers, "CACHE", tmp_path / "file")
    assert "cannot be installed here" in peers.left_out(["quix"])["quix"]


@BY_COMMAND
@pytest.mark.broker
def test_latency_is_measured(tmp_path: Path) -> None:
    """The command, with few records: every answer came, once."""
    how = (
        "--rates",
        "50",
        "--arrivals",
        "even",
        "--seconds",
        "2",
        "--repetitions",
        "1",
        "--contestants",
        "broker",
        "worker",
    )
    code, said, document = run_bench("latency", tmp_path, *how)
    assert code == 0, said
    rows = {row["contestant"]: row for row in document["medians"]}
    assert list(rows) == ["broker", "worker"]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"] for row in rows.values())


def test_what_waits_because_nothing_goes_on_has_waited(
    kafka: KafkaCluster, topics: MakeTopic, requests: Requests, tmp_path: Path
) -> None:
    """A broker that stands still for a second delays every request that was scheduled in that second."""
    topic = topics("stalled", 2)
    model = tmp_path / "model.onnx"
    order = Order(kafka.bootstrap_servers, topic, topic, 2, SMALL, model, rate=100.0, seconds=3.0, arrivals="even")
    node = kafka.nodes[0]

    def stall() -> None:
        time.sleep(1.0)
        node.signal(signal.SIGSTOP)
        time.sleep(1.0)
        node.signal(signal.SIGCONT)

    with traffic(order) as run:
        staller = threading.Thread(target=stall)
        staller.start()
        receipts = run()
        staller.join()
    assert receipts.duplicates == 0
    assert not np.isnan(receipts.latency_s).any()
    assert np.count_nonzero(receipts.latency_s > 0.1) >= 75  # at least: a busy machine adds to it
    assert np.count_nonzero(receipts.latency_s > 0.5) >= 40
    assert np.nanmax(receipts.latency_s) > 0.8


def test_percentiles_leave_the_start_out_and_count_what_is_missing() -> None:
    """Two seconds of warm-up do not count; an answer that never came is a fault, not a latency."""
    due_s = np.arange(0, 4, 0.01)
    latency_s = np.where(due_s < latency.WARM_UP_S, 9.0, 0.002)
    latency_s[-1] = np.nan
    told = latency.percentiles(Receipts(due_s, np.zeros_like(due_s), latency_s, duplicates=0))
    assert told["max_ms"] == pytest.approx(2.0)
    assert told["missing"] == 1


def held(count: int, **slopes: float) -> list[Holding]:
    """Samples that start at 100 MiB, 10 threads and 20 files, and grow by so much over all of them."""

    def at(name: str, start: float, number: int) -> float:
        return start + slopes.get(name, 0.0) * number / count

    return [
        Holding(number, at("rss_mib", 100, number), round(at("threads", 10, number)), round(at("files", 20, number)))
        for number in range(count)
    ]


def test_growth_is_seen() -> None:
    """Memory, threads or files that grow all the time are faults; noise and a warm-up are none."""
    assert growth.faults(held(60)) == []
    assert growth.faults(held(60, rss_mib=3.0)) == []
    warm = [Holding(0, 40, 2, 3)] * 15 + held(45)
    assert growth.faults(warm) == []
    for name in ("rss_mib", "threads", "files"):
        (fault,) = growth.faults(held(60, **{name: 40.0}))
        assert name in fault
    with pytest.raises(ValueError, match="20 would"):
        growth.faults(held(5))


@BY_COMMAND
@pytest.mark.broker
@pytest.mark.soak
def test_a_minute_of_load_leaves_nothing_behind(tmp_path: Path) -> None:
    """The command that runs for half an hour elsewhere."""
    code, said, document = run_bench("soak", tmp_path, "--minutes", "1", "--rate", "1000")
    assert code == 0, said
    assert document["answers"]["missing"] == 0
    assert len(document["held"]) >= growth.FEWEST


@BY_COMMAND
@pytest.mark.broker
@pytest.mark.soak
def test_scaling_is_measured(tmp_path: Path) -> None:
    """The command, with few records."""
    how = ("--records", "500", "--lag", "2", "--of-partitions", "1", "3", "--warm-ups", "0", "--repetitions", "1")
    code, said, document = run_bench("scaling", tmp_path, *how)
    assert code == 0, said
    assert list(document["variants"]) == ["1 partition", "3 partitions", "3 partitions in turns", "2x lag"]
    assert document["variants"]["2x lag"]["scenario"]["records"] == 1000


def figures(name: str, rate: float, cpu_us: float) -> Figures:
    return Figures(name, rate, 2 * rate, cpu_us, cpu_us, 0, 0, 0, 0)


def test_medians_are_beside_their_bounds() -> None:
    """Shares of raw and ideal; rows; what joins one by one counts by its middle; metrics by neighbours."""
    rounds = [
        *(figures("raw", rate, 3.0) for rate in (90.0, 100.0, 200.0)),
        *(figures("worker", rate, 6.3) for rate in (80.0, 95.0, 95.0)),
        *(figures("worker-no-metrics", rate, 6.0) for rate in (82.0, 100.0, 90.0)),
        figures("worker-intake-2", 150.0, 7.0),
        figures("ideal", 400.0, 0.0),
    ]
    told = report.summary(rounds, rows=16)
    assert told["worker"]["of_raw"] == 0.95
    assert told["worker"]["rows_per_s"] == 95 * 16
    assert told["worker-intake-2"]["records_per_s"] == 300
    assert told["worker-intake-2"]["of_ideal"] == 0.75
    assert report.cost_of_metrics(rounds) == {"throughput": 0.0244, "cpu": 0.05}


def test_a_round_too_short_for_its_processor_time_tells_nothing_of_the_metrics() -> None:
    too_short = [figures("worker", 80.0, 6.3), figures("worker-no-metrics", 400.0, 0.0)]
    assert report.cost_of_metrics(too_short) is None
    measured = [figures("worker", 90.0, 6.3), figures("worker-no-metrics", 100.0, 6.0)]
    assert report.cost_of_metrics([*too_short, *measured]) == {"throughput": 0.1, "cpu": 0.05}


def test_the_page_holds_what_was_measured() -> None:
    """No figure is typed by hand: docs/performance.md and its plots are what the results say."""
    documents = page.load()
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.fill(text, documents) == text, "python -m bench.page was not run after the last measurement"
    for name, svg in page.draw(documents).items():
        assert (command.RESULTS / name).read_text(encoding="utf-8") == svg
        assert f"results/{name}" in text


def test_what_pytest_reports_is_told_by_outcome() -> None:
    """Names and reasons; the time of all."""
    report = """<testsuites><testsuite><testcase classname="tests.gpu.test_a" name="t1" time="1.5"/>
        <testcase classname="tests.gpu.test_a" name="t2" time="0.5"><skipped message="needs two&#10;more"/></testcase>
        <testcase classname="tests.gpu.test_b" name="t3" time="0"><failure message="no">where</failure></testcase>
        </testsuite></testsuites>"""
    assert gpu_tests.told(report) == {
        "seconds": 2.0,
        "passed": ["test_a::t1"],
        "failure": {"test_b::t3": "no"},
        "error": {},
        "skipped": {"test_a::t2": "needs two"},
    }


def test_the_steady_rate_is_of_the_part_in_which_all_are_at_work() -> None:
    """A slow start and a slow end of ten times as long do not count."""
    slow, quick = np.arange(300) * 0.1, 30.0 + np.arange(600) * 0.01
    came_s = np.concatenate([slow, quick, quick[-1] + 0.1 * np.arange(1, 101)])
    assert answers._steady(came_s) == pytest.approx(100, rel=0.03)
