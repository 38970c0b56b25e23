"""Small ONNX models for system tests."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

OPSET = 17
IR_VERSION = 8


def pass_through(path: Path, columns: int) -> Path:
    """A model that gives back what it gets: `x` FP32 [batch, columns] -> `y`, the same."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "pass_through",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", columns])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.save(model, path)
    return path
