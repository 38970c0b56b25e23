"""FP16 in the ONNX itself, so that one strongly typed build serves every major version of TensorRT."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
from onnx import TensorProto

from worker.errors import ConfigError, EngineError

LARGEST_PROTOBUF_BYTES = 2_000_000_000  # an ONNX file without external weights cannot be larger


def write_fp16(source: Path, target: Path) -> None:
    """Write a copy of the model that computes in FP16; inputs and outputs keep their datatypes.

    Raises:
        ConfigError: the converter is not installed.
        EngineError: the model cannot be converted; says why.
    """
    try:
        from onnxconverter_common import float16
    except ImportError as error:
        raise ConfigError(
            "--precision fp16 needs onnxconverter-common; install it, or build with --precision as-is"
        ) from error
    model = onnx.load(str(source))
    own_casts = _name_nodes(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one line per weight that FP16 cannot hold exactly
            # above 2 GB shape inference in memory is impossible; it only finds places where no cast is needed
            converted = float16.convert_float_to_float16(
                model, keep_io_types=True, disable_shape_infer=model.ByteSize() > LARGEST_PROTOBUF_BYTES
            )
    except Exception as error:  # the converter has no error type of its own
        raise EngineError(f"{source} cannot be converted to FP16: {error}; build with --precision as-is") from error
    _narrow(converted, own_casts)
    is_large = converted.ByteSize() > LARGEST_PROTOBUF_BYTES
    onnx.save(converted, str(target), save_as_external_data=is_large)


def _name_nodes(model: onnx.ModelProto) -> set[str]:
    """Give every node a name of its own, which the converter needs; returns the names of the casts to FP32."""
    casts: set[str] = set()
    taken: set[str] = set()
    for place, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{place}"
        taken.add(node.name)
        if node.op_type == "Cast" and any(
            entry.name == "to" and entry.i == TensorProto.FLOAT for entry in node.attribute
        ):
            casts.add(node.name)
    return casts


def _narrow(model: onnx.ModelProto, casts: set[str]) -> None:
    """Turn the model's own casts to FP32 into casts to FP16: the converter declares their outputs FP16 already."""
    for node in model.graph.node:
        if node.name in casts:
            for entry in node.attribute:
                if entry.name == "to":
                    entry.i = TensorProto.FLOAT16
