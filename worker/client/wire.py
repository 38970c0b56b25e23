"""Wire format 1, seen from the producer's side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import msgpack
import numpy as np
from numpy.typing import ArrayLike, NDArray

from worker.tensors import DATATYPES

Arrays = dict[str, NDArray[Any]]

MAX_ID_CHARS = 256

# Backwards, so that uint16 stays UINT16 where BF16 has no dtype of its own.
_DATATYPE_OF = {dtype: name for name, dtype in reversed(list(DATATYPES.items()))}


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A request's answer; the arrays are read-only views of memory that they own together."""

    model_name: str
    model_version: str
    id: str
    outputs: Arrays


@dataclass(frozen=True, slots=True)
class InferenceFailure:
    """A request's error answer; `code` is one of worker.errors.ErrorCode."""

    model_name: str
    model_version: str
    id: str
    code: str
    message: str


def encode_request(
    arrays: Mapping[str, ArrayLike], *, id: str | None = None, parameters: Mapping[str, Any] | None = None
) -> bytes:
    """A request's bytes, for the value of a Kafka record.

    Args:
        arrays: input name -> array of shape (rows, …), equally many rows in each; any memory layout and byte order.
        id: at most 256 characters; without one, the answer's id is "topic/partition/offset" of the record.
        parameters: what msgpack can carry; the worker knows `expires_at_ms` (Unix ms).

    Raises:
        ValueError: no datatype for an array, no batch axis, no or unequal rows (names the input), or an id too long.
    """
    if not arrays:
        raise ValueError("a request needs at least one input")
    if id is not None and len(id) > MAX_ID_CHARS:
        raise ValueError(f"the id has {len(id)} characters, the wire format allows {MAX_ID_CHARS}")
    inputs = [_encode_tensor(name, values) for name, values in arrays.items()]
    rows = inputs[0]["shape"][0]
    for tensor in inputs:
        if tensor["shape"][0] != rows or rows == 0:
            name, shape = tensor["name"], tuple(tensor["shape"])
            raise ValueError(
                f"input {name!r} has shape {shape}; axis 0 holds the rows, 1 or more, as many in every input"
            )
    request: dict[str, Any] = {"inputs": inputs}
    if id is not None:
        request["id"] = id
    if parameters:
        request["parameters"] = dict(parameters)
    return bytes(msgpack.packb(request))


def _encode_tensor(name: str, values: ArrayLike) -> dict[str, Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"input {name!r} is not an array: {error}") from error
    dtype = array.dtype.newbyteorder("<")
    datatype = _DATATYPE_OF.get(dtype)
    if datatype is None:
        raise ValueError(f"input {name!r} has dtype {array.dtype}; the wire format has {', '.join(DATATYPES)}")
    if array.ndim == 0:
        raise ValueError(f"input {name!r} is a single number; give it a batch axis, such as shape (1,)")
    flat = np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8)
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": flat.data}


def decode_result(value: bytes) -> Result | InferenceFailure:
    """The answer in a record's value.

    Raises:
        ValueError: the bytes are neither a result nor an error answer of wire format 1.
    """
    try:
        answer = msgpack.unpackb(value)
        names = (answer["model_name"], answer["model_version"], answer["id"])
        if not all(isinstance(name, str) for name in names):
            raise TypeError("model_name, model_version and id must be strings")
        if "error" in answer:
            error = answer["error"]
            return InferenceFailure(*names, code=str(error["code"]), message=str(error["message"]))
        return Result(*names, outputs={str(tensor["name"]): _decode_tensor(tensor) for tensor in answer["outputs"]})
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        problem = f"{error} is missing or unknown" if isinstance(error, LookupError) else error
        raise ValueError(f"not an answer in wire format 1: {problem}") from error


def _decode_tensor(tensor: Any) -> NDArray[Any]:
    name, dtype, shape, data = tensor["name"], DATATYPES[tensor["datatype"]], tensor["shape"], tensor["data"]
    if not isinstance(data, bytes) or not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise TypeError(f"output {name!r} must have a list of lengths and binary data")
    if len(data) != prod(shape) * dtype.itemsize:
        raise ValueError(f"output {name!r} has {len(data)} bytes for shape {shape} of {tensor['datatype']}")
    return np.frombuffer(data, dtype).reshape(shape)
