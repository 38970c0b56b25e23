"""Records, tickets and requests as tests write them: with msgpack by hand, which the worker does not read with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from worker.records import Headers
from worker.tensors import DATATYPES, ModelSpec, Shape, TensorSpec

_NAME_OF = {dtype: name for name, dtype in DATATYPES.items()}


class FakeRecord:
    """A Kafka message that never was in Kafka; see worker.records.Record."""

    def __init__(
        self,
        value: bytes | None,
        *,
        topic: str = "requests",
        partition: int = 0,
        offset: int = 0,
        key: bytes | None = None,
        headers: Headers | None = None,
        created_ms: int | None = None,
    ) -> None:
        self._value, self._key, self._headers = value, key, headers
        self._topic, self._partition, self._offset = topic, partition, offset
        self._timestamp = (0, 0) if created_ms is None else (1, created_ms)

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> Headers | None:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return self._timestamp


class FakeTicket:
    """A record taken in; see worker.records.Ticket."""

    def __init__(self, record: FakeRecord) -> None:
        self.record = record
        self.source_prefix = f"{record.topic()}/{record.partition()}/"


def model_of(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = (), tag: str = "0123456789ab") -> ModelSpec:
    return ModelSpec("digits", "3", inputs, outputs, tag=tag)


def spec(name: str, datatype: str = "FP32", shape: Shape = (-1, 2), axes: tuple[str, ...] = ()) -> TensorSpec:
    return TensorSpec(name, datatype, shape, axes or ("",) * len(shape))


def tensor(name: str, array: NDArray[Any]) -> dict[str, Any]:
    """One tensor of the wire format; `array` in the machine's (little-endian) byte order."""
    return {"name": name, "datatype": _NAME_OF[array.dtype], "shape": list(array.shape), "data": array.tobytes()}


def request_of(*tensors: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {"inputs": list(tensors), **fields}


def packed(content: Any) -> bytes:
    return bytes(msgpack.packb(content))


def request_bytes(rows: NDArray[Any], *, name: str = "x", **fields: Any) -> bytes:
    """The value of a record that asks for these rows of a model with one input."""
    return packed(request_of(tensor(name, rows), **fields))


def ints(*rows: tuple[int, ...]) -> NDArray[np.int64]:
    return np.array(rows, np.int64)


def floats(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)
