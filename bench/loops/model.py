"""The model as one who writes a loop by hand would hold it: known inputs, no checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import onnxruntime
from numpy.typing import NDArray

DTYPES = {"tensor(float)": "<f4", "tensor(float16)": "<f2", "tensor(uint8)": "u1", "tensor(int64)": "<i8"}
DATATYPES = {"float32": "FP32", "float16": "FP16", "uint8": "UINT8", "int64": "INT64"}


class Model:
    """An ONNX Runtime session on one thread, and the wire format around it."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input_names = [each.name for each in self._session.get_inputs()]
        self.output_names = [each.name for each in self._session.get_outputs()]
        self._dtypes = [DTYPES[each.type] for each in self._session.get_inputs()]

    @property
    def input_specs(self) -> list[tuple[str, Any, tuple[int, ...]]]:
        """Name, dtype and shape of a row."""
        return _specs(self._session.get_inputs())

    @property
    def output_specs(self) -> list[tuple[str, Any, tuple[int, ...]]]:
        """Name, dtype and shape of a row."""
        return _specs(self._session.get_outputs())

    def arrays(self, request: Mapping[str, Any]) -> list[NDArray[Any]]:
        """The request's inputs, in the order of the model, as the sender wrote them."""
        return [
            np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
            for tensor, dtype in zip(request["inputs"], self._dtypes, strict=True)
        ]

    def run(self, batch: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The model's outputs."""
        outputs: list[NDArray[Any]] = self._session.run(
            self.output_names, dict(zip(self.input_names, batch, strict=True))
        )
        return outputs

    def result(self, request: Mapping[str, Any], outputs: Sequence[NDArray[Any]]) -> bytes:
        """The answer in the wire format."""
        tensors = [
            {"name": name, "datatype": DATATYPES[str(array.dtype)], "shape": [*array.shape], "data": array.tobytes()}
            for name, array in zip(self.output_names, outputs, strict=True)
        ]
        packed: bytes = msgpack.packb(
            {"model_name": "loop", "model_version": "1", "id": request["id"], "outputs": tensors}
        )
        return packed


def _specs(told: Sequence[Any]) -> list[tuple[str, Any, tuple[int, ...]]]:
    return [(each.name, np.dtype(DTYPES[each.type]).type, tuple(each.shape[1:])) for each in told]
