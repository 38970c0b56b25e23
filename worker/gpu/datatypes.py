"""TensorRT's datatypes in the words of the wire format."""

from __future__ import annotations

from typing import Any

NAMES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}


def datatype_name(datatype: Any) -> str:
    """`DataType.HALF` -> "FP16"; TensorRT's own name for what the wire format does not carry (FP8, INT4, …)."""
    return NAMES.get(datatype.name, str(datatype.name))
