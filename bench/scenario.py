"""What is measured: the records, the partitions, and the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np
import onnx
from confluent_kafka import KafkaError, Message, Producer
from onnx import TensorProto, helper

INPUT, OUTPUT = "input", "output"
DISTINCT_ROWS = 1024  # enough that a mixed-up answer shows, few enough to keep


@dataclass(frozen=True)
class Scenario:
    """A pass-through model: what goes in comes out, so that everything but the model is measured."""

    records: int = 200_000
    payload_bytes: int = 576  # of the tensor; the request around it adds about 80
    partitions: int = 4

    @property
    def features(self) -> int:
        """Numbers of one row."""
        return self.payload_bytes // 4

    def row(self, number: int) -> bytes:
        """The tensor of record `number`: FP32, C order."""
        seed = number % DISTINCT_ROWS
        return np.random.default_rng(seed).standard_normal(self.features, dtype=np.float32).tobytes()

    def request(self, number: int, row: bytes) -> bytes:
        """The request of record `number`, in the wire format."""
        tensor = {"name": INPUT, "datatype": "FP32", "shape": [1, self.features], "data": row}
        packed: bytes = msgpack.packb({"id": str(number), "inputs": [tensor]})
        return packed

    def write_model(self, path: Path) -> None:
        """Write the ONNX file: output = input, for [rows, features]."""
        shape: tuple[str, int] = ("rows", self.features)
        graph = helper.make_graph(
            [helper.make_node("Identity", [INPUT], [OUTPUT])],
            "pass-through",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, path)

    def fill(self, bootstrap_servers: str, topic: str) -> int:
        """Publish all requests, evenly over the partitions, the record's number as key.

        Returns:
            Bytes of one record's value.
        """
        failed: list[KafkaError] = []

        def on_delivery(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failed.append(error)

        producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "linger.ms": 20,
                "enable.idempotence": True,
                "log_level": 3,  # a new broker asks for patience; that is no news
            }
        )
        rows = [self.row(number) for number in range(min(DISTINCT_ROWS, self.records))]
        value = b""
        for number in range(self.records):
            value = self.request(number, rows[number % DISTINCT_ROWS])
            while True:
                try:
                    producer.produce(
                        topic, value, str(number), partition=number % self.partitions, on_delivery=on_delivery
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        if producer.flush(60) or failed:
            raise RuntimeError(f"the input topic could not be filled: {failed[:1] or 'not acknowledged in 60 s'}")
        return len(value)
