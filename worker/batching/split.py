"""Batched outputs -> one part per request and output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.batching.padding import Cut
from worker.tensors import Shape

Part = tuple[Shape, memoryview]


def split(outputs: Sequence[NDArray[Any]], rows: Sequence[int], cuts: Mapping[int, Sequence[Cut]]) -> list[list[Part]]:
    """Cut batched outputs into the parts of each request.

    Args:
        outputs: C-contiguous arrays of shape (sum(rows), …), one per model output.
        rows: how many rows each request brought, in batch order.
        cuts: place of a request -> what of its outputs is only filling.

    Returns:
        Per request one (shape, bytes) per output. The bytes are views of `outputs` (copies only where something was
        cut off), so they live no longer than the lane's memory.

    Raises:
        ValueError: an output's first axis is not sum(rows).
    """
    total = sum(rows)
    parts: list[list[Part]] = [[] for _ in rows]
    for place, output in enumerate(outputs):
        if output.shape[0] != total:
            raise ValueError(f"output {place} has {output.shape[0]} rows; the batch has {total}")
        row_shape = output.shape[1:]
        flat = output.reshape(-1).view(np.uint8).data
        row_bytes = len(flat) // total
        count, start, size, shape = 0, 0, 0, row_shape
        for of_request, its_count in zip(parts, rows, strict=True):
            if its_count != count:  # requests of one size share one shape object
                count, size, shape = its_count, its_count * row_bytes, (its_count, *row_shape)
            of_request.append((shape, flat[start : (start := start + size)]))
    for place, of_place in cuts.items():
        _cut(parts[place], outputs, of_place)
    return parts


def _cut(of_request: list[Part], outputs: Sequence[NDArray[Any]], cuts: Sequence[Cut]) -> None:
    for cut in cuts:
        shape, data = of_request[cut.place]
        if shape[cut.axis] != cut.filled:
            continue
        array = np.frombuffer(data, outputs[cut.place].dtype).reshape(shape)
        kept = np.ascontiguousarray(array[(slice(None),) * cut.axis + (slice(0, cut.length),)])
        of_request[cut.place] = (kept.shape, kept.reshape(-1).view(np.uint8).data)
