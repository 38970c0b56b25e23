"""What is read from an ONNX file, and which files are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.gpu.onnx_models import write_datatypes, write_mlp, write_tokens
from worker.engine.onnx_model import read_onnx
from worker.engine.precision import write_fp16
from worker.errors import EngineError


def write(path: Path, kind: int, shape: list[int | str] | None) -> Path:
    value = helper.make_tensor_value_info
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value("x", kind, shape)], [value("y", kind, shape)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return path


def test_names_datatypes_shapes_and_axes_are_read(tmp_path: Path) -> None:
    """Free axes are -1 and keep their names; the sum is that of the file."""
    path = write_tokens(tmp_path / "tokens.onnx")
    model = read_onnx(path)
    assert [(spec.name, spec.datatype, spec.shape, spec.axis_names) for spec in model.inputs] == [
        ("ids", "INT64", (-1, -1), ("rows", "length")),
        ("mask", "INT64", (-1, -1), ("rows", "length")),
    ]
    assert model.outputs[0].shape == (-1, 8)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_datatype_of_the_wire_format_that_onnx_has(tmp_path: Path) -> None:
    """Under its name on the wire."""
    model = read_onnx(write_datatypes(tmp_path / "all.onnx"))
    assert [spec.datatype for spec in model.inputs] == [
        "FP32",
        "FP16",
        "BF16",
        "INT64",
        "INT32",
        "UINT8",
        "INT8",
        "BOOL",
    ]


def test_external_weights_count_for_the_sum(tmp_path: Path) -> None:
    """Other weights are another model, though the file beside them is the same."""
    model = onnx.load(str(write_mlp(tmp_path / "mlp.onnx")))
    path = tmp_path / "external.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = read_onnx(path).sha256
    weights = tmp_path / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    assert read_onnx(path).sha256 != before
    weights.unlink()
    with pytest.raises(EngineError, match=r"weights\.bin, which external\.onnx keeps weights in"):
        read_onnx(path)


def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path) -> None:
    """Strings, complex numbers, tensors without a batch axis."""
    with pytest.raises(EngineError, match="input 'x' has elements of type STRING"):
        read_onnx(write(tmp_path / "string.onnx", TensorProto.STRING, ["rows"]))
    with pytest.raises(EngineError, match="input 'x' has no batch axis"):
        read_onnx(write(tmp_path / "scalar.onnx", TensorProto.FLOAT, []))


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    """Absent, empty, cut short, junk: one clear error each, exit 3."""
    whole = write_mlp(tmp_path / "mlp.onnx").read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("junk", b"\xff" * 100), ("none", None)):
        path = tmp_path / f"{name}.onnx"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(EngineError, match=str(path)) as raised:
            read_onnx(path)
        assert raised.value.exit_code == 3


def test_fp16_keeps_inputs_and_outputs_and_nearly_the_answers(tmp_path: Path) -> None:
    """Weights become half as large; the wire sees no difference; casts inside the model are converted with it."""
    for write_model, feed in (
        (write_mlp, {"x": np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)}),
        (write_tokens, {"ids": np.arange(24).reshape(2, 12), "mask": np.ones((2, 12), np.int64)}),
    ):
        source, target = write_model(tmp_path / "model.onnx"), tmp_path / "fp16.onnx"
        write_fp16(source, target)
        assert target.stat().st_size < 0.75 * source.stat().st_size
        before, after = read_onnx(source), read_onnx(target)
        assert (before.inputs, before.outputs) == (after.inputs, after.outputs)
        graph = onnx.load(str(target)).graph
        assert {TensorProto.FLOAT16} >= {w.data_type for w in graph.initializer if w.data_type != TensorProto.INT64}
        expected, got = (ort.InferenceSession(str(path)).run(None, feed)[0] for path in (source, target))
        np.testing.assert_allclose(got, expected, atol=0.01 * float(np.abs(expected).max()))
        assert not np.array_equal(got, expected)


def test_a_model_that_is_fp16_already_is_refused(tmp_path: Path) -> None:
    """The converter would spoil it; as-is is right."""
    half = numpy_helper.from_array(np.ones((4, 4), np.float16), "w")
    value = helper.make_tensor_value_info
    x, y = (value(name, TensorProto.FLOAT16, ["rows", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [half])
    path = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    with pytest.raises(EngineError, match="build with --precision as-is"):
        write_fp16(path, tmp_path / "fp16.onnx")
