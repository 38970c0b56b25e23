"""An ONNX file in ONNX Runtime: what it takes and gives, and one synchronous run."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto

from worker.errors import BatchError, ConfigError, EngineError
from worker.tensors import DATATYPES, ModelSpec, TensorSpec

RUNTIME = f"ONNX Runtime {ort.__version__}"
DATATYPE_OF = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
}


class OnnxSession:
    """A loaded model. run() may be called by several threads at once."""

    def __init__(self, path: Path, *, name: str, version: str, threads: int) -> None:
        """Args:
        path: the ONNX file.
        name, version: what results call the model.
        threads: how many threads one run may use.

        Raises:
            ConfigError: there is no such file.
            EngineError: ONNX Runtime cannot load it, or it has a tensor that cannot be served.
        """
        if not path.is_file():
            raise ConfigError(f"model.onnx is {path}: no such file")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # its errors come as exceptions; coloured lines would break the log
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # an idle worker must cost nothing
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the classes that ONNX Runtime raises have no common base
            raise EngineError(
                f"model.onnx is {path}: ONNX Runtime cannot load it: {' '.join(str(error).split())}"
            ) from error
        inputs = tuple(_spec(node, "input") for node in self._session.get_inputs())
        outputs = tuple(_spec(node, "output") for node in self._session.get_outputs())
        if not inputs:
            raise EngineError(f"model.onnx is {path}: the model has no inputs, so there is nothing to request")
        self.fixed_rows = _fixed_rows(inputs)
        tag = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        self.model = ModelSpec(name, version, inputs, outputs, self.fixed_rows, tag)
        self._output_names = [spec.name for spec in outputs]
        self._has_bf16 = any(spec.datatype == "BF16" for spec in (*inputs, *outputs))

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run one batch; blocks, without the interpreter lock.

        Args:
            arrays: one per input, in the model's order, each of shape (rows, …).

        Returns:
            New arrays, one per output.

        Raises:
            BatchError: ONNX Runtime refused these inputs.
        """
        feed = {spec.name: array for spec, array in zip(self.model.inputs, arrays, strict=True)}
        try:
            if self._has_bf16:
                return self._run_values(feed)
            results: list[NDArray[Any]] = self._session.run(self._output_names, feed)
        except Exception as error:  # the classes that ONNX Runtime raises have no common base
            raise BatchError(" ".join(str(error).split())) from error
        return results

    def _run_values(self, feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The same through OrtValues: numpy's own types have no BF16, so its bits go in and out as they are."""
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), TensorProto.BFLOAT16)
            if array.dtype == DATATYPES["BF16"]
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in feed.items()
        }
        results = self._session.run_with_ort_values(self._output_names, values)
        return [_array(result) for result in results]


def _array(value: ort.OrtValue) -> NDArray[Any]:
    if value.data_type() != "tensor(bfloat16)":
        array: NDArray[Any] = value.numpy()
        return array
    shape = tuple(value.shape())
    bits = np.empty(shape, np.uint16)
    ctypes.memmove(bits.ctypes.data, value.data_ptr(), bits.nbytes)
    return bits.view(DATATYPES["BF16"])


def _spec(node: Any, kind: str) -> TensorSpec:
    datatype = DATATYPE_OF.get(node.type)
    if datatype is None:
        raise EngineError(
            f"{kind} {node.name!r} of the model is a {node.type}, which cannot be served; "
            f"served are {', '.join(DATATYPES)}"
        )
    if not node.shape:
        raise EngineError(f"{kind} {node.name!r} of the model has no axes; its first axis must be the batch axis")
    shape = tuple(length if isinstance(length, int) and length >= 0 else -1 for length in node.shape)
    names = tuple(length if isinstance(length, str) and not length.startswith("unk__") else "" for length in node.shape)
    return TensorSpec(node.name, datatype, shape, names)


def _fixed_rows(inputs: Sequence[TensorSpec]) -> int | None:
    """Rows that every batch must have, where the model fixes its batch axis."""
    fixed = {spec.name: spec.shape[0] for spec in inputs if spec.shape[0] >= 0}
    if not fixed:
        return None
    if len(set(fixed.values())) > 1 or len(fixed) < len(inputs):
        raise EngineError(
            f"the inputs of the model disagree about the batch axis: {fixed}; all must fix it alike, or none"
        )
    return next(iter(fixed.values()))


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def threads_per_lane(lanes: int) -> int:
    """Those cores shared out among the lanes, at least one each."""
    return max(1, usable_cores() // lanes)
