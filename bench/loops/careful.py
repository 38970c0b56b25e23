"""What a careful person writes by hand: 64 records, one batched run, flush and commit once a second."""

from __future__ import annotations

import time

import msgpack
import numpy as np
import onnxruntime
from confluent_kafka import Consumer, KafkaError, Message, Producer

from bench.loops import job as command_line
from bench.scenario import INPUT, OUTPUT


def main() -> None:
    job = command_line.from_command_line()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(job.model, options, providers=["CPUExecutionProvider"])
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
            tensors = [request["inputs"][0] for request in requests]
            batch = np.concatenate(
                [np.frombuffer(tensor["data"], "<f4").reshape(tensor["shape"]) for tensor in tensors]
            )
            (outputs,) = session.run([OUTPUT], {INPUT: batch})
            for message, request, row in zip(messages, requests, outputs, strict=True):
                tensor = {"name": OUTPUT, "datatype": "FP32", "shape": [1, *row.shape], "data": row.tobytes()}
                result = {"model_name": "careful", "model_version": "1", "id": request["id"], "outputs": [tensor]}
                producer.produce(job.output_topic, msgpack.packb(result), message.key(), on_delivery=on_delivery)
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
