"""ONNX files for the GPU tests and the bench: an MLP, every datatype, tokens of varying length, and large models."""

from __future__ import annotations

import warnings
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MLP_WIDTHS = (256, 1024, 1024, 16)


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any]) -> Path:
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def _value(name: str, kind: int, shape: list[int | str]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def write_mlp(path: Path, *, seed: int = 0, rows: int | str = "rows") -> Path:
    """256-1024-1024-16 with ReLU; input "x", output "y", FP32. Another seed is another model."""
    random = np.random.default_rng(seed)
    nodes, weights, name = [], [], "x"
    for place, (width, following) in enumerate(pairwise(MLP_WIDTHS)):
        matrix = (random.standard_normal((width, following)) / np.sqrt(width)).astype(np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"w{place}"),
            numpy_helper.from_array(random.standard_normal(following).astype(np.float32), f"b{place}"),
        ]
        is_last = place == len(MLP_WIDTHS) - 2
        nodes.append(helper.make_node("Gemm", [name, f"w{place}", f"b{place}"], ["y" if is_last else f"h{place}"]))
        if not is_last:
            nodes.append(helper.make_node("Relu", [f"h{place}"], [f"r{place}"]))
            name = f"r{place}"
    inputs = [_value("x", TensorProto.FLOAT, [rows, MLP_WIDTHS[0]])]
    return _save(path, nodes, inputs, [_value("y", TensorProto.FLOAT, [rows, MLP_WIDTHS[-1]])], weights)


DATATYPES = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "bool": TensorProto.BOOL,
}


def write_datatypes(path: Path) -> Path:
    """in_<kind> and out_<kind> of shape (rows, 8) for each kind: doubled.

    But uint8 plus one, bool negated, and int8 with its sign turned, between DequantizeLinear and QuantizeLinear: the
    way that quantised models have it.
    """
    nodes, inputs, outputs = [], [], []
    for kind, number in DATATYPES.items():
        inputs.append(_value(f"in_{kind}", number, ["rows", 8]))
        outputs.append(_value(f"out_{kind}", number, ["rows", 8]))
        if kind == "bool":
            nodes.append(helper.make_node("Not", ["in_bool"], ["out_bool"]))
        elif kind == "uint8":
            nodes += [
                helper.make_node("Cast", ["in_uint8"], ["wide"], to=TensorProto.FLOAT),
                helper.make_node("Add", ["wide", "one"], ["wide1"]),
                helper.make_node("Cast", ["wide1"], ["out_uint8"], to=TensorProto.UINT8),
            ]
        elif kind == "int8":
            nodes += [
                helper.make_node("DequantizeLinear", ["in_int8", "scale", "zero"], ["real"]),
                helper.make_node("Neg", ["real"], ["turned"]),
                helper.make_node("QuantizeLinear", ["turned", "scale", "zero"], ["out_int8"]),
            ]
        else:
            nodes.append(helper.make_node("Add", [f"in_{kind}", f"in_{kind}"], [f"out_{kind}"]))
    weights = [
        numpy_helper.from_array(np.ones(1, np.float32), "one"),
        numpy_helper.from_array(np.array(1, np.float32), "scale"),
        numpy_helper.from_array(np.array(0, np.int8), "zero"),
    ]
    return _save(path, nodes, inputs, outputs, weights)


def write_tokens(path: Path, *, words: int = 100, width: int = 64) -> Path:
    """A layer on the mean of the embeddings that the mask lets through: ids, mask (rows, length) -> (rows, 8)."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal((words, width)).astype(np.float32), "table"),
        numpy_helper.from_array((random.standard_normal((width, 8)) / 8).astype(np.float32), "matrix"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
        numpy_helper.from_array(np.array(1e-3, np.float32), "small"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Cast", ["mask"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weight", "last"], ["weight3"]),
        helper.make_node("Mul", ["embedded", "weight3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["weight", "axis"], ["count"], keepdims=1),
        helper.make_node("Add", ["count", "small"], ["count1"]),
        helper.make_node("Div", ["total", "count1"], ["mean"]),
        helper.make_node("MatMul", ["mean", "matrix"], ["scores"]),
    ]
    inputs = [_value(name, TensorProto.INT64, ["rows", "length"]) for name in ("ids", "mask")]
    return _save(path, nodes, inputs, [_value("scores", TensorProto.FLOAT, ["rows", 8])], weights)


def write_resnet50(path: Path) -> Path:
    """ResNet-50 with random weights; input "images" (rows, 3, 224, 224), output "logits"."""
    torch, torchvision = import_module("torch"), import_module("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None)
    for module in model.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            torch.nn.init.constant_(module.bn3.weight, 0.2)  # keeps 16 blocks within FP16's range, as training would
    model.eval()
    example = torch.randn(2, 3, 224, 224)
    _export(model, (example,), path, ["images"], ["logits"])
    return path


def write_bert_base(path: Path, *, length: int = 128) -> Path:
    """BERT-base with random weights at a fixed length; ids, mask, segments INT64 -> "pooled"."""
    torch, transformers = import_module("torch"), import_module("transformers")
    torch.manual_seed(0)

    module: Any = torch.nn.Module

    class Plain(module):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.BertModel(transformers.BertConfig(attn_implementation="eager")).eval()

        def forward(self, ids: Any, mask: Any, segments: Any) -> Any:
            bias = (1.0 - mask[:, None, None, :].to(torch.float32)) * -10000.0
            embedded = self.bert.embeddings(input_ids=ids, token_type_ids=segments)
            hidden = embedded
            for layer in self.bert.encoder.layer:
                answer = layer(hidden, bias)
                hidden = answer[0] if isinstance(answer, tuple) else answer
            return self.bert.pooler(hidden)

    model = Plain()
    example = tuple(torch.ones(2, length, dtype=torch.int64) for _ in range(3))
    _export(model, example, path, ["ids", "mask", "segments"], ["pooled"])
    return path


def _export(model: Any, example: tuple[Any, ...], path: Path, inputs: list[str], outputs: list[str]) -> None:
    """With a free batch axis, by the exporter that traces: it needs no package besides torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("torch").onnx.export(
            model,
            example,
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "rows"} for name in (*inputs, *outputs)},
            opset_version=17,
            dynamo=False,
        )
