"""The same bytes in and out, with key, two headers and a delivery callback; no model, no promise.

--answer-bytes cuts what goes out, --processes N runs N members of one group, --quick fetches again as soon as there is
room, and so is the bound; by its own default the client library rests for a second whenever its queue was full.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bench.loops import job as command_line
from bench.loops.job import Job

TAKE_RECORDS = 500
COMMIT_EVERY_S = 0.5


def main() -> None:
    job = command_line.from_command_line()
    if job.processes > 1:
        _run_many(job)
        return
    cut = job.answer_bytes
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap_servers,
            "group.id": job.group_id,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            **({"fetch.queue.backoff.ms": 5} if job.quick else {}),
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": job.bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 1,
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 64 << 10,  # fresh memory for a gigabyte of large records would slow it down
            "partitioner": "murmur2_random",
        }
    )

    def on_delivery(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            raise SystemExit(f"a record was not delivered: {error}")

    def on_revoke(_consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        _commit(consumer)

    consumer.subscribe([job.input_topic], on_revoke=on_revoke)
    engine = b"0123456789ab"
    has_new, commit_s = False, time.monotonic() + COMMIT_EVERY_S
    while job.is_running:
        for message in consumer.consume(TAKE_RECORDS, 0.05):
            if (error := message.error()) is not None:
                raise SystemExit(f"the input cannot be read: {error}")
            source = f"{message.topic()}/{message.partition()}/{message.offset()}"
            headers: list[tuple[str, str | bytes | None]] = [
                ("trt-worker-source", source.encode()),
                ("trt-worker-engine", engine),
            ]
            while True:
                try:
                    value = message.value() if cut is None else (message.value() or b"")[:cut]
                    producer.produce(job.output_topic, value, message.key(), on_delivery=on_delivery, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.05)
            has_new = True
        producer.poll(0)
        if has_new and time.monotonic() >= commit_s:
            consumer.commit(asynchronous=True)
            has_new, commit_s = False, time.monotonic() + COMMIT_EVERY_S
    producer.flush(30)
    _commit(consumer)
    consumer.close()


def _commit(consumer: Consumer) -> None:
    """How far it has come, again: nobody looks how the other commits go."""
    here = [each for each in consumer.position(consumer.assignment()) if each.offset >= 0]
    if here:
        with suppress(KafkaException):  # the group may be changing: then another member reads some records again
            consumer.commit(offsets=here, asynchronous=False)


def _run_many(job: Job) -> None:
    command = [sys.executable, "-m", "bench.loops.raw", *job.arguments()]
    members = [subprocess.Popen(command) for _ in range(job.processes)]
    while job.is_running and all(member.poll() is None for member in members):
        time.sleep(0.1)
    for member in members:
        member.send_signal(signal.SIGTERM)
    ended = [member.wait() for member in members]  # of all, before one is looked at
    if any(ended):
        raise SystemExit("a member failed")


if __name__ == "__main__":
    main()
