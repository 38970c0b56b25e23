"""How a request of one shape goes into a batch: which rows it can share a batch with, filled up how far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from worker.errors import ConfigError, RecordError
from worker.sections import PadSettings
from worker.tensors import ModelSpec, RequestShape, Shape, TensorSpec


@dataclass(frozen=True, slots=True)
class Fill:
    """One input that is shorter than its bucket."""

    place: int  # which model input
    axis: int  # axis of the whole tensor
    value: float  # what the filling holds


@dataclass(frozen=True, slots=True)
class Cut:
    """One output that is longer than the request asked for, because an input was filled up."""

    place: int  # which model output
    axis: int  # axis of the whole tensor
    length: int  # what the request gets
    filled: int  # what the model gives; another length is left alone


@dataclass(frozen=True, slots=True)
class Placement:
    """Everything batching needs to know of a request's shape."""

    group: tuple[Shape, ...]  # row shapes after filling, per model input; equal ones share a batch
    fills: tuple[Fill, ...]
    cuts: tuple[Cut, ...]


def _check_value(name: str, spec: TensorSpec, value: float) -> None:
    array = np.array([value])
    with np.errstate(all="ignore"):
        if not np.array_equal(array.astype(spec.dtype).astype(array.dtype), array) and spec.dtype.kind in "biu":
            raise ConfigError(f"batching.pad.{name}.value is {value}, which {spec.datatype} cannot hold")


class Padding:
    """Rounds declared axes up to their buckets."""

    def __init__(self, model: ModelSpec, pad: Mapping[str, PadSettings]) -> None:
        """Raises:
        ConfigError: `pad` names an input or an axis that the model does not have, or one of fixed length.
        """
        self._model = model
        self._pads: list[tuple[int, PadSettings]] = []
        places = {spec.name: place for place, spec in enumerate(model.inputs)}
        for name, settings in pad.items():
            if name not in places:
                raise ConfigError(f"batching.pad names input {name}; the model has {', '.join(places)}")
            spec = model.inputs[places[name]]
            if settings.axis >= len(spec.shape):
                raise ConfigError(f"batching.pad.{name}.axis is {settings.axis}; the input has {len(spec.shape)} axes")
            if spec.shape[settings.axis] >= 0:
                raise ConfigError(
                    f"batching.pad.{name}.axis is {settings.axis}, fixed by the model at {spec.shape[settings.axis]}; "
                    "only an axis of free length can be padded"
                )
            _check_value(name, spec, settings.value)
            self._pads.append((places[name], settings))
        self._check_shared_axes()

    def _check_shared_axes(self) -> None:
        """Inputs that share an axis must be filled alike, or the model would get contradicting lengths."""
        pads = {(place, settings.axis): settings.buckets for place, settings in self._pads}
        buckets_of: dict[str, set[tuple[int, ...]]] = {}
        for place, spec in enumerate(self._model.inputs):
            for axis, axis_name in list(enumerate(spec.axis_names))[1:]:
                if axis_name:
                    buckets_of.setdefault(axis_name, set()).add(pads.get((place, axis), ()))
        for axis_name, buckets in buckets_of.items():
            if len(buckets) > 1:
                names = [spec.name for spec in self._model.inputs if axis_name in spec.axis_names[1:]]
                raise ConfigError(
                    f"batching.pad fills axis {axis_name!r} differently; give {', '.join(names)} the same buckets"
                )

    def place(self, shape: RequestShape) -> Placement:
        """How requests of this shape go into a batch.

        Raises:
            RecordError: an axis is longer than its largest bucket.
        """
        group = [list(row_shape) for row_shape in shape.row_shapes]
        fills: list[Fill] = []
        filled_axes: dict[str, tuple[int, int]] = {}
        for place, settings in self._pads:
            spec = self._model.inputs[place]
            length = group[place][settings.axis - 1]
            bucket = next((bucket for bucket in settings.buckets if bucket >= length), None)
            if bucket is None:
                raise RecordError(
                    "wrong_shape",
                    f"axis {settings.axis} of input {spec.name!r} is {length} long, the limit {settings.buckets[-1]}",
                )
            if bucket > length:
                group[place][settings.axis - 1] = bucket
                fills.append(Fill(place, settings.axis, float(settings.value)))
                if spec.axis_names and (axis_name := spec.axis_names[settings.axis]):
                    filled_axes[axis_name] = (length, bucket)
        cuts = [
            Cut(place, axis, *filled_axes[axis_name])
            for place, spec in enumerate(self._model.outputs)
            for axis, axis_name in enumerate(spec.axis_names)
            if axis > 0 and axis_name in filled_axes
        ]
        return Placement(tuple(tuple(row_shape) for row_shape in group), tuple(fills), tuple(cuts))
