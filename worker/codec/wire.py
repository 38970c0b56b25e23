"""The wire format as types: the Open Inference Protocol v2 object with binary data, in msgpack."""

from __future__ import annotations

import msgspec

from worker.tensors import Shape


class WireTensor(msgspec.Struct, gc=False):
    """One input; `data` is a view into the record's value."""

    name: str
    datatype: str
    shape: Shape
    data: memoryview


class WireParameters(msgspec.Struct, gc=False):
    """The parameters that the worker knows; all others are skipped unread."""

    expires_at_ms: float | None = None


class WireRequest(msgspec.Struct, gc=False):
    inputs: list[WireTensor]
    id: str | None = None
    parameters: WireParameters | None = None


class WireErrorDetail(msgspec.Struct, gc=False):
    code: str
    message: str


class WireError(msgspec.Struct, gc=False):
    model_name: str
    model_version: str
    id: str
    error: WireErrorDetail
