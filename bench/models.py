"""The models of the scenarios as ONNX files: python -m bench.models resnet50 FILE.

BERT-base and ResNet-50 have random weights, and need torch, transformers and torchvision to be written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.scenario import Scenario
from tests.gpu import onnx_models

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of values from 0 to 1


def write_pass_through(path: Path, features: int) -> Path:
    """output = input, FP32 [rows, features]."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("rows", features)) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["output"])], "pass-through", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def write_mlp(path: Path) -> Path:
    """256-1024-1024-16 that takes FP16: half the bytes for Kafka."""
    model = onnx.load(onnx_models.write_mlp(path))
    _prepend(model, TensorProto.FLOAT16, [])
    onnx.save(model, path)
    return path


def write_mlp_half(path: Path) -> Path:
    """The same all in FP16, for a GPU: build it with --precision as-is."""
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(onnx_models.write_mlp(path))), path)
    return path


def write_resnet50(path: Path) -> Path:
    """ResNet-50 that takes images as they are, UINT8, and normalises them itself."""
    model = onnx.load(onnx_models.write_resnet50(path))
    shift, scale = (np.array(each, np.float32).reshape(1, 3, 1, 1) for each in (MEAN, DEVIATION))
    _prepend(model, TensorProto.UINT8, [("Sub", shift * 255), ("Div", scale * 255)])
    onnx.save(model, path)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    "mlp": write_mlp,
    "mlp_half": write_mlp_half,
    "bert_base": onnx_models.write_bert_base,
    "resnet50": write_resnet50,
}


def write(scenario: Scenario, path: Path) -> Path:
    """The scenario's model.

    Raises:
        ModuleNotFoundError: it needs torch, and torch is not here.
    """
    if scenario.model == "pass-through":
        return write_pass_through(path, scenario.row_bytes // 4)
    return WRITERS[scenario.model](path)


def _prepend(model: Any, datatype: int, steps: list[tuple[str, Any]]) -> None:
    """Let the first input be of another datatype: a cast, then the steps, then the model as it was."""
    graph = model.graph
    name, inner = graph.input[0].name, f"{graph.input[0].name}_prepared"
    for node in graph.node:
        for place, each in enumerate(node.input):
            if each == name:
                node.input[place] = inner
    graph.input[0].type.tensor_type.elem_type = datatype
    wide = [f"{name}_{number}" for number in range(len(steps))]
    nodes = [helper.make_node("Cast", [name], [*wide, inner][:1], to=TensorProto.FLOAT)]
    for number, (kind, constant) in enumerate(steps):
        graph.initializer.append(numpy_helper.from_array(constant, f"{name}_{kind}"))
        nodes.append(helper.make_node(kind, [wide[number], f"{name}_{kind}"], [[*wide, inner][number + 1]]))
    for node in reversed(nodes):
        graph.node.insert(0, node)
    onnx.checker.check_model(model, full_check=True)


if __name__ == "__main__":
    print(WRITERS[sys.argv[1]](Path(sys.argv[2])))
