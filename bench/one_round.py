"""One contestant, once: a new consumer group, a new output topic, a process of its own, checked answers."""

from __future__ import annotations

import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition

from bench import answers
from bench.contestants import CONTESTANTS, RAW
from bench.cpu_samples import CpuSamples
from bench.loops.job import Job
from bench.scenario import Scenario
from tests.kafka_server import KafkaCluster

LOOK_EVERY_S = 0.5  # looking more often would take processor time from those who are measured
ROUND_DEADLINE_S = 300.0
STOP_DEADLINE_S = 60.0


@dataclass(frozen=True)
class Figures:
    """What one round measured."""

    contestant: str
    records_per_s: float
    cpu_us: float  # user + system of the whole process, a record
    main_thread_us: float
    missing: int
    duplicates: int
    wrong: int
    uncommitted: int  # records whose offset was not committed at the end

    @property
    def is_right(self) -> bool:
        return not (self.missing or self.duplicates or self.wrong or self.uncommitted)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(name: str, kafka: KafkaCluster, input_topic: str, model: Path, scenario: Scenario, scratch: Path) -> Figures:
    """Let a contestant answer the whole input topic.

    Raises:
        RuntimeError: it ended early, or not with 0; carries the end of its output.
        TimeoutError: the results did not come.
    """
    mark = uuid.uuid4().hex[:8]
    output_topic = kafka.create_topic(f"output-{mark}", scenario.partitions, message_timestamp_type="LogAppendTime")
    job = Job(kafka.bootstrap_servers, f"bench-{mark}", input_topic, output_topic, model)
    log = scratch / f"{mark}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(CONTESTANTS[name](job, scratch), stdout=sink, stderr=subprocess.STDOUT)
    try:
        with CpuSamples(process.pid) as samples:
            results = _await_results(process, kafka, output_topic, scenario, log)
        process.send_signal(signal.SIGTERM)
        if process.wait(STOP_DEADLINE_S) != 0:
            raise RuntimeError(f"{name} ended with {process.returncode}:\n{_tail(log)}")
    finally:
        process.kill()
        process.wait()
    found = answers.read(kafka.bootstrap_servers, output_topic, results, scenario, is_raw=name == RAW)
    uncommitted = scenario.records - _committed(kafka, job, scenario)
    kafka.delete_topic(output_topic)
    spent = samples.between(found.first_s, found.last_s)
    return Figures(
        contestant=name,
        records_per_s=(scenario.records - 1) / max(0.001, found.last_s - found.first_s),
        cpu_us=spent.process_s / scenario.records * 1e6,
        main_thread_us=spent.main_thread_s / scenario.records * 1e6,
        missing=found.missing,
        duplicates=found.duplicates,
        wrong=found.wrong,
        uncommitted=uncommitted,
    )


def _await_results(
    process: subprocess.Popen[bytes], kafka: KafkaCluster, topic: str, scenario: Scenario, log: Path
) -> int:
    """Wait until the topic has as many results as there are requests, and no more come; how many there are."""
    deadline_s = time.monotonic() + ROUND_DEADLINE_S
    places = [TopicPartition(topic, partition) for partition in range(scenario.partitions)]
    before = 0
    with closing(Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "looker"})) as looker:
        while True:
            time.sleep(LOOK_EVERY_S)
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{_tail(log)}")
            now = sum(looker.get_watermark_offsets(place, timeout=30)[1] for place in places)
            if now >= scenario.records and now == before:
                return now
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{now} of {scenario.records} results after {ROUND_DEADLINE_S:g} s:\n{_tail(log)}")
            before = now


def _committed(kafka: KafkaCluster, job: Job, scenario: Scenario) -> int:
    places = [TopicPartition(job.input_topic, partition) for partition in range(scenario.partitions)]
    asked = kafka.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(job.group_id, places)])
    found: Sequence[TopicPartition] = asked[job.group_id].result(30).topic_partitions or ()
    return sum(max(0, place.offset) for place in found)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
