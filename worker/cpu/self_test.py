"""Seeded batches through the model before the service says that it is ready."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from worker.cpu.onnx_session import OnnxSession
from worker.errors import BatchError, EngineError
from worker.tensors import Shape, TensorSpec

log = logging.getLogger(__name__)

GUESSED_LENGTH = 8  # of a free axis that no padding bucket tells


def check_rows(session: OnnxSession, lengths: Mapping[tuple[str, int], int]) -> None:
    """See that the model gives one output row per input row, whatever the values.

    Args:
        session: the loaded model.
        lengths: (input, axis) -> a length that the axis will really have.

    Raises:
        EngineError: an output has another number of rows; names it.
    """
    random = np.random.default_rng(7)
    named = {
        spec.axis_names[axis]: length
        for spec in session.model.inputs
        for (name, axis), length in lengths.items()
        if name == spec.name and spec.axis_names[axis]
    }
    for rows in (session.fixed_rows,) if session.fixed_rows else (1, 2, 3):
        for fill in ("zeros", "ones", "random"):
            arrays = []
            for spec in session.model.inputs:
                shape = (rows, *_row_shape(spec, lengths, named))
                values = random.integers(0, 2, shape) if fill == "random" else np.full(shape, fill == "ones")
                arrays.append(values.astype(spec.dtype))
            try:
                outputs = session.run(arrays)
            except BatchError as error:
                log.warning(
                    "the self-test's guess at the free axes does not suit the model, so it was skipped: %s", error
                )
                return
            for spec, output in zip(session.model.outputs, outputs, strict=True):
                if output.ndim == 0 or output.shape[0] != rows:
                    raise EngineError(
                        f"output {spec.name!r} of the model has shape {list(output.shape)} for a batch of {rows} rows; "
                        "its first axis must be the batch axis, whatever the values"
                    )


def _row_shape(spec: TensorSpec, lengths: Mapping[tuple[str, int], int], named: Mapping[str, int]) -> Shape:
    return tuple(
        length if length >= 0 else lengths.get((spec.name, axis)) or named.get(name) or GUESSED_LENGTH
        for axis, (length, name) in enumerate(zip(spec.shape, spec.axis_names, strict=True))
        if axis > 0
    )
