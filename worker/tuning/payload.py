"""Requests for a model, encoded once and sent again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.client.wire import encode_request
from worker.config import Settings
from worker.errors import ConfigError
from worker.gpu.seeded import seeded_rows
from worker.tensors import ModelSpec, Shape

MOST_VALUES = 256  # distinct requests
MOST_BYTES = 64 << 20  # of all of them

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Payload:
    """What is requested."""

    values: tuple[bytes, ...]
    rows: int  # of one request
    row_shapes: tuple[tuple[Shape, ...], ...]  # distinct ones, one shape per model input
    is_seeded: bool  # False: from a file

    @property
    def value_bytes(self) -> float:
        """Mean size of a request."""
        return sum(map(len, self.values)) / len(self.values)


def seeded_payload(model: ModelSpec, settings: Settings, rows: int, shapes: Mapping[str, Shape]) -> Payload:
    """Random requests, the same on every start.

    Args:
        model: what they are for.
        settings: batching.pad tells how long free axes are: lengths are spread over the buckets.
        rows: of each request.
        shapes: input -> row shape, for free axes that no bucket tells.

    Raises:
        ConfigError: the length of a free axis is told nowhere; names it and the remedy.
    """
    random = np.random.default_rng(1)
    forms = _forms(model, settings, shapes, random)
    row_bytes = max(_row_bytes(model, form) for form in forms)
    count = max(len(forms) if len(forms) < MOST_VALUES else 1, min(MOST_VALUES, MOST_BYTES // max(1, rows * row_bytes)))
    values = []
    for number in range(count):
        arrays = seeded_rows(model, forms[number % len(forms)], rows, seed=number)
        named = {spec.name: array for spec, array in zip(model.inputs, arrays, strict=True)}
        values.append(encode_request(named, id=str(number)))
    return Payload(tuple(values), rows, tuple(dict.fromkeys(forms)), is_seeded=True)


def payload_from(file: Path, model: ModelSpec, rows: int) -> Payload:
    """Requests of `rows` rows each, cut from the arrays of an .npz file (name -> array of shape (rows, …)).

    Raises:
        ConfigError: the file cannot be read, or does not hold the model's inputs.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays: Arrays = dict(archive)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--input is {file}, which cannot be read as .npz: {error}") from error
    names = {spec.name for spec in model.inputs}
    if missing := names - set(arrays):
        raise ConfigError(f"{file} has no {', '.join(sorted(missing))}; it holds {', '.join(sorted(arrays))}")
    arrays = {spec.name: arrays[spec.name].astype(spec.dtype, copy=False) for spec in model.inputs}
    held = min(len(array) for array in arrays.values())
    starts = range(0, held - rows + 1, rows)
    if not starts:
        raise ConfigError(f"{file} has {held} rows, one request takes {rows}; see --rows-per-request")
    values = tuple(
        encode_request({name: array[start : start + rows] for name, array in arrays.items()}, id=str(start))
        for start in starts[:MOST_VALUES]
    )
    return Payload(values, rows, (tuple(array.shape[1:] for array in arrays.values()),), is_seeded=False)


def _row_bytes(model: ModelSpec, form: Sequence[Shape]) -> int:
    return sum(spec.row_bytes(row_shape) for spec, row_shape in zip(model.inputs, form, strict=True))


def _forms(
    model: ModelSpec, settings: Settings, shapes: Mapping[str, Shape], random: np.random.Generator
) -> list[tuple[Shape, ...]]:
    """Row shapes of the requests, as often as they shall come."""
    if unknown := set(shapes) - {spec.name for spec in model.inputs}:
        raise ConfigError(
            f"--shape names {', '.join(sorted(unknown))}; the model's inputs are "
            f"{', '.join(spec.name for spec in model.inputs)}"
        )
    free = any(length < 0 for spec in model.inputs for length in spec.row_shape)
    padded = free and any(spec.name in settings.batching.pad and spec.name not in shapes for spec in model.inputs)
    return [_form(model, settings, shapes, random) for _ in range(64 if padded else 1)]


def _form(
    model: ModelSpec, settings: Settings, shapes: Mapping[str, Shape], random: np.random.Generator
) -> tuple[Shape, ...]:
    share = random.random()  # one draw for all inputs: axes of one name have one length
    form = []
    named: dict[str, int] = {}
    for spec in model.inputs:
        row_shape = list(shapes.get(spec.name, spec.row_shape))
        if len(row_shape) != len(spec.row_shape):
            raise ConfigError(
                f"--shape {spec.name}={'x'.join(map(str, row_shape))} has {len(row_shape)} axes; a row has "
                f"{len(spec.row_shape)} (the batch axis is left out)"
            )
        pad = settings.batching.pad.get(spec.name)
        for place, length in enumerate(row_shape):
            name = spec.axis_names[place + 1] if spec.axis_names else ""
            if length < 0 and pad is not None and pad.axis == place + 1:
                row_shape[place] = _length(pad.buckets, share)
            elif length < 0 and name in named:
                row_shape[place] = named[name]
            elif length < 0:
                raise ConfigError(
                    f"axis {place + 1} of input {spec.name!r} {f'({name}) ' if name else ''}has no fixed length; say "
                    f"how long: --shape {spec.name}=LENGTHxLENGTH… (without the batch axis), batching.pad, or --input"
                )
            if name:
                named[name] = row_shape[place]
        form.append(tuple(row_shape))
    return tuple(form)


def _length(buckets: Sequence[int], share: float) -> int:
    """Each bucket equally often, and lengths within it."""
    place = min(int(share * len(buckets)), len(buckets) - 1)
    low = buckets[place - 1] if place else 0
    within = share * len(buckets) - place
    return low + 1 + int(within * (buckets[place] - low - 1))
