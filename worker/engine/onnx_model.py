"""What an ONNX file says about itself: inputs, outputs, axis names, and its sum."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, ValueInfoProto

from worker.errors import EngineError
from worker.tensors import TensorSpec

CHUNK_BYTES = 1 << 22

DATATYPE_OF = {  # ONNX's names
    "BOOL": "BOOL",
    "UINT8": "UINT8",
    "UINT16": "UINT16",
    "UINT32": "UINT32",
    "UINT64": "UINT64",
    "INT8": "INT8",
    "INT16": "INT16",
    "INT32": "INT32",
    "INT64": "INT64",
    "FLOAT16": "FP16",
    "FLOAT": "FP32",
    "DOUBLE": "FP64",
    "BFLOAT16": "BF16",
}


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """An ONNX file's inputs and outputs; its weights stay on disk."""

    path: Path
    sha256: str  # over the file and, in name order, the files its weights lie in
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def read_onnx(path: Path) -> OnnxModel:
    """Raises:
    EngineError: not readable, not ONNX, or with an input or output that cannot be a batch of tensors; names it.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise EngineError(f"cannot read the ONNX file {path}: {error.strerror}; check model.onnx or --onnx") from error
    except DecodeError as error:
        raise EngineError(f"{path} is not an ONNX file, or is cut short: {error}") from error
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_spec(path, "input", info) for info in graph.input if info.name not in weights)
    outputs = tuple(_spec(path, "output", info) for info in graph.output)
    if not inputs or not outputs:
        raise EngineError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs; a model needs both")
    return OnnxModel(path, _sum(path, model), inputs, outputs)


def _spec(path: Path, kind: str, info: ValueInfoProto) -> TensorSpec:
    if info.type.WhichOneof("value") != "tensor_type":
        raise EngineError(f"{path}: {kind} {info.name!r} is not a tensor; the worker serves dense tensors only")
    tensor = info.type.tensor_type
    datatype = DATATYPE_OF.get(TensorProto.DataType.Name(tensor.elem_type))
    if datatype is None:
        known = ", ".join(DATATYPE_OF.values())
        raise EngineError(
            f"{path}: {kind} {info.name!r} has elements of type {TensorProto.DataType.Name(tensor.elem_type)}; "
            f"the wire format carries {known}"
        )
    if not tensor.HasField("shape") or not tensor.shape.dim:
        raise EngineError(f"{path}: {kind} {info.name!r} has no batch axis; its first axis must be the rows")
    shape = tuple(dim.dim_value if dim.WhichOneof("value") == "dim_value" else -1 for dim in tensor.shape.dim)
    return TensorSpec(info.name, datatype, shape, tuple(dim.dim_param for dim in tensor.shape.dim))


def _sum(path: Path, model: onnx.ModelProto) -> str:
    """sha256 of the file itself, continued over the files of its external weights."""
    locations = {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    digest = hashlib.sha256()
    for part in [path, *(path.parent / location for location in sorted(locations))]:
        try:
            with part.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise EngineError(f"cannot read {part}, which {path.name} keeps weights in: {error.strerror}") from error
    return digest.hexdigest()
