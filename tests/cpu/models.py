"""Small ONNX models, made with onnx.helper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Axes = Sequence[int | str | None]
Port = tuple[str, int, Axes]  # (name, TensorProto type, shape)

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
}
FP32 = TensorProto.FLOAT
INT64 = TensorProto.INT64


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    constants: dict[str, Any] | None = None,
) -> onnx.GraphProto:
    return helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(*port) for port in inputs],
        [helper.make_tensor_value_info(*port) for port in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    constants: dict[str, Any] | None = None,
) -> Path:
    """Write the model to `path`; opset and IR version are old enough for every ONNX Runtime that the worker takes."""
    whole = graph(nodes, inputs, outputs, constants)
    onnx.save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def identity(path: Path, onnx_type: int = FP32, axes: Axes = ("rows", 2)) -> Path:
    return save(path, [node("Identity", ["x"], ["y"])], [("x", onnx_type, axes)], [("y", onnx_type, axes)])


def bert_like(path: Path, tokens: int = 50, width: int = 8) -> Path:
    """Token ids and an attention mask, INT64 [batch, sequence], through one layer of attention, and pooled.

    Gives `hidden` FP32 [batch, sequence, width], `pooled` FP32 [batch, width], `count` INT64 [batch] of the tokens that
    the mask keeps, and `ids` as they came. What the mask leaves out changes nothing for the rest.
    """
    table = np.random.default_rng(7).normal(size=(tokens, width)).astype(np.float32)
    text = ("batch", "sequence")
    return save(
        path,
        [
            node("Gather", ["table", "input_ids"], ["words"]),
            node("Cast", ["attention_mask"], ["mask"], to=FP32),
            node("Transpose", ["words"], ["turned"], perm=[0, 2, 1]),
            node("MatMul", ["words", "turned"], ["scores"]),
            node("Sub", ["mask", "one"], ["left_out"]),  # 0 or -1
            node("Mul", ["left_out", "much"], ["bias"]),
            node("Unsqueeze", ["bias", "second"], ["bias_of_keys"]),
            node("Add", ["scores", "bias_of_keys"], ["biased"]),
            node("Softmax", ["biased"], ["attention"], axis=-1),
            node("MatMul", ["attention", "words"], ["hidden"]),
            node("Unsqueeze", ["mask", "third"], ["mask_of_words"]),
            node("Mul", ["hidden", "mask_of_words"], ["kept"]),
            node("ReduceSum", ["kept", "second"], ["sum"], keepdims=0),
            node("ReduceSum", ["attention_mask", "second"], ["count"], keepdims=0),
            node("ReduceSum", ["mask", "second"], ["lengths"], keepdims=1),
            node("Div", ["sum", "lengths"], ["pooled"]),
            node("Identity", ["input_ids"], ["ids"]),
        ],
        [("input_ids", INT64, text), ("attention_mask", INT64, text)],
        [
            ("hidden", FP32, (*text, width)),
            ("pooled", FP32, ("batch", width)),
            ("count", INT64, ("batch",)),
            ("ids", INT64, text),
        ],
        {
            "table": table,
            "one": np.array(1, np.float32),
            "much": np.array(1e9, np.float32),
            "second": np.array([1]),
            "third": np.array([2]),
        },
    )
