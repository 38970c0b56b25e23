"""The requests of a scenario, and what the right answers to them are."""

from __future__ import annotations

import multiprocessing
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import onnx
from confluent_kafka import KafkaError, Message, Producer
from numpy.typing import NDArray
from onnx import TensorProto

from bench.scenario import Scenario

DATATYPES: dict[int, tuple[str, type[np.generic]]] = {
    TensorProto.FLOAT: ("FP32", np.float32),
    TensorProto.FLOAT16: ("FP16", np.float16),
    TensorProto.UINT8: ("UINT8", np.uint8),
    TensorProto.INT64: ("INT64", np.int64),
}
WORDS = 1000  # token ids are below
FILLERS = 8  # processes that fill a topic
ALONE_BYTES = 256 << 20  # what one process fills as fast


class Requests:
    """Seeded numbers in the shapes of the model's inputs; the same in every process."""

    def __init__(self, scenario: Scenario, model: Path) -> None:
        self.scenario = scenario
        self._model = model
        graph = onnx.load(model, load_external_data=False).graph
        self._inputs = [(each.name, *_shape(each.type.tensor_type, scenario)) for each in graph.input]
        self._expected: dict[int, dict[str, NDArray[Any]]] = {}
        self._bodies: dict[int, bytes] = {}

    def value(self, number: int) -> bytes:
        """Record `number`: a request in the wire format."""
        seed = number % self.scenario.distinct
        if (body := self._bodies.get(seed)) is None:
            tensors = [
                {"name": name, "datatype": datatype, "shape": [*array.shape], "data": array.tobytes()}
                for (name, datatype, _dtype, _shape), array in zip(self._inputs, self._arrays(seed), strict=True)
            ]
            body = self._bodies[seed] = msgpack.packb("inputs") + msgpack.packb(tensors)
        head: bytes = msgpack.packb("id") + msgpack.packb(str(number))
        return b"\x82" + head + body  # a map of two

    def is_right(self, answer: bytes, number: int) -> bool:
        """Whether this is the answer to record `number`."""
        result = msgpack.unpackb(answer)
        if result.get("id") != str(number) or "outputs" not in result:
            return False
        datatypes = dict(DATATYPES.values())
        given = {
            tensor["name"]: np.frombuffer(tensor["data"], datatypes[tensor["datatype"]]).reshape(tensor["shape"])
            for tensor in result["outputs"]
        }
        expected = self._expected_of(number % self.scenario.distinct)
        return given.keys() == expected.keys() and all(self._is_near(given[name], expected[name]) for name in given)

    @cached_property
    def answer_bytes(self) -> int:
        """About the size of an answer's value."""
        return sum(array.nbytes + 60 for array in self._expected_of(0).values()) + 60

    def _is_near(self, given: NDArray[Any], expected: NDArray[Any]) -> bool:
        if given.shape != expected.shape:
            return False
        most = self.scenario.tolerance * float(np.abs(expected).max())
        return bool(np.abs(given.astype(np.float64) - expected).max() <= most)

    def _expected_of(self, seed: int) -> dict[str, NDArray[Any]]:
        if seed not in self._expected:
            names = [each.name for each in self._session.get_outputs()]
            told = {name: array for (name, *_), array in zip(self._inputs, self._arrays(seed), strict=True)}
            self._expected[seed] = dict(zip(names, self._session.run(names, told), strict=True))
        return self._expected[seed]

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(self._model, providers=["CPUExecutionProvider"])

    def _arrays(self, seed: int) -> list[NDArray[Any]]:
        random = np.random.default_rng(seed)
        return [_numbers(random, name, dtype, shape) for name, _datatype, dtype, shape in self._inputs]


def _shape(told: Any, scenario: Scenario) -> tuple[str, type[np.generic], tuple[int, ...]]:
    datatype, dtype = DATATYPES[told.elem_type]
    return datatype, dtype, (scenario.rows, *(axis.dim_value for axis in told.shape.dim[1:]))


def _numbers(random: np.random.Generator, name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    if dtype is np.uint8:
        return random.integers(0, 256, shape, dtype)
    if dtype is np.int64:  # of a language model: everything is let through, and all is one segment
        few = {"mask": (1, 2), "segments": (0, 1)}.get(name, (0, WORDS))
        return random.integers(*few, shape, dtype)
    return random.standard_normal(shape, np.float32).astype(dtype)


def fill(bootstrap_servers: str, topic: str, scenario: Scenario, model: Path) -> int:
    """Publish all requests, the record's number as key.

    Returns:
        Bytes of one record's value.
    """
    is_small = scenario.records * scenario.payload_bytes < ALONE_BYTES
    count = 1 if is_small else min(FILLERS, max(1, (os.cpu_count() or 1) // 2))
    jobs = [(bootstrap_servers, topic, scenario, model, first, count) for first in range(count)]
    if count == 1:
        _fill(*jobs[0])
    else:
        with multiprocessing.get_context("spawn").Pool(count) as pool:  # the Kafka client does not survive a fork
            pool.starmap(_fill, jobs)
    return len(Requests(scenario, model).value(0))


def _fill(bootstrap_servers: str, topic: str, scenario: Scenario, model: Path, first: int, step: int) -> None:
    failed: list[KafkaError] = []

    def on_delivery(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "linger.ms": 20,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "message.max.bytes": 16 << 20,
            "queue.buffering.max.kbytes": 256 << 10,
            "log_level": 3,  # a new broker asks for patience; that is no news
        }
    )
    requests = Requests(scenario, model)
    for number in range(first, scenario.records, step):
        value = requests.value(number)
        partition = -1 if scenario.by_key else number % scenario.partitions
        while True:
            try:
                producer.produce(topic, value, str(number), partition=partition, on_delivery=on_delivery)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    if producer.flush(120) or failed:
        raise RuntimeError(f"the input topic could not be filled: {failed[:1] or 'not acknowledged in 120 s'}")
