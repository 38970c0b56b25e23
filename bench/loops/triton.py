"""Triton with dynamic batching, started by PyTriton, and a process that carries records from Kafka to it and back."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import msgpack
import numpy as np
from confluent_kafka import Consumer, Message, Producer
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from tritonclient import grpc

from bench.loops import job as command_line
from bench.loops.job import Job
from bench.loops.model import Model

NAME = "model"
ROWS, DELAY_US = 256, 1000  # of Triton's own batches
TOGETHER = 64  # records asked at once, as many again while the first ones are answered


def main() -> None:
    job = command_line.from_command_line()
    model = Model(job.model)
    ports = _free_ports(3)

    @batch  # type: ignore[untyped-decorator]  # known in an environment of its own only
    def infer(**inputs: Any) -> dict[str, Any]:
        return dict(zip(model.output_names, model.run([inputs[name] for name in model.input_names]), strict=True))

    config = TritonConfig(http_port=ports[0], grpc_port=ports[1], metrics_port=ports[2], allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            NAME,
            infer,
            [Tensor(name=name, dtype=dtype, shape=shape) for name, dtype, shape in model.input_specs],
            [Tensor(name=name, dtype=dtype, shape=shape) for name, dtype, shape in model.output_specs],
            config=ModelConfig(max_batch_size=ROWS, batcher=DynamicBatcher(max_queue_delay_microseconds=DELAY_US)),
        )
        triton.run()
        bridge = multiprocessing.get_context("spawn").Process(target=_carry, args=(job, ports[1]))
        bridge.start()
        while job.is_running and bridge.is_alive():
            time.sleep(0.1)
        bridge.terminate()
        bridge.join()
    if bridge.exitcode:
        raise SystemExit(bridge.exitcode)


def _carry(job: Job, port: int) -> None:
    """Keep 64 to 128 records at Triton; produce in order; commit what is acknowledged, once a second."""
    job = command_line.from_command_line()  # again: its signal handler belongs to a process
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
    with ExitStack() as stack:
        stack.callback(consumer.close)
        client = stack.enter_context(grpc.InferenceServerClient(f"127.0.0.1:{port}"))
        consumer.subscribe([job.input_topic])
        asked: list[tuple[Message, Any, Future[Any]]] = []
        has_new, commit_s = False, time.monotonic() + 1
        while job.is_running:
            messages = [message for message in consumer.consume(TOGETHER, 0.005) if message.error() is None]
            new = [_ask(client, model, message) for message in messages]
            _answer(asked, model, producer, job.output_topic)  # while Triton runs the new ones
            asked, has_new = new, has_new or bool(new)
            if has_new and time.monotonic() >= commit_s:
                _answer(asked, model, producer, job.output_topic)
                producer.flush()
                consumer.commit(asynchronous=False)
                asked, has_new, commit_s = [], False, time.monotonic() + 1
        _answer(asked, model, producer, job.output_topic)
        producer.flush()
        if has_new:
            consumer.commit(asynchronous=False)


def _ask(client: Any, model: Model, message: Message) -> tuple[Message, Any, Future[Any]]:
    request = msgpack.unpackb(message.value())
    inputs = []
    for tensor, array in zip(request["inputs"], model.arrays(request), strict=True):
        told = grpc.InferInput(tensor["name"], list(array.shape), tensor["datatype"])
        told.set_data_from_numpy(array)
        inputs.append(told)
    future: Future[Any] = Future()

    def on_answer(result: Any, error: Exception | None) -> None:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    client.async_infer(NAME, inputs, on_answer)
    return message, request, future


def _answer(asked: Sequence[Any], model: Model, producer: Producer, topic: str) -> None:
    for message, request, future in asked:
        result = future.result(30)
        outputs = [np.ascontiguousarray(result.as_numpy(name)) for name in model.output_names]
        while True:
            try:
                producer.produce(topic, model.result(request, outputs), message.key())
                break
            except BufferError:
                producer.poll(0.05)
    producer.poll(0)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    main()
