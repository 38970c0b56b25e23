"""Before the service is ready: every context and every graph gives what it should."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.errors import BatchError, EngineError
from worker.gpu.batches import RowShapes
from worker.gpu.lane import TensorRtLane
from worker.gpu.seeded import seeded_rows
from worker.tensors import ModelSpec

Arrays = list[NDArray[Any]]
Reference = Callable[[Sequence[NDArray[Any]]], Sequence[NDArray[Any]]]  # the same model run by something else

REFERENCE_ROWS = 2  # enough to tell rows apart, few enough for a large model on the CPU
SEEDS = (20_250, 20_251)  # two payloads, so that an answer left over from the other one shows
TOLERANCE: Mapping[str, float] = {"FP32": 0.02, "FP64": 0.02, "FP16": 0.05, "BF16": 0.05}  # share of the largest value
EQUAL_SHARE = 0.9  # of whole numbers and flags, which small differences may tip over


class GraphDiffers(BatchError):
    """A graph's answer is not the plain run's, or not the reference's: it must not be used."""


class Trial(NamedTuple):
    """One payload and what the reference makes of it."""

    inputs: Arrays
    expected: Arrays | None


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What lanes must answer for rows of certain shapes. Made by make_self_test()."""

    model: ModelSpec
    row_shapes: RowShapes
    trials: Sequence[Trial]
    tolerance: float | None  # share of an output's largest value; None: by datatype

    def check_plain(self, lane: TensorRtLane, rows: int) -> list[Arrays]:
        """Run both payloads plain; returns the outputs.

        Raises:
            EngineError: not finite where the reference is, or too far from the reference; says where and how far.
        """
        answers = []
        for trial in self.trials:
            answer = self._run(lane, rows, trial)
            if fault := self._fault(answer, trial):
                raise EngineError(f"self-test: {fault}")
            answers.append(answer)
        return answers

    def check_graph(self, lane: TensorRtLane, size: int) -> None:
        """Alternate the payloads on the graph of `size` rows, filled up to it where the lane is opened for fewer.

        Raises:
            EngineError: the plain run of so many rows is wrong already.
            GraphDiffers: an answer is not, bit for bit, what the plain run gives, or too far from the reference.
        """
        held, _ = lane.open(self.row_shapes)
        rows = min(size, held)
        plain = self.check_plain(lane, rows)
        for place in (0, 1, 0, 1):
            trial = self.trials[place]
            answer = self._run(lane, rows, trial, graph_rows=size)
            if not _same(answer, plain[place]):
                again = self._run(lane, rows, trial)
                if _same(again, plain[place]) or any(_far(a, b) for a, b in zip(answer, again, strict=True)):
                    raise GraphDiffers(f"the CUDA graph for {size} rows does not give what the plain run gives")
            if fault := self._fault(answer, trial):
                raise GraphDiffers(f"the CUDA graph for {size} rows is wrong: {fault}")

    def _run(self, lane: TensorRtLane, rows: int, trial: Trial, *, graph_rows: int | None = None) -> Arrays:
        _, views = lane.open(self.row_shapes)
        for view, array in zip(views, trial.inputs, strict=True):
            data = _tile(array, rows).tobytes()
            view[: len(data)] = data
        return lane.try_out(rows, graph_rows=graph_rows)

    def _fault(self, answer: Arrays, trial: Trial) -> str:
        """How the answer differs from the reference's, or "" where it does not or there is none."""
        if trial.expected is None:
            return ""
        for spec, got, expected in zip(self.model.outputs, answer, trial.expected, strict=True):
            limit = self.tolerance if self.tolerance is not None else TOLERANCE.get(spec.datatype, 0.0)
            if fault := difference(got, _tile(expected, len(got)), limit):
                return f"output {spec.name!r} at {len(got)} rows differs from the reference: {fault}"
        return ""


def make_self_test(
    model: ModelSpec, row_shapes: RowShapes, reference: Reference | None, tolerance: float | None
) -> SelfTest:
    """Two payloads of REFERENCE_ROWS rows, answered by the reference where there is one."""
    trials = []
    for seed in SEEDS:
        inputs = seeded_rows(model, row_shapes, REFERENCE_ROWS, seed)
        trials.append(Trial(inputs, None if reference is None else list(reference(inputs))))
    return SelfTest(model, row_shapes, trials, tolerance)


def difference(got: NDArray[Any], expected: NDArray[Any], tolerance: float) -> str:
    """What is wrong with `got`, or "" when it is near enough.

    Floats may be off by `tolerance` times the largest expected value; a few whole numbers and flags may differ.
    """
    if got.shape != expected.shape:
        return f"shape {got.shape}, expected {expected.shape}"
    if got.dtype.kind in "biu":
        share = float(np.mean(got == expected)) if got.size else 1.0
        return "" if share >= EQUAL_SHARE else f"only {share:.0%} of the values are equal"
    a, b = got.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return f"{int(np.sum(~np.isfinite(a)))} values are not finite, expected {int(np.sum(~np.isfinite(b)))}"
    finite = np.isfinite(b)
    largest = float(np.max(np.abs(b[finite]), initial=1e-6))
    off = float(np.max(np.abs(a[finite] - b[finite]), initial=0.0)) / largest
    return "" if off <= tolerance else f"off by {off:.4f} of the largest value, allowed {tolerance}"


def _far(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Farther apart than two plain runs of kernels that add in varying order ever are."""
    return bool(difference(a, b, 1e-3))


def _same(answer: Arrays, other: Arrays) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(answer, other, strict=True))


def _tile(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """The array's rows over and over, `rows` in all."""
    return np.ascontiguousarray(array[np.arange(rows) % len(array)])
