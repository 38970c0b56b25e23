"""The demo's data and model: small, honest, and what train.py says they are."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from worker.demo import train
from worker.demo.digits import IMAGES, MODEL, TOLERANCE_FP32, Digits


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


def right(digits: Digits, number: int) -> dict[str, Any]:
    return {"probabilities": digits.probabilities[number : number + 1], "label": digits.answers[number : number + 1]}


def test_the_files_are_small() -> None:
    assert MODEL.stat().st_size < 300_000
    assert IMAGES.stat().st_size < 50_000


def test_the_images_are_those_held_out_from_training(digits: Digits) -> None:
    """The demo's accuracy is about images that the model has not seen."""
    trained_on, _, held_out, labels = train.split()
    assert len(digits) == train.HELD_OUT == 360
    np.testing.assert_array_equal(digits.images, held_out)
    np.testing.assert_array_equal(digits.labels, labels)
    seen = {image.tobytes() for image in trained_on}
    assert not any(image.tobytes() in seen for image in held_out)
    assert min(np.bincount(labels)) >= 34  # stratified: every digit is there about as often


def test_the_model_is_right_about_more_than_97_of_100(digits: Digits) -> None:
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    answers = session.run(["label"], {"image": digits.images})[0]
    assert np.mean(answers == digits.labels) > 0.97
    assert digits.accuracy(360) == np.mean(answers == digits.labels)


def test_accuracy_is_that_of_the_images_asked_for(digits: Digits) -> None:
    first_ten = float(np.mean(digits.answers[:10] == digits.labels[:10]))
    assert digits.accuracy(370) == pytest.approx((360 * digits.accuracy(360) + 10 * first_ten) / 370)


def test_the_model_has_the_documented_inputs_and_outputs() -> None:
    model = onnx.load(MODEL)
    onnx.checker.check_model(model, full_check=True)

    def form(value: Any) -> tuple[str, str, list[Any]]:
        tensor = value.type.tensor_type
        axes = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
        return value.name, onnx.TensorProto.DataType.Name(tensor.elem_type), axes

    assert [form(value) for value in model.graph.input] == [("image", "FLOAT", ["batch", 64])]
    assert [form(value) for value in model.graph.output] == [
        ("probabilities", "FLOAT", ["batch", 10]),
        ("label", "INT64", ["batch"]),
    ]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", train.OPSET)]


def test_exporting_any_weights_gives_what_numpy_computes() -> None:
    random = np.random.default_rng(1)
    sizes = [64, 7, 10]
    weights = [random.normal(size=(a, b)).astype(np.float32) for a, b in itertools.pairwise(sizes)]
    biases = [random.normal(size=b).astype(np.float32) for b in sizes[1:]]
    images = random.integers(0, 17, (5, 64)).astype(np.float32)
    hidden = np.maximum(images / 16 @ weights[0] + biases[0], 0)
    logits = (hidden @ weights[1] + biases[1]).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    session = onnxruntime.InferenceSession(train.model(weights, biases).SerializeToString())
    probabilities, labels = session.run(["probabilities", "label"], {"image": images})
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(labels, logits.argmax(axis=1))


def test_moved_images_lose_one_edge_and_nothing_else() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(1, 64)
    same, down, up, right_, left = (copy.reshape(8, 8) for copy in train.moved(image))
    square = image.reshape(8, 8)
    np.testing.assert_array_equal(same, square)
    np.testing.assert_array_equal(down[1:], square[:-1])
    np.testing.assert_array_equal(up[:-1], square[1:])
    np.testing.assert_array_equal(right_[:, 1:], square[:, :-1])
    np.testing.assert_array_equal(left[:, :-1], square[:, 1:])
    assert not down[0].any()
    assert not up[-1].any()
    assert not right_[:, 0].any()
    assert not left[:, -1].any()


def test_without_onnxruntime_the_reference_implementation_says_the_same(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    other = Digits()
    assert "reference" in other.checked_by
    assert "ONNX Runtime" in digits.checked_by
    np.testing.assert_allclose(other.probabilities, digits.probabilities, atol=TOLERANCE_FP32)
    np.testing.assert_array_equal(other.answers, digits.answers)


class TestFaultIn:
    def test_the_direct_runs_own_answers_have_no_fault(self, digits: Digits) -> None:
        for number in range(len(digits)):
            assert digits.fault_in(number, right(digits, number), TOLERANCE_FP32) is None

    def test_every_other_images_answer_is_a_fault(self, digits: Digits) -> None:
        """An answer that was swapped with a neighbour's must not pass, not even one with the same label."""
        passed = [
            (number, other)
            for number in range(60)
            for other in range(60)
            if number != other and digits.fault_in(number, right(digits, other), TOLERANCE_FP32) is None
        ]
        alike = [
            (a, b)
            for a, b in passed
            if np.abs(digits.probabilities[a] - digits.probabilities[b]).max() > TOLERANCE_FP32
        ]
        assert alike == []
        assert len(passed) < 60 * 59 * 0.05

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"probabilities": None}, "outputs"),
            ({"extra": np.zeros(1)}, "outputs"),
            ({"probabilities": np.zeros((1, 9), np.float32)}, "probabilities float32"),
            ({"probabilities": np.zeros((2, 10), np.float32)}, "probabilities float32"),
            ({"probabilities": np.zeros((1, 10), np.float64)}, "probabilities float64"),
            ({"probabilities": np.full((1, 10), np.nan, np.float32)}, "off by nan"),
            ({"probabilities": np.full((1, 10), 0.1, np.float32)}, "off by"),
            ({"label": np.zeros(2, np.int64)}, "label int64"),
            ({"label": np.zeros(1, np.int32)}, "label int32"),
            ({"label": np.array([10])}, "label int64"),
        ],
        ids=str,
    )
    def test_any_deviation_is_named(self, digits: Digits, change: dict[str, Any], fault: str) -> None:
        outputs = {name: array for name, array in {**right(digits, 0), **change}.items() if array is not None}
        assert fault in str(digits.fault_in(0, outputs, TOLERANCE_FP32))

    def test_a_wrong_label_is_a_fault_though_the_probabilities_are_right(self, digits: Digits) -> None:
        wrong = (digits.answers[:1] + 1) % 10
        assert "the direct run says" in str(digits.fault_in(0, {**right(digits, 0), "label": wrong}, TOLERANCE_FP32))
