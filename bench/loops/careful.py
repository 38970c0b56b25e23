"""What a careful person writes by hand: 64 records, one batched run, flush and commit once a second."""

from __future__ import annotations

import time

import msgpack
import numpy as np
from confluent_kafka import Consumer, KafkaError, Message, Producer

from bench.loops import job as command_line
from bench.loops.model import Model


def main() -> None:
    job = command_line.from_command_line()
    model = Model(job.model)
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap_servers,
            "group.id": job.group_id,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    producer = Producer({"bootstrap.servers": job.bootstrap_servers, "linger.ms": 1, "partitioner": "murmur2_random"})

    def on_delivery(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            raise SystemExit(f"a result was not delivered: {error}")

    consumer.subscribe([job.input_topic])
    has_new, commit_s = False, time.monotonic() + 1
    while job.is_running:
        messages = [message for message in consumer.consume(64, 0.005) if message.error() is None]
        if messages:
            requests = [msgpack.unpackb(message.value()) for message in messages]
            parts = [model.arrays(request) for request in requests]
            batch = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
            outputs = model.run(batch)
            first = 0
            for message, request, arrays in zip(messages, requests, parts, strict=True):
                last = first + len(arrays[0])
                value = model.result(request, [output[first:last] for output in outputs])
                while True:
                    try:
                        producer.produce(job.output_topic, value, message.key(), on_delivery=on_delivery)
                        break
                    except BufferError:
                        producer.poll(0.05)
                first = last
            has_new = True
        producer.poll(0)
        if has_new and time.monotonic() >= commit_s:
            producer.flush()
            consumer.commit(asynchronous=False)
            has_new, commit_s = False, time.monotonic() + 1
    producer.flush()
    if has_new:
        consumer.commit(asynchronous=False)
    consumer.close()


if __name__ == "__main__":
    main()
