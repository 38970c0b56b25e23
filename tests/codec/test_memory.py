"""A small record cannot make the worker take much memory, whatever it declares."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.codec.hungry_records import CASES
from worker.errors import ErrorCode
from worker.sections import LimitSettings

MOST_MIB = 150.0  # beside a record of 4 MiB
MOST_CPU_S = 2.0
CODES: tuple[ErrorCode, ...] = (
    "malformed",
    "missing_input",
    "unknown_input",
    "wrong_datatype",
    "wrong_shape",
    "too_large",
)


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, Any]]:
    """Every case decoded in one process of its own, which can be killed for it."""
    program = [sys.executable, "-m", "tests.codec.hungry_records"]
    run = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    return {line["case"]: line for line in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize("case", CASES)
def test_a_small_record_takes_little(case: str, measured: dict[str, dict[str, Any]]) -> None:
    """It is refused, with no other error than the decoder's own, and with memory in proportion to its size."""
    assert case in measured, "the process died of this record, or of one before it"
    taken = measured[case]
    assert taken["bytes"] <= LimitSettings().max_request_bytes
    assert taken["outcome"] in CODES
    assert taken["mib"] < MOST_MIB
    assert taken["cpu_s"] < MOST_CPU_S
