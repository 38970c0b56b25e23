"""The forms that are easier to send and slower to read: numbers as lists, msgpack-numpy arrays, keys as bytes.

Every level is opened only after its declared length was looked at, so that a small record cannot ask for much memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from worker.codec.wire import WireParameters, WireRequest, WireTensor
from worker.errors import RecordError
from worker.tensors import DATATYPES, Shape

NOT_MSGPACK = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
MAX_INPUTS = 64
MAX_KEYS = 32
MAX_TEXT_BYTES = 2048
PLAIN_TYPE = re.compile(r"[<>|=]?[?biuf][0-9]{0,2}")
NAME_OF_DTYPE = {dtype.str: name for name, dtype in DATATYPES.items() if name != "BF16"}

Fields = dict[str, msgspec.Raw]

_listed = msgspec.msgpack.Decoder(list[msgspec.Raw])
_anything = msgspec.msgpack.Decoder()
_shape = msgspec.msgpack.Decoder(tuple[int, ...])
_binary = msgspec.msgpack.Decoder(memoryview)
_flag = msgspec.msgpack.Decoder(bool)
_identity = msgspec.msgpack.Decoder(str | None)
_parameters = msgspec.msgpack.Decoder(WireParameters | None)


class LooseDecoder:
    """Reads what the typed decoder refuses, into the same types."""

    def __init__(self, *, only_input: str | None, max_rank: int, max_numbers: int) -> None:
        """Args:
        only_input: the model's input where it has just one; a tensor without a name is then that one.
        max_rank: most axes of a tensor.
        max_numbers: most numbers of a tensor sent as a list.
        """
        self._only_input = only_input
        self._max_rank = max_rank
        self._max_numbers = max_numbers

    def decode(self, value: bytes) -> WireRequest:
        """The request in `value`.

        Raises:
            RecordError: it is no request in any accepted form.
            NOT_MSGPACK: it is not even msgpack, or its id is no text.
        """
        fields = _fields(value)
        identity = _identity.decode(fields["id"]) if "id" in fields else None
        try:
            return self._request(fields, identity)
        except RecordError as error:
            error.request_id = identity
            raise
        except NOT_MSGPACK as error:
            malformed = RecordError("malformed", f"the value is not a request in msgpack: {str(error)[:300]}")
            malformed.request_id = identity
            raise malformed from error

    def _request(self, fields: Fields, identity: str | None) -> WireRequest:
        if "inputs" not in fields:
            raise RecordError("malformed", "the request has no 'inputs'")
        if _length(fields["inputs"]) > MAX_INPUTS:
            raise RecordError("malformed", f"'inputs' is no array of at most {MAX_INPUTS} tensors")
        parameters = _parameters.decode(fields["parameters"]) if "parameters" in fields else None
        return WireRequest([self._tensor(raw) for raw in _listed.decode(fields["inputs"])], identity, parameters)

    def _tensor(self, raw: msgspec.Raw) -> WireTensor:
        fields = _fields(raw)
        name = _string(fields["name"]) if "name" in fields else self._only_input
        if name is None:
            raise RecordError("malformed", "a tensor has no 'name', and the model has more than one input")
        if "data" not in fields:
            raise RecordError("malformed", f"input {name!r} has no 'data'")
        kind = memoryview(fields["data"])[0]
        if 0x80 <= kind <= 0x8F or kind in (0xDE, 0xDF):  # a map: {"name": …, "data": msgpack_numpy.encode(array)}
            return _from_msgpack_numpy(name, _fields(fields["data"]))
        if "nd" in fields:
            return _from_msgpack_numpy(name, fields)
        for key in ("datatype", "shape"):
            if key not in fields:
                raise RecordError("malformed", f"input {name!r} has no {key!r}")
        datatype, shape = _string(fields["datatype"]), _shape.decode(fields["shape"])
        if kind in (0xC4, 0xC5, 0xC6):
            return WireTensor(name, datatype, shape, _binary.decode(fields["data"]))
        return WireTensor(name, datatype, shape, self._numbers(name, datatype, shape, fields["data"]))

    def _numbers(self, name: str, datatype: str, shape: Shape, raw: msgspec.Raw) -> memoryview:
        if datatype not in DATATYPES:
            raise RecordError(
                "wrong_datatype", f"input {name!r} has datatype {datatype!r}; send one of {', '.join(DATATYPES)}"
            )
        if not 1 <= len(shape) <= self._max_rank or min(shape) < 1:
            raise RecordError("wrong_shape", f"input {name!r} has {len(shape)} axes or an empty one")
        count = prod(shape)
        if count > self._max_numbers:
            raise RecordError(
                "too_large",
                f"input {name!r} has {count} numbers as a list; the limit is {self._max_numbers}: send them as bytes",
            )
        is_flat = _length(raw) == count and not _is_nested(raw)
        lists = sum(prod(shape[:depth]) for depth in range(len(shape)))
        if not is_flat and lists > self._max_numbers:
            raise RecordError("too_large", f"input {name!r} nests its numbers in {lists} lists: send them as bytes")
        numbers = _number_decoder(datatype, (count,) if is_flat else shape).decode(raw)
        try:
            with np.errstate(over="raise"):
                array = np.array(numbers, dtype=DATATYPES[datatype]).reshape(-1)
            if datatype == "BF16" and np.isinf(array).any() and not np.isinf(np.array(numbers)).any():
                raise OverflowError  # numpy tells of its own types only
        except (OverflowError, FloatingPointError) as error:
            raise RecordError("wrong_datatype", f"input {name!r} has a number that {datatype} cannot hold") from error
        return _bytes_of(array)


def _from_msgpack_numpy(name: str, fields: Mapping[str, msgspec.Raw]) -> WireTensor:
    """An array as msgpack-numpy writes it; plain numeric types only, nothing is ever unpickled."""
    if any(key not in fields for key in ("nd", "type", "shape", "data")) or not _flag.decode(fields["nd"]):
        raise RecordError("malformed", f"input {name!r} is a map, but no msgpack-numpy array (nd, type, shape, data)")
    kind = _string(fields["type"])
    if not PLAIN_TYPE.fullmatch(kind):
        raise RecordError(
            "wrong_datatype", f"input {name!r} has numpy type {kind[:40]!r}; only plain numbers are taken"
        )
    try:
        dtype = np.dtype(kind)
    except TypeError as error:
        raise RecordError("wrong_datatype", f"input {name!r} has numpy type {kind!r}, which does not exist") from error
    little = dtype.newbyteorder("<")
    datatype = NAME_OF_DTYPE.get(little.str)
    if datatype is None:
        raise RecordError(
            "wrong_datatype", f"input {name!r} has numpy type {kind!r}, which is no datatype of the wire format"
        )
    data, shape = _binary.decode(fields["data"]), _shape.decode(fields["shape"])
    if dtype != little and len(data) % dtype.itemsize == 0:
        data = _bytes_of(np.frombuffer(data, dtype).astype(little))
    return WireTensor(name, datatype, shape, data)


def _fields(value: bytes | msgspec.Raw) -> Fields:
    """A map's entries with their values unread; keys may be str or bytes, and stay small.

    The map is read as an array of twice its length: so a key is looked at before it is decoded.
    """
    count = _length(value, is_map=True)
    if count > MAX_KEYS:
        raise RecordError("malformed", f"expected a map of at most {MAX_KEYS} keys")
    view = memoryview(value)
    body = view[{0xDE: 3, 0xDF: 5}.get(view[0], 1) :]
    entries = _listed.decode(b"\xdd" + (2 * count).to_bytes(4, "big") + bytes(body))
    return {_string(key): entry for key, entry in zip(entries[::2], entries[1::2], strict=True)}


def _length(value: bytes | msgspec.Raw, *, is_map: bool = False) -> int:
    """Declared length of a msgpack array (or map); more than any limit where it is something else."""
    head = bytes(memoryview(value)[:5])
    if not head:
        raise RecordError("malformed", "the value is empty")
    fixed, wide16, wide32, mask = (0x80, 0xDE, 0xDF, 0x0F) if is_map else (0x90, 0xDC, 0xDD, 0x0F)
    if head[0] & 0xF0 == fixed:
        return head[0] & mask
    if head[0] == wide16:
        return int.from_bytes(head[1:3], "big")
    if head[0] == wide32:
        return int.from_bytes(head[1:5], "big")
    return 1 << 62


def _is_nested(raw: msgspec.Raw) -> bool:
    """Whether the first element of a (non-empty) array is an array itself."""
    view = memoryview(raw)
    header = {0xDC: 3, 0xDD: 5}.get(view[0], 1)
    return len(view) > header and (view[header] & 0xF0 == 0x90 or view[header] in (0xDC, 0xDD))


@lru_cache(maxsize=256)
def _number_decoder(datatype: str, shape: Shape) -> msgspec.msgpack.Decoder[Any]:
    """A decoder of nested lists of exactly this shape; a list of another length fails before the next is read."""
    kind = DATATYPES[datatype].kind
    numbers: Any = bool if kind == "b" else int if kind in "iu" else float
    for length in reversed(shape):
        numbers = Annotated[list[numbers], msgspec.Meta(min_length=length, max_length=length)]
    return msgspec.msgpack.Decoder(numbers)


def _string(raw: msgspec.Raw) -> str:
    text = _anything.decode(raw) if len(memoryview(raw)) <= MAX_TEXT_BYTES else None
    if isinstance(text, bytes):
        text = text.decode()
    if not isinstance(text, str):
        raise RecordError("malformed", f"a name, datatype or type is no text of at most {MAX_TEXT_BYTES} bytes")
    return text


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.view(np.uint8).data
