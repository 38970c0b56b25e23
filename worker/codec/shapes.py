"""The distinct shapes requests come in, each validated once."""

from __future__ import annotations

from collections.abc import Sequence

from worker.errors import RecordError
from worker.tensors import DATATYPES, RequestShape, Shape, TensorSpec

Form = tuple[str, str, Shape]  # (name, datatype, shape) of one tensor, as the request states it

REMEMBERED = 4096  # distinct forms; more than that and the oldest knowledge is dropped at once


class RequestShapes:
    """Knows which forms of request the model takes, and remembers those that it has checked."""

    def __init__(self, inputs: Sequence[TensorSpec], *, max_rows: int, max_rank: int) -> None:
        """Args:
        inputs: the model's inputs.
        max_rows: most rows of one request.
        max_rank: most axes of one tensor.
        """
        self._specs = {spec.name: spec for spec in inputs}
        self._max_rows = max_rows
        self._max_rank = max_rank
        self._checked: dict[tuple[Form, ...], tuple[RequestShape, tuple[int, ...]]] = {}
        self.of_one: dict[Form, RequestShape] = {}  # what is known of requests with a single tensor

    def find(self, forms: tuple[Form, ...]) -> tuple[RequestShape, tuple[int, ...]]:
        """The shape of a request, and for each model input the place of its tensor in `forms`.

        Raises:
            RecordError: the model does not take this form.
        """
        known = self._checked.get(forms)
        if known is None:
            known = self._check(forms)
            if len(self._checked) >= REMEMBERED:
                self._checked.clear()
                self.of_one.clear()
            self._checked[forms] = known
            if len(forms) == 1:
                self.of_one[forms[0]] = known[0]
        return known

    def _check(self, forms: tuple[Form, ...]) -> tuple[RequestShape, tuple[int, ...]]:
        places: dict[str, int] = {}
        for place, (name, datatype, shape) in enumerate(forms):
            spec = self._specs.get(name)
            if spec is None:
                raise RecordError("unknown_input", f"the model has no input {name!r}; it has {', '.join(self._specs)}")
            if name in places:
                raise RecordError("malformed", f"input {name!r} is given twice")
            places[name] = place
            self._check_tensor(spec, datatype, shape)
        if missing := [name for name in self._specs if name not in places]:
            raise RecordError("missing_input", f"input {', '.join(missing)} is missing")
        order = tuple(places[name] for name in self._specs)
        shapes = [forms[place][2] for place in order]
        self._check_rows(shapes)
        self._check_named_axes(shapes)
        specs = self._specs.values()
        row_shapes = tuple(shape[1:] for shape in shapes)
        sizes = tuple(shape[0] * spec.row_bytes(shape[1:]) for spec, shape in zip(specs, shapes, strict=True))
        return RequestShape(shapes[0][0], row_shapes, sizes), order

    def _check_tensor(self, spec: TensorSpec, datatype: str, shape: Shape) -> None:
        if datatype != spec.datatype:
            known = "" if datatype in DATATYPES else f" (which is none of {', '.join(DATATYPES)})"
            raise RecordError(
                "wrong_datatype", f"input {spec.name!r} has datatype {datatype!r}{known}; send {spec.datatype}"
            )
        if len(shape) > self._max_rank:
            raise RecordError(
                "wrong_shape", f"input {spec.name!r} has {len(shape)} axes; the limit is {self._max_rank}"
            )
        fits = len(shape) == len(spec.shape) and all(
            length > 0 and wanted in (-1, length) for length, wanted in zip(shape[1:], spec.row_shape, strict=True)
        )
        if not fits or shape[0] < 1:
            wanted_shape = ["rows", *("any" if length < 0 else length for length in spec.row_shape)]
            raise RecordError(
                "wrong_shape",
                f"input {spec.name!r} has shape {_brief(shape)}; send [{', '.join(map(str, wanted_shape))}], rows >= 1",
            )

    def _check_rows(self, shapes: Sequence[Shape]) -> None:
        rows = {shape[0] for shape in shapes}
        if len(rows) > 1:
            raise RecordError("wrong_shape", f"the inputs have different numbers of rows: {sorted(rows)}")
        if (count := rows.pop()) > self._max_rows:
            raise RecordError("too_large", f"the request has {count} rows; the limit is {self._max_rows}")

    def _check_named_axes(self, shapes: Sequence[Shape]) -> None:
        """Axes that the model gives one name must have one length, or the model would fail for the whole batch."""
        lengths: dict[str, int] = {}
        for spec, shape in zip(self._specs.values(), shapes, strict=True):
            for axis_name, length in list(zip(spec.axis_names, shape, strict=False))[1:]:
                if axis_name and lengths.setdefault(axis_name, length) != length:
                    raise RecordError(
                        "wrong_shape",
                        f"axis {axis_name!r} is {lengths[axis_name]} long in one input and {length} in another",
                    )


def _brief(shape: Shape) -> str:
    text = ", ".join(str(length) for length in shape[:12])
    return f"[{text}, …]" if len(shape) > 12 or len(text) > 200 else f"[{text}]"
