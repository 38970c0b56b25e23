"""The bench harness: it runs, and it sees what it claims to see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
from confluent_kafka import Producer

from bench import answers
from bench.answers import CHECK_EVERY
from bench.scenario import OUTPUT, Scenario
from tests.conftest import MakeTopic
from tests.kafka_server import KafkaCluster

SMALL = Scenario(records=400, payload_bytes=64, partitions=2)


def result(number: int, row: bytes) -> bytes:
    tensor = {"name": OUTPUT, "datatype": "FP32", "shape": [1, SMALL.features], "data": row}
    packed: bytes = msgpack.packb({"model_name": "m", "model_version": "1", "id": str(number), "outputs": [tensor]})
    return packed


def publish(kafka: KafkaCluster, topic: str, results: list[tuple[int, bytes]]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for number, value in results:
        source = f"input/{number % 2}/{number // 2}".encode()
        producer.produce(topic, value, str(number), partition=number % 2, headers=[("trt-worker-source", source)])
    assert producer.flush(30) == 0


def test_right_answers_are_found_right(kafka: KafkaCluster, topics: MakeTopic) -> None:
    """Every result once, with the row that was asked about."""
    topic = topics("right", 2, message_timestamp_type="LogAppendTime")
    publish(kafka, topic, [(number, result(number, SMALL.row(number))) for number in range(SMALL.records)])
    found = answers.read(kafka.bootstrap_servers, topic, SMALL.records, SMALL, is_raw=False)
    assert found.are_right
    assert found.checked == 5
    assert 0 < found.first_s <= found.last_s


def test_faults_are_counted(kafka: KafkaCluster, topics: MakeTopic) -> None:
    """One answer missing, one given twice, one that belongs to another request."""
    topic = topics("faulty", 2)
    results = {number: result(number, SMALL.row(number)) for number in range(SMALL.records)}
    results[CHECK_EVERY] = result(CHECK_EVERY, SMALL.row(CHECK_EVERY + 1))
    del results[17]
    publish(kafka, topic, [*results.items(), (3, results[3])])
    found = answers.read(kafka.bootstrap_servers, topic, SMALL.records, SMALL, is_raw=False)
    assert (found.missing, found.duplicates, found.wrong) == (1, 1, 1)


@pytest.mark.broker
def test_a_small_run_measures_every_contestant(tmp_path: Path) -> None:
    """The command that `make bench` runs, with few records."""
    kept = tmp_path / "throughput.json"
    arguments = ["--records", "4000", "--warm-ups", "0", "--repetitions", "1", "--output", str(kept)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.throughput", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    document = json.loads(kept.read_text(encoding="utf-8"))
    assert document["medians"].keys() == {"raw", "worker", "worker-eos", "careful"}
    for row in document["medians"].values():
        assert row["records_per_s"] > 0
        assert (row["missing"], row["duplicates"], row["wrong"], row["uncommitted"]) == (0, 0, 0, 0)
    assert document["machine"]["kafka"]
