"""Which ONNX files are served, and what the others are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cpu.models import FP32, INT64, ONNX_TYPES, Port, identity, node, save
from worker.cpu.onnx_session import OnnxSession, threads_per_lane
from worker.errors import BatchError, ConfigError, EngineError, FatalError


def session(path: Path) -> OnnxSession:
    return OnnxSession(path, name="digits", version="7", threads=1)


def refusal(path: Path, kind: type[FatalError] = EngineError) -> str:
    """What the user is told: one line, and the exit code says the rest."""
    with pytest.raises(kind) as caught:
        session(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_model_is_described_as_it_is(tmp_path: Path) -> None:
    model = session(identity(tmp_path / "m.onnx", INT64, ("batch", "sequence", 3))).model
    assert (model.name, model.version) == ("digits", "7")
    (given,), (taken,) = model.inputs, model.outputs
    assert (given.name, given.datatype, given.shape) == ("x", "INT64", (-1, -1, 3))
    assert (taken.name, taken.axis_names) == ("y", ("batch", "sequence", ""))


def test_the_tag_changes_with_the_file(tmp_path: Path) -> None:
    """trt-worker-engine tells which file answered."""
    first = session(identity(tmp_path / "a.onnx")).model.tag
    assert first == session(identity(tmp_path / "b.onnx")).model.tag
    assert first != session(identity(tmp_path / "c.onnx", INT64)).model.tag


def test_a_missing_file_is_a_setting_to_mend(tmp_path: Path) -> None:
    message = refusal(tmp_path / "absent.onnx", ConfigError)
    assert "model.onnx" in message
    assert "absent.onnx" in message
    refusal(tmp_path, ConfigError)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 500])
def test_a_broken_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    message = refusal(path)
    assert "broken.onnx" in message
    assert "cannot load" in message


def test_a_truncated_file_is_one_line(tmp_path: Path) -> None:
    path = identity(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-40])
    assert "m.onnx" in refusal(path)


def test_an_operator_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx", [node("Frobnicate", ["x"], ["y"])], [("x", FP32, ("rows",))], [("y", FP32, ("rows",))]
    )
    assert "Frobnicate" in refusal(path)


def two_ports(path: Path, given: Port, taken: Port, *nodes: str) -> Path:
    return save(path, [node(nodes[0] if nodes else "Identity", ["x"], ["y"])], [given], [taken])


def test_a_string_tensor_is_named(tmp_path: Path) -> None:
    message = refusal(identity(tmp_path / "m.onnx", 8))
    assert "input 'x'" in message
    assert "string" in message
    assert "FP32" in message  # and what would be served


def test_a_string_output_is_named(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [node("Cast", ["x"], ["text"], to=8)],
        [("x", FP32, ("rows", 2))],
        [("text", 8, ("rows", 2))],
    )
    assert "output 'text'" in refusal(path)


def test_a_scalar_input_is_named(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [node("Mul", ["x", "factor"], ["y"])],
        [("x", FP32, ("rows", 2)), ("factor", FP32, ())],
        [("y", FP32, ("rows", 2))],
    )
    message = refusal(path)
    assert "input 'factor'" in message
    assert "batch axis" in message


def test_a_scalar_output_is_named(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [node("ReduceSum", ["x"], ["total"], keepdims=0)],
        [("x", FP32, ("rows", 2))],
        [("total", FP32, ())],
    )
    assert "output 'total'" in refusal(path)


def test_inputs_that_disagree_about_the_batch_axis_are_told(tmp_path: Path) -> None:
    for axes in ((3, 2), ("rows", 2)):
        path = save(
            tmp_path / "m.onnx",
            [node("Identity", ["a"], ["c"]), node("Identity", ["b"], ["d"])],
            [("a", FP32, (4, 2)), ("b", FP32, axes)],
            [("c", FP32, (4, 2)), ("d", FP32, axes)],
        )
        assert "disagree" in refusal(path)


def test_a_model_without_inputs_serves_nobody(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [node("Identity", ["c"], ["y"])],
        [],
        [("y", FP32, (2,))],
        {"c": np.array([1, 2], np.float32)},
    )
    assert "no inputs" in refusal(path)


def test_a_run_that_fails_is_a_batch_error_of_one_line(tmp_path: Path) -> None:
    opened = session(identity(tmp_path / "m.onnx"))
    with pytest.raises(BatchError) as caught:
        opened.run([np.zeros((1, 3), np.float32)])
    assert "\n" not in str(caught.value)
    assert opened.run([np.zeros((1, 2), np.float32)])[0].shape == (1, 2)


def test_every_datatype_of_the_wire_format_is_known(tmp_path: Path) -> None:
    for datatype, onnx_type in ONNX_TYPES.items():
        assert session(identity(tmp_path / f"{datatype}.onnx", onnx_type)).model.inputs[0].datatype == datatype


def test_lanes_share_the_cores() -> None:
    assert threads_per_lane(1) >= 1
    assert threads_per_lane(10_000) == 1
