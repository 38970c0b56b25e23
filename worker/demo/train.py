"""Trains the demo's classifier: OMP_NUM_THREADS=1 python -m worker.demo.train

Needs scikit-learn, a development dependency. With another number of threads, sums round differently, and so do weights.

Data: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49, licensed CC BY 4.0: the 1,797 images of 8x8 pixels that scikit-learn ships. 360 of them
are never trained on: digits.npz keeps them for the demo. The others, and their copies moved by one pixel, train a small
network: digits.onnx.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
SEED = 20
HELD_OUT = 360
HIDDEN = (128, 64)
OPSET = 17  # known to ONNX Runtime, to TensorRT 10 and to whatever comes after them
IR_VERSION = 8

Images = NDArray[np.uint8]  # shape (n, 64), 0..16
Labels = NDArray[np.int64]


def split() -> tuple[Images, Labels, Images, Labels]:
    """Images and labels to train on, and those held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train_x, held_x, train_y, held_y = train_test_split(
        images.astype(np.uint8), labels.astype(np.int64), test_size=HELD_OUT, stratify=labels, random_state=SEED
    )
    return train_x, train_y, held_x, held_y


def moved(images: Images) -> list[Images]:
    """The images, and the same moved by one pixel to each side."""
    square = images.reshape(-1, 8, 8)
    copies = [square]
    for axis, step in ((1, 1), (1, -1), (2, 1), (2, -1)):
        copy = np.roll(square, step, axis)
        edge: list[Any] = [slice(None)] * 3
        edge[axis] = 0 if step == 1 else -1
        copy[tuple(edge)] = 0
        copies.append(copy)
    return [copy.reshape(-1, 64) for copy in copies]


def fit(images: Images, labels: Labels) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Weights and biases of a perceptron on pixels scaled to 0..1."""
    from sklearn.neural_network import MLPClassifier

    copies = moved(images)
    network = MLPClassifier(HIDDEN, alpha=0.01, batch_size=128, max_iter=300, random_state=SEED)
    network.fit(np.concatenate(copies).astype(np.float32) / 16, np.tile(labels, len(copies)))
    return (
        [layer.astype(np.float32) for layer in network.coefs_],
        [layer.astype(np.float32) for layer in network.intercepts_],
    )


def model(weights: Sequence[NDArray[np.float32]], biases: Sequence[NDArray[np.float32]]) -> onnx.ModelProto:
    """`image` FP32 (batch, 64), 0..16 -> `probabilities` FP32 (batch, 10), `label` INT64 (batch)."""
    constants = [numpy_helper.from_array(np.array([16], np.float32), "brightest")]
    nodes = [helper.make_node("Div", ["image", "brightest"], ["scaled"])]
    last = "scaled"
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        constants.append(numpy_helper.from_array(weight, f"weight_{number}"))
        constants.append(numpy_helper.from_array(bias, f"bias_{number}"))
        nodes.append(helper.make_node("Gemm", [last, f"weight_{number}", f"bias_{number}"], [f"sum_{number}"]))
        last = f"sum_{number}"
        if number < len(weights) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"hidden_{number}"]))
            last = f"hidden_{number}"
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
    nodes.append(helper.make_node("ArgMax", [last], ["label"], axis=1, keepdims=0))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
        ],
        constants,
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="trt-worker demo"
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def accuracy(made: onnx.ModelProto, images: Images, labels: Labels) -> float:
    """Share of the images to which the exported graph gives the true label."""
    import onnxruntime

    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return float(np.mean(session.run(["label"], {"image": images.astype(np.float32)})[0] == labels))


def save_images(path: Path, images: Images, labels: Labels) -> None:
    """An .npz that is the same, byte for byte, whenever it is written: numpy's own carries the time of writing."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in (("images", images), ("labels", labels.astype(np.uint8))):
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)


def main() -> None:
    """Train, export, and say how good it is."""
    train_x, train_y, held_x, held_y = split()
    made = model(*fit(train_x, train_y))
    onnx.save(made, HERE / "digits.onnx")
    save_images(HERE / "digits.npz", held_x, held_y)
    share = accuracy(made, held_x, held_y)
    sys.stdout.write(f"{len(train_x)} images trained on, {share:.2%} of {len(held_x)} others right\n")


if __name__ == "__main__":
    main()
