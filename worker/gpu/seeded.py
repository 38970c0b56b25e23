"""Inputs that are the same on every start, for self-test and bench."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.tensors import ModelSpec, Shape


def seeded_rows(model: ModelSpec, row_shapes: Sequence[Shape], rows: int, seed: int) -> list[NDArray[Any]]:
    """One array of shape (rows, …) per input: normal numbers, and zeros and ones for whole numbers.

    Zeros and ones are the whole numbers that any model takes: token, segment and class ids, masks and flags.
    """
    generator = np.random.default_rng(seed)
    arrays: list[NDArray[Any]] = []
    for spec, row_shape in zip(model.inputs, row_shapes, strict=True):
        shape = (rows, *row_shape)
        is_whole = spec.dtype.kind in "biu"
        numbers = generator.integers(0, 2, shape) if is_whole else generator.standard_normal(shape, dtype=np.float32)
        arrays.append(numbers.astype(spec.dtype))
    return arrays
