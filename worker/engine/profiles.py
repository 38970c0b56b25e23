"""Optimisation profiles: the ranges of rows and lengths a plan is built for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from worker.engine.manifest import ShapeRange
from worker.errors import ConfigError
from worker.tensors import Shape, TensorSpec

Profile = dict[str, ShapeRange]


class RowRange(NamedTuple):
    """Rows of one profile."""

    least: int
    best: int  # what the builder times its kernels for
    largest: int


DEFAULT_ROWS = RowRange(1, 64, 64)  # full batches are the ones that matter under load


def parse_rows(text: str) -> RowRange:
    """`1,64,64` -> RowRange.

    Raises:
        ConfigError: not three ascending numbers.
    """
    try:
        rows = RowRange(*(int(part) for part in text.split(",")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--profile is {text!r}; write MIN,OPT,MAX rows, such as 1,32,64") from error
    if not 1 <= rows.least <= rows.best <= rows.largest:
        raise ConfigError(f"--profile is {text!r}; MIN,OPT,MAX must ascend and start at 1 or more")
    return rows


def parse_shape(text: str) -> tuple[str, ShapeRange]:
    """`input_ids=1x16,8x128,64x512` -> (name, least, best and largest shape), the batch axis included.

    Raises:
        ConfigError: not a name and three shapes of one rank that ascend.
    """
    name, _, ranges = text.rpartition("=")
    try:
        least, best, largest = (tuple(int(length) for length in part.split("x")) for part in ranges.split(","))
    except ValueError as error:
        raise ConfigError(f"--shape is {text!r}; write NAME=MIN,OPT,MAX, such as ids=1x16,8x128,64x512") from error
    if not name or not len(least) == len(best) == len(largest):
        raise ConfigError(f"--shape is {text!r}; it needs a name and three shapes with the same number of axes")
    if not all(1 <= a <= b <= c for a, b, c in zip(least, best, largest, strict=True)):
        raise ConfigError(f"--shape is {text!r}; MIN, OPT and MAX must ascend on every axis and start at 1 or more")
    return name, (least, best, largest)


def shapes_of_buckets(
    inputs: Sequence[TensorSpec], buckets: Mapping[str, tuple[int, Sequence[int]]]
) -> dict[str, ShapeRange]:
    """Shape ranges that cover the padding buckets of the service.

    Args:
        inputs: the model's inputs.
        buckets: input name -> (axis of the whole tensor, ascending lengths).
    """
    shapes: dict[str, ShapeRange] = {}
    for spec in inputs:
        if spec.name in buckets:
            axis, lengths = buckets[spec.name]
            ends = (lengths[0], lengths[-1], lengths[-1])
            least, best, largest = (
                tuple(end if place == axis else max(1, length) for place, length in enumerate(spec.shape))
                for end in ends
            )
            shapes[spec.name] = (least, best, largest)
    return shapes


def full_batches(inputs: Sequence[TensorSpec], max_rows: int) -> tuple[RowRange, ...]:
    """The profile of a service whose batches have up to so many rows; none where the model leaves no choice."""
    return () if _is_fixed(inputs) else (RowRange(DEFAULT_ROWS.least, max_rows, max_rows),)


def make_profiles(
    inputs: Sequence[TensorSpec], rows: Sequence[RowRange], shapes: Mapping[str, ShapeRange]
) -> tuple[Profile, ...]:
    """One profile per row range; none at all for a model whose shapes are all fixed.

    Args:
        inputs: the model's inputs.
        rows: ranges of the batch axis; empty: taken from `shapes`, else DEFAULT_ROWS.
        shapes: ranges of whole shapes; a free axis without one takes that of an axis with the same name.

    Raises:
        ConfigError: a range for an unknown input or a fixed axis, or a free axis without a range.
    """
    by_name = {spec.name: spec for spec in inputs}
    for name, ranges in shapes.items():
        if name not in by_name:
            raise ConfigError(f"--shape names input {name!r}; the model has {', '.join(by_name)}")
        _check_range(by_name[name], ranges)
    if _is_fixed(inputs):
        if rows:
            raise ConfigError(f"--profile is given, but the model is fixed at {inputs[0].shape[0]} rows; leave it out")
        return ()
    if not rows:
        given = next(iter(shapes.values()), None)
        rows = [RowRange(*(shape[0] for shape in given)) if given else DEFAULT_ROWS]
    axes = _named_axes(inputs, shapes)
    return tuple({spec.name: _range(spec, row_range, shapes, axes) for spec in inputs} for row_range in rows)


def _is_fixed(inputs: Sequence[TensorSpec]) -> bool:
    return all(length >= 0 for spec in inputs for length in spec.shape)


def _check_range(spec: TensorSpec, ranges: ShapeRange) -> None:
    fits = all(
        len(shape) == len(spec.shape)
        and all(fixed in (-1, length) for fixed, length in zip(spec.shape, shape, strict=True))
        for shape in ranges
    )
    if not fits:
        wanted = "x".join("any" if length < 0 else str(length) for length in spec.shape)
        given = ",".join("x".join(map(str, shape)) for shape in ranges)
        raise ConfigError(f"--shape {spec.name}={given} does not fit the model, which has {wanted}")


def _named_axes(inputs: Sequence[TensorSpec], shapes: Mapping[str, ShapeRange]) -> dict[str, tuple[int, int, int]]:
    """Axis name -> its range, so that attention_mask need not repeat what is said of input_ids."""
    axes: dict[str, tuple[int, int, int]] = {}
    for spec in inputs:
        if spec.name in shapes:
            least, best, largest = shapes[spec.name]
            for place, name in enumerate(spec.axis_names):
                if place and name:
                    axes[name] = (least[place], best[place], largest[place])
    return axes


def _range(
    spec: TensorSpec,
    rows: RowRange,
    shapes: Mapping[str, ShapeRange],
    axes: Mapping[str, tuple[int, int, int]],
) -> ShapeRange:
    columns: list[tuple[int, int, int]] = []
    for place, length in enumerate(spec.shape):
        axis_name = spec.axis_names[place] if place < len(spec.axis_names) else ""
        if length >= 0:
            columns.append((length, length, length))
        elif place == 0:
            columns.append(rows)
        elif spec.name in shapes:
            least, best, largest = shapes[spec.name]
            columns.append((least[place], best[place], largest[place]))
        elif axis_name in axes:
            columns.append(axes[axis_name])
        else:
            called = f" ({axis_name!r})" if axis_name else ""
            raise ConfigError(
                f"input {spec.name!r} leaves axis {place}{called} free; give least, best and largest shape with "
                f"--shape {spec.name}=MIN,OPT,MAX, such as {spec.name}={_example(spec.shape)}"
            )
    ends: list[Shape] = [tuple(column[end] for column in columns) for end in range(3)]
    return ends[0], ends[1], ends[2]


def _example(shape: Shape) -> str:
    """Ranges that would be accepted for this shape, as a hint."""
    ends = ((1, 16), (8, 128), (64, 512))
    return ",".join(
        "x".join(str(length if length >= 0 else free if place else rows) for place, length in enumerate(shape))
        for rows, free in ends
    )
