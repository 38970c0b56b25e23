"""Quix Streams with a batching sink: what came between two checkpoints is run 64 at a time and produced."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
from confluent_kafka import KafkaError, Message, Producer
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch

from bench.loops import job as command_line
from bench.loops.job import Job
from bench.loops.model import Model

CHECKPOINT_EVERY_S = 0.1


class Answers(BatchingSink):  # type: ignore[misc]  # known in an environment of its own only
    """Runs the model over each partition's batch; a checkpoint waits until the answers are acknowledged."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._topic = job.output_topic
        self._model = Model(job.model)
        self._producer = Producer({"bootstrap.servers": job.bootstrap_servers, "partitioner": "murmur2_random"})

    def write(self, batch: SinkBatch) -> None:
        for items in batch.iter_chunks(64):
            requests = [msgpack.unpackb(item.value) for item in items]
            parts = [self._model.arrays(request) for request in requests]
            outputs = self._model.run([np.concatenate(arrays) for arrays in zip(*parts, strict=True)])
            first = 0
            for item, request, arrays in zip(items, requests, parts, strict=True):
                last = first + len(arrays[0])
                self._produce(self._model.result(request, [output[first:last] for output in outputs]), item.key)
                first = last

    def flush(self) -> None:
        super().flush()
        self._producer.flush()

    def _produce(self, value: bytes, key: Any) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, on_delivery=self._on_delivery)
                break
            except BufferError:
                self._producer.poll(0.05)
        self._producer.poll(0)

    @staticmethod
    def _on_delivery(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            raise SystemExit(f"a result was not delivered: {error}")


def main() -> None:
    job = command_line.from_command_line()
    application = Application(
        broker_address=job.bootstrap_servers,
        consumer_group=job.group_id,
        auto_offset_reset="earliest",
        commit_interval=CHECKPOINT_EVERY_S,
        auto_create_topics=False,
        loglevel="WARNING",
    )
    topic = application.topic(job.input_topic, value_deserializer="bytes", key_deserializer="bytes")
    application.dataframe(topic).sink(Answers(job))
    application.run()


if __name__ == "__main__":
    main()
