"""What is found before the service says that it is ready."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from tests.cpu.models import FP32, INT64, identity, node, save
from worker.cpu.onnx_session import OnnxSession
from worker.cpu.self_test import check_rows
from worker.errors import EngineError


def session(path: Path) -> OnnxSession:
    return OnnxSession(path, name="m", version="1", threads=1)


def no_warnings(caplog: pytest.LogCaptureFixture) -> bool:
    return not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_good_model_passes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_rows(session(identity(tmp_path / "a.onnx", FP32, ("rows", "n", 3))), {})
    check_rows(session(identity(tmp_path / "b.onnx", INT64, (4, 2))), {})
    assert no_warnings(caplog)


def test_output_rows_that_depend_on_the_data_are_refused(tmp_path: Path) -> None:
    """NonZero finds as many rows as there are non-zero numbers; the message names the output."""
    path = save(
        tmp_path / "m.onnx",
        [node("NonZero", ["x"], ["found"]), node("Transpose", ["found"], ["places"], perm=[1, 0])],
        [("x", FP32, ("rows", 2))],
        [("places", INT64, ("n", 2))],
    )
    with pytest.raises(EngineError, match="'places'") as caught:
        check_rows(session(path), {})
    assert "batch axis" in str(caught.value)


def test_rows_that_depend_on_a_single_value_are_found_too(tmp_path: Path) -> None:
    """As many rows as requested, as long as no number is zero."""
    path = save(
        tmp_path / "m.onnx",
        [node("NonZero", ["x"], ["found"]), node("Transpose", ["found"], ["places"], perm=[1, 0])],
        [("x", FP32, ("rows",))],
        [("places", INT64, ("n", 1))],
    )
    with pytest.raises(EngineError, match="'places'"):
        check_rows(session(path), {})


def test_an_output_that_sums_over_the_batch_is_refused(tmp_path: Path) -> None:
    """It would give each request what all of them make together."""
    path = save(
        tmp_path / "m.onnx",
        [node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1)],
        [("x", FP32, ("rows", 2))],
        [("mean", FP32, ("n", 2))],
        {"axes": np.array([0])},
    )
    with pytest.raises(EngineError, match="'mean'"):
        check_rows(session(path), {})


def test_a_batch_axis_that_is_not_the_first_is_refused(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        [node("Transpose", ["x"], ["y"], perm=[1, 0])],
        [("x", FP32, ("rows", 5))],
        [("y", FP32, (5, "rows"))],
    )
    with pytest.raises(EngineError, match="'y'"):
        check_rows(session(path), {})


def test_a_guess_that_does_not_suit_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The free axis must be a multiple of 3, which nobody told: that is no reason to refuse the model."""
    path = save(
        tmp_path / "m.onnx",
        [node("Reshape", ["x", "shape"], ["y"], allowzero=0)],
        [("x", FP32, ("rows", "n"))],
        [("y", FP32, ("rows", "m", 3))],
        {"shape": np.array([0, -1, 3])},
    )
    check_rows(session(path), {})
    assert "self-test" in caplog.text
    assert not no_warnings(caplog)


def test_the_buckets_length_is_used_where_it_is_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also for the other inputs that share the axis by name."""
    path = save(
        tmp_path / "m.onnx",
        [node("Add", ["a", "b"], ["sum"]), node("Reshape", ["sum", "shape"], ["y"])],
        [("a", FP32, ("rows", "n")), ("b", FP32, ("rows", "n"))],
        [("y", FP32, ("rows", "m", 3))],
        {"shape": np.array([0, -1, 3])},
    )
    check_rows(session(path), {("a", 1): 12})
    assert no_warnings(caplog)
