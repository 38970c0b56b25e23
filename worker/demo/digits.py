"""Handwritten digits that the model was not trained on, and what it must answer to each (train.py made the files)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
MODEL = HERE / "digits.onnx"
IMAGES = HERE / "digits.npz"

# By how much a probability may differ from the direct run's.
TOLERANCE_FP32 = 1e-5  # the same arithmetic, summed in another order
TOLERANCE_TF32 = 5e-3  # TensorRT multiplies with 10 bits of mantissa where the GPU can; three such layers: 1.4e-3


class Digits:
    """The held-out images with their true labels, and a direct run of the model on them."""

    def __init__(self) -> None:
        with np.load(IMAGES) as archive:
            self.images: NDArray[np.float32] = archive["images"].astype(np.float32)  # shape (n, 64), 0..16
            self.labels: NDArray[np.int64] = archive["labels"].astype(np.int64)  # shape (n,)
        self.probabilities: NDArray[np.float32]  # shape (n, 10)
        self.answers: NDArray[np.int64]  # shape (n,)
        self.probabilities, self.answers, self.checked_by = _run_directly(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def accuracy(self, requests: int) -> float:
        """Share of true labels in the direct run of the images of so many requests, which take them in turn."""
        images = np.arange(requests) % len(self)
        return float(np.mean(self.answers[images] == self.labels[images]))

    def fault_in(self, number: int, outputs: dict[str, NDArray[Any]], tolerance: float) -> str | None:
        """What is wrong with the outputs for image `number`, one row; None where they are those of the direct run."""
        if set(outputs) != {"probabilities", "label"}:
            return f"outputs {sorted(outputs)}"
        probabilities, label = outputs["probabilities"], outputs["label"]
        if probabilities.shape != (1, 10) or probabilities.dtype != np.float32:
            return f"probabilities {probabilities.dtype} {probabilities.shape}"
        if label.shape != (1,) or label.dtype != np.int64 or not 0 <= label[0] < 10:
            return f"label {label.dtype} {label.shape} {label.tolist()}"
        expected = self.probabilities[number]
        difference = float(np.abs(probabilities[0] - expected).max())
        if not difference <= tolerance:  # written so that NaN is a fault
            return f"probabilities off by {difference:g}, at most {tolerance:g} is right"
        if expected[label[0]] < expected.max() - 2 * tolerance:  # within it, two digits are equally likely
            return f"label {label[0]}, the direct run says {self.answers[number]}"
        return None


def _run_directly(images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64], str]:
    """Outputs of the model without Kafka and worker, and the name of what ran it."""
    wanted, given = ["probabilities", "label"], {"image": images}
    try:
        import onnxruntime
    except ImportError:  # a GPU machine needs none; the reference implementation is slower, and as right
        import onnx
        from onnx.reference import ReferenceEvaluator

        name = f"onnx {onnx.__version__} reference"
        outputs: Any = ReferenceEvaluator(str(MODEL)).run(wanted, given)
    else:
        name = f"ONNX Runtime {onnxruntime.__version__}"
        outputs = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"]).run(wanted, given)
    probabilities, labels = outputs
    return probabilities, labels, name
