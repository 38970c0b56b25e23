"""One contestant, once: a new consumer group, a new output topic, a process of its own, checked answers."""

from __future__ import annotations

import contextlib
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, ShareConsumer, TopicPartition

from bench import answers, contestants, peers
from bench.contestants import Subject
from bench.cpu_samples import CpuSamples
from bench.loops.job import Job
from bench.requests import Requests
from bench.scenario import Scenario
from tests.kafka_server import KafkaCluster

LOOK_EVERY_S = 0.5  # looking more often would take processor time from those who are measured
ROUND_DEADLINE_S = 300.0
STOP_DEADLINE_S = 60.0
WHOLE = 1 << 30
QUIET_S = 1.0  # of a share group that has nothing left


@dataclass(frozen=True)
class Figures:
    """What one round measured."""

    contestant: str
    records_per_s: float  # from the first answer to the last
    steady_per_s: float  # see answers.STEADY
    cpu_us: float  # user + system of all its processes, a record
    main_thread_us: float
    missing: int
    duplicates: int
    wrong: int
    uncommitted: int  # records whose offset was not committed at the end

    @property
    def rate(self) -> float:
        """The one of the two that tells."""
        return self.steady_per_s if contestants.is_several(self.contestant) else self.records_per_s

    @property
    def is_right(self) -> bool:
        return not (self.missing or self.duplicates or self.wrong or self.uncommitted)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def run(
    name: str,
    kafka: KafkaCluster,
    input_topic: str,
    subject: Subject,
    requests: Requests,
    scratch: Path,
    deadline_s: float = ROUND_DEADLINE_S,
) -> Figures:
    """Let a contestant answer the whole input topic.

    Raises:
        RuntimeError: it ended early, or not with 0; carries the end of its output.
        TimeoutError: the results did not come.
    """
    scenario = requests.scenario
    mark = uuid.uuid4().hex[:8]
    output_topic = kafka.create_topic(f"output-{mark}", scenario.partitions, message_timestamp_type="LogAppendTime")
    job = Job(kafka.bootstrap_servers, f"bench-{mark}", input_topic, output_topic, subject.model)
    try:
        with (
            started(name, job, subject, scratch) as process,
            CpuSamples(process.pid) as samples,
        ):
            results = _await_results(process, kafka, output_topic, scenario, deadline_s)
        if results == 0:
            raise RuntimeError(f"{name} gave no answers")
        cut = _cut(name, subject)
        found = answers.read(kafka.bootstrap_servers, output_topic, results, requests, cut=cut)
        uncommitted = _left_over(job) if "queue" in name else scenario.records - _committed(kafka, job, scenario)
    finally:
        kafka.delete_topic(output_topic)
    spent = samples.between(found.first_s, found.last_s)
    return Figures(
        contestant=name,
        records_per_s=(scenario.records - 1) / max(0.001, found.last_s - found.first_s),
        steady_per_s=found.steady_per_s,
        cpu_us=spent.process_s / scenario.records * 1e6,
        main_thread_us=spent.main_thread_s / scenario.records * 1e6,
        missing=found.missing,
        duplicates=found.duplicates,
        wrong=found.wrong,
        uncommitted=uncommitted,
    )


@contextmanager
def started(name: str, job: Job, subject: Subject, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A contestant's process, stopped in order at the end.

    Raises:
        RuntimeError: it did not end with 0; carries the end of its output.
    """
    log = scratch / f"{job.group_id}.log"
    with log.open("wb") as sink:
        command = contestants.command(name, job, subject, scratch)
        environment = peers.environment() if name in peers.PEERS else None
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment)
    try:
        yield process
        process.terminate()
        if process.wait(STOP_DEADLINE_S) != 0:
            raise RuntimeError(f"{name} ended with {process.returncode}:\n{_tail(log)}")
    except TimeoutError as error:
        raise TimeoutError(f"{name}: {error}:\n{_tail(log)}") from error
    finally:
        process.kill()
        process.wait()


def records_in(looker: Consumer, topic: str, partitions: int) -> int:
    """How many records a topic has; 0 while its leaders are not all at work."""
    places = [TopicPartition(topic, partition) for partition in range(partitions)]
    with contextlib.suppress(KafkaException):  # not the leader: of a new topic
        return sum(looker.get_watermark_offsets(place, timeout=30)[1] for place in places)
    return 0


def _await_results(
    process: subprocess.Popen[bytes], kafka: KafkaCluster, topic: str, scenario: Scenario, deadline_s: float
) -> int:
    """Wait until the topic has as many results as there are requests, and no more come; how many there are."""
    due_s = time.monotonic() + deadline_s
    before = 0
    with closing(Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "looker"})) as looker:
        while True:
            time.sleep(LOOK_EVERY_S)
            now = records_in(looker, topic, scenario.partitions)
            if now >= scenario.records and now == before:
                return now
            if process.poll() is not None:
                return now  # too early: whoever started it says what it said
            if time.monotonic() > due_s:
                raise TimeoutError(f"{now} of {scenario.records} results after {deadline_s:g} s")
            before = now


def _cut(name: str, subject: Subject) -> int | None:
    if not contestants.is_loop(name):
        return None
    return subject.answer_bytes if name.startswith("pull") else WHOLE


def _committed(kafka: KafkaCluster, job: Job, scenario: Scenario) -> int:
    places = [TopicPartition(job.input_topic, partition) for partition in range(scenario.partitions)]
    asked = kafka.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(job.group_id, places)])
    found: Sequence[TopicPartition] = asked[job.group_id].result(30).topic_partitions or ()
    return sum(max(0, place.offset) for place in found)


def _left_over(job: Job) -> int:
    """Records that a share group would still hand out."""
    member = ShareConsumer({"bootstrap.servers": job.bootstrap_servers, "group.id": job.group_id})
    try:
        member.subscribe([job.input_topic])
        due_s, left = time.monotonic() + QUIET_S, 0
        while time.monotonic() < due_s:
            left += len(member.poll(0.2))
        return left
    finally:
        member.close()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])
