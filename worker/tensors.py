"""Datatypes of the wire format, and what a model takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

try:
    from ml_dtypes import bfloat16
except ImportError:  # worker.client must work with numpy alone; BF16 then travels as its raw 16 bits
    bfloat16 = np.uint16

Shape = tuple[int, ...]

DATATYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype(bfloat16),
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    datatype: str  # a key of DATATYPES
    shape: Shape  # whole shape, axis 0 is the batch axis; -1 where the length is free
    axis_names: tuple[str, ...] = ()  # the model's symbolic axis names, "" where it has none

    @property
    def dtype(self) -> np.dtype[Any]:
        return DATATYPES[self.datatype]

    @property
    def row_shape(self) -> Shape:
        """Shape of one row: everything behind the batch axis."""
        return self.shape[1:]

    def row_bytes(self, row_shape: Shape) -> int:
        """Bytes of one row of the given (fully known) row shape."""
        return prod(row_shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the loaded model takes and gives, whoever runs it."""

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_rows: int | None = None  # most rows of one batch that the engine takes; None: no limit of its own
    tag: str = ""  # first 12 hex digits of the sha256 of the plan (or ONNX file) that runs


@dataclass(frozen=True, slots=True, eq=False)  # hashed by identity: one object per distinct shape
class RequestShape:
    """The shape of a request, shared by all requests of that shape."""

    rows: int
    row_shapes: tuple[Shape, ...]  # one per model input, in the model's order
    input_bytes: tuple[int, ...]  # bytes of the whole tensor, per model input
    total_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total_bytes", sum(self.input_bytes))
