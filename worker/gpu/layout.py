"""Where tensors lie in a lane's memory, and which rows and profiles a plan takes; pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from worker.errors import BatchError
from worker.tensors import ModelSpec, Shape

ALIGNMENT = 256  # TensorRT's demand on addresses of inputs and outputs


@dataclass(frozen=True, slots=True)
class Profile:
    """An optimisation profile of the plan: per input, in the model's order, least, best and largest shape."""

    index: int
    shapes: tuple[tuple[Shape, Shape, Shape], ...]

    @property
    def least_rows(self) -> int:
        return max(least[0] for least, _, _ in self.shapes)

    @property
    def best_rows(self) -> int:
        return self.shapes[0][1][0]

    @property
    def largest_rows(self) -> int:
        return min(largest[0] for _, _, largest in self.shapes)

    def takes(self, row_shapes: Sequence[Shape]) -> bool:
        """Whether rows of these shapes run on it, in some number."""
        return len(row_shapes) == len(self.shapes) and all(
            len(row_shape) == len(least) - 1
            and all(low <= length <= high for low, length, high in zip(least[1:], row_shape, largest[1:], strict=True))
            for row_shape, (least, _, largest) in zip(row_shapes, self.shapes, strict=True)
        )

    def describe(self) -> str:
        return " ".join(
            f"{'x'.join(map(str, least))}…{'x'.join(map(str, largest))}" for least, _, largest in self.shapes
        )


def most_rows(profiles: Sequence[Profile], row_shapes: Sequence[Shape]) -> int:
    """Most rows of these shapes that any profile takes.

    Raises:
        BatchError: no profile takes such rows.
    """
    fitting = [profile for profile in profiles if profile.takes(row_shapes)]
    if not fitting:
        known = "; ".join(profile.describe() for profile in profiles)
        shown = ", ".join("x".join(map(str, row_shape)) for row_shape in row_shapes)
        raise BatchError(f"the plan has no profile for rows of shape {shown}; its profiles: {known}")
    return max(profile.largest_rows for profile in fitting)


def choose_profile(profiles: Sequence[Profile], row_shapes: Sequence[Shape], rows: int) -> tuple[Profile, int]:
    """The profile to run this many rows on, and how many rows it runs after padding.

    Least padding first, then the profile whose best size is nearest at or above the rows, then the lower index.

    Raises:
        BatchError: no profile takes so many rows of these shapes.
    """
    candidates = [
        (max(rows, profile.least_rows), profile.best_rows < rows, abs(profile.best_rows - rows), profile.index)
        for profile in profiles
        if profile.largest_rows >= rows and profile.takes(row_shapes)
    ]
    if not candidates:
        raise BatchError(f"{rows} rows are more than the {most_rows(profiles, row_shapes)} that the plan takes")
    padded, _, _, index = min(candidates)
    return next(profile for profile in profiles if profile.index == index), padded


@dataclass(frozen=True, slots=True)
class Region:
    """A tensor's place in the lane's block of memory."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Places of all tensors in one block; the same in pinned and in device memory."""

    inputs: tuple[Region, ...]
    outputs: tuple[Region, ...]
    size: int


def rows_at_most(profile: Profile, max_rows: int) -> int:
    """Most rows this profile will be asked for."""
    return max(profile.least_rows, min(profile.largest_rows, max_rows))


def input_bytes(model: ModelSpec, profiles: Sequence[Profile], max_rows: int, max_bytes: int) -> list[int]:
    """Bytes each input needs: its largest batch, but no more than a full batch may have.

    Args:
        model: the inputs' datatypes.
        profiles: of the plan.
        max_rows: most rows of a batch.
        max_bytes: most input bytes of a batch; exceeded only where a profile's least rows demand it.
    """
    sizes = []
    for place, spec in enumerate(model.inputs):
        size = 0
        for profile in profiles:
            row_bytes = spec.row_bytes(profile.shapes[place][2][1:])
            wanted = rows_at_most(profile, max_rows) * row_bytes
            size = max(size, min(wanted, max(max_bytes, profile.least_rows * row_bytes)))
        sizes.append(size)
    return sizes


def make_layout(inputs: Sequence[int], outputs: Sequence[int]) -> Layout:
    """Put tensors of these sizes one behind the other, aligned."""
    regions: list[Region] = []
    offset = 0
    for size in (*inputs, *outputs):
        regions.append(Region(offset, size))
        offset += -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
    return Layout(tuple(regions[: len(inputs)]), tuple(regions[len(inputs) :]), offset)


def tensor_bytes(itemsize: int, shape: Shape) -> int:
    return prod(shape) * itemsize
