"""The bound: the same bytes in and out, with key, two headers and a delivery callback; no model, no promise."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, Message, Producer

from bench.loops import job as command_line

TAKE_RECORDS = 500
COMMIT_EVERY_S = 0.5


def main() -> None:
    job = command_line.from_command_line()
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap_servers,
            "group.id": job.group_id,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": job.bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 1,
            "queue.buffering.max.messages": 500_000,
            "partitioner": "murmur2_random",
        }
    )

    def on_delivery(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            raise SystemExit(f"a record was not delivered: {error}")

    consumer.subscribe([job.input_topic])
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
                    producer.produce(
                        job.output_topic, message.value(), message.key(), on_delivery=on_delivery, headers=headers
                    )
                    break
                except BufferError:
                    producer.poll(0.05)
            has_new = True
        producer.poll(0)
        if has_new and time.monotonic() >= commit_s:
            consumer.commit(asynchronous=True)
            has_new, commit_s = False, time.monotonic() + COMMIT_EVERY_S
    producer.flush(30)
    if has_new:
        consumer.commit(asynchronous=False)
    consumer.close()


if __name__ == "__main__":
    main()
