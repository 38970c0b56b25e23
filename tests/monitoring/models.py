"""A model that can fail: a table look-up, which takes no row number beyond the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.system.models import IR_VERSION, OPSET

ROWS = 1 << 16
BEYOND = 1 << 20  # a batch that holds this fails


def look_up(path: Path, batch: int | str) -> Path:
    """`x` FP32 [batch, 1] -> `y`, the same, looked up; a number for `batch` makes a model that wants padding."""
    table = np.arange(ROWS, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["row"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "row"], ["y"]),
        ],
        "look_up",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 1])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.save(model, path)
    return path
