"""ONNX Runtime behind the Protocol, with real models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cpu.batches import Open, fill, run, wait_for
from tests.cpu.models import FP32, INT64, ONNX_TYPES, identity, node, save
from tests.records import floats
from worker.errors import BatchError
from worker.protocols import Backend, Lane
from worker.tensors import DATATYPES


def test_it_is_a_backend(tmp_path: Path, open_backend: Open) -> None:
    """mypy reads these lines as much as pytest runs them."""
    backend: Backend = open_backend(identity(tmp_path / "m.onnx"), lanes=2)
    lane: Lane | None = backend.acquire()
    assert lane is not None
    assert (backend.lane_count, backend.busy_lanes) == (2, 1)
    lane.release()
    assert backend.busy_lanes == 0
    assert backend.describe()["plan"] == backend.model.tag


@pytest.mark.parametrize("datatype", ONNX_TYPES)
def test_every_datatype_goes_through_bit_for_bit(datatype: str, tmp_path: Path, open_backend: Open) -> None:
    """Also those that numpy has no type of its own for."""
    backend = open_backend(identity(tmp_path / "m.onnx", ONNX_TYPES[datatype], ("rows", 3)))
    assert [each.datatype for each in (*backend.model.inputs, *backend.model.outputs)] == [datatype] * 2
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(DATATYPES[datatype])
    (output,) = run(backend, values)
    assert output.dtype == DATATYPES[datatype]
    assert output.shape == (2, 3)
    assert output.tobytes() == values.tobytes()


def test_bf16_beside_other_datatypes(tmp_path: Path, open_backend: Open) -> None:
    """BF16 takes another road into ONNX Runtime, and takes the others with it."""
    bf16 = ONNX_TYPES["BF16"]
    path = save(
        tmp_path / "m.onnx",
        [node("Cast", ["a"], ["c"], to=FP32), node("Cast", ["b"], ["d"], to=bf16), node("Identity", ["b"], ["e"])],
        [("a", bf16, ("rows", 2)), ("b", FP32, ("rows", 2))],
        [("c", FP32, ("rows", 2)), ("d", bf16, ("rows", 2)), ("e", FP32, ("rows", 2))],
    )
    a = np.array([[1.5, -2]], DATATYPES["BF16"])
    b = np.array([[3, 0.25]], np.float32)
    c, d, e = run(open_backend(path), a, b)
    assert c.tolist() == [[1.5, -2]]
    assert d.astype(np.float32).tolist() == [[3, 0.25]]
    assert e.tolist() == [[3, 0.25]]


def test_several_inputs_and_outputs_keep_the_models_order(tmp_path: Path, open_backend: Open) -> None:
    path = save(
        tmp_path / "m.onnx",
        [
            node("Sub", ["b", "a"], ["difference"]),
            node("Mul", ["a", "b"], ["product"]),
            node("Identity", ["n"], ["same"]),
        ],
        [("b", FP32, ("rows", 2)), ("n", INT64, ("rows",)), ("a", FP32, ("rows", 2))],
        [("product", FP32, ("rows", 2)), ("same", INT64, ("rows",)), ("difference", FP32, ("rows", 2))],
    )
    backend = open_backend(path)
    assert [each.name for each in backend.model.inputs] == ["b", "n", "a"]
    product, same, difference = run(backend, floats((5, 7)), np.array([9]), floats((2, 3)))
    assert (product.tolist(), same.tolist(), difference.tolist()) == ([[10, 21]], [9], [[3, 4]])


def test_symbolic_axes_are_known_by_name(tmp_path: Path, open_backend: Open) -> None:
    """Padding and validation go by them; the batch axis and fixed lengths too."""
    model = open_backend(identity(tmp_path / "m.onnx", INT64, ("batch", "sequence", None, 4))).model
    assert model.inputs[0].shape == (-1, -1, -1, 4)
    assert model.inputs[0].axis_names == ("batch", "sequence", "", "")
    assert model.max_rows is None
    assert len(model.tag) == 12
    assert int(model.tag, 16) >= 0


def test_each_batch_may_have_another_shape(tmp_path: Path, open_backend: Open) -> None:
    backend = open_backend(identity(tmp_path / "m.onnx", FP32, ("rows", "n")))
    for rows, width in ((1, 5), (3, 2), (8, 1)):
        values = np.random.default_rng(1).random((rows, width), np.float32)
        assert (run(backend, values)[0] == values).all()


def test_a_batch_smaller_than_the_lane_does_not_see_the_rest(tmp_path: Path, open_backend: Open) -> None:
    backend = open_backend(identity(tmp_path / "m.onnx"))
    run(backend, np.full((8, 2), 9, np.float32))
    assert run(backend, np.ones((2, 2), np.float32))[0].tolist() == [[1, 1], [1, 1]]


def test_a_fixed_batch_axis_is_filled_with_zeros(tmp_path: Path, open_backend: Open) -> None:
    """The model sees zeros, not what the last batch left; the added rows are counted, and cut off the answer."""
    total = node("ReduceSum", ["x", "axes"], ["sum"], keepdims=1)
    path = save(
        tmp_path / "m.onnx",
        [total, node("Expand", ["sum", "shape"], ["whole"]), node("Add", ["whole", "x"], ["y"])],
        [("x", FP32, (4, 2))],
        [("y", FP32, (4, 2))],
        {"axes": np.array([0]), "shape": np.array([4, 2])},
    )
    backend = open_backend(path)
    assert backend.model.max_rows == 4
    run(backend, np.full((4, 2), 100, np.float32))
    lane = backend.acquire()
    assert lane is not None
    fill(lane, backend, [np.ones((3, 2), np.float32)])
    lane.launch(3)
    wait_for(backend)
    assert lane.padded_rows == 1
    assert lane.outputs()[0].tolist() == [[4, 4]] * 3
    lane.release()
    assert run(backend, np.ones((4, 2), np.float32))[0].tolist() == [[5, 5]] * 4


def test_a_lane_never_offers_more_rows_than_the_model_fixes(tmp_path: Path, open_backend: Open) -> None:
    backend = open_backend(identity(tmp_path / "m.onnx", FP32, (4, 2)), max_rows=64)
    lane = backend.acquire()
    assert lane is not None
    assert lane.open([(2,)])[0] == 4
    lane.release()


def test_full_batches_are_not_padded(tmp_path: Path, open_backend: Open) -> None:
    backend = open_backend(identity(tmp_path / "m.onnx", FP32, (4, 2)))
    lane = backend.acquire()
    assert lane is not None
    fill(lane, backend, [np.ones((4, 2), np.float32)])
    lane.launch(4)
    wait_for(backend)
    assert lane.padded_rows == 0
    lane.release()


def test_rows_are_bounded_by_max_rows_and_by_memory(tmp_path: Path, open_backend: Open) -> None:
    backend = open_backend(identity(tmp_path / "m.onnx", FP32, ("rows", "n")), max_rows=8, max_bytes=4096)
    lane = backend.acquire()
    assert lane is not None
    for width, rows in ((2, 8), (200, 5), (1000, 1)):
        held, (view,) = lane.open([(width,)])
        assert held == rows
        assert len(view) == rows * width * 4
        lane.release()
        assert backend.acquire() is lane
    lane.release()


@pytest.mark.parametrize("axes", [("rows", "n"), (4, "n")])
def test_rows_larger_than_the_memory_are_refused(
    axes: tuple[int | str, ...], tmp_path: Path, open_backend: Open
) -> None:
    """With a fixed batch axis, all of its rows must fit."""
    backend = open_backend(identity(tmp_path / "m.onnx", FP32, axes), max_bytes=4096)
    lane = backend.acquire()
    assert lane is not None
    with pytest.raises(BatchError, match=r"batching\.max_bytes"):
        lane.open([(1024 if axes[0] == "rows" else 256,)])
    lane.release()


def test_inputs_do_not_overlap(tmp_path: Path, open_backend: Open) -> None:
    path = save(
        tmp_path / "m.onnx",
        [node("Identity", ["a"], ["c"]), node("Identity", ["b"], ["d"])],
        [("a", ONNX_TYPES["UINT8"], ("rows", 3)), ("b", ONNX_TYPES["FP64"], ("rows", 5))],
        [("c", ONNX_TYPES["UINT8"], ("rows", 3)), ("d", ONNX_TYPES["FP64"], ("rows", 5))],
    )
    a = np.full((8, 3), 255, np.uint8)
    b = np.random.default_rng(3).random((8, 5))
    c, d = run(open_backend(path), a, b)
    assert (c == a).all()
    assert (d == b).all()


def test_a_failing_batch_is_a_batch_error_and_the_lane_is_good_again(tmp_path: Path, open_backend: Open) -> None:
    """Gather with an index out of range fails inside ONNX Runtime; the message is one line and says so."""
    path = save(
        tmp_path / "m.onnx",
        [node("Gather", ["table", "x"], ["y"])],
        [("x", INT64, ("rows",))],
        [("y", FP32, ("rows",))],
        {"table": np.array([10, 11, 12], np.float32)},
    )
    backend = open_backend(path)
    for _ in range(3):
        with pytest.raises(BatchError) as caught:
            run(backend, np.array([1, 99]))
        assert "99" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert backend.busy_lanes == 0
        assert run(backend, np.array([1, 2]))[0].tolist() == [11, 12]


def test_a_failing_batch_writes_nothing_into_our_log(
    tmp_path: Path, open_backend: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime's coloured lines would stand between JSON objects; its message is in the error already."""
    path = save(
        tmp_path / "m.onnx",
        [node("Gather", ["table", "x"], ["y"])],
        [("x", INT64, ("rows",))],
        [("y", FP32, ("rows",))],
        {"table": np.array([10, 11, 12], np.float32)},
    )
    backend = open_backend(path)
    capfd.readouterr()
    with pytest.raises(BatchError):
        run(backend, np.array([99]))
    assert capfd.readouterr() == ("", "")


def test_rows_that_depend_on_the_data_fail_their_batch_alone(tmp_path: Path, open_backend: Open) -> None:
    """What the self-test did not find is found when it happens, before anybody gets his neighbour's answer."""
    path = save(
        tmp_path / "m.onnx",
        [node("NonZero", ["x"], ["found"]), node("Transpose", ["found"], ["y"], perm=[1, 0])],
        [("x", FP32, ("rows",))],
        [("y", INT64, ("rows", 1))],
    )
    backend = open_backend(path)
    with pytest.raises(BatchError, match="'y'"):
        run(backend, np.array([1, 0], np.float32))
    assert run(backend, np.array([1, 1], np.float32))[0].tolist() == [[0], [1]]
