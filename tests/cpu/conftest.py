"""Backends that are closed after each test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cpu.batches import Open
from worker.cpu.backend import CpuBackend


@pytest.fixture
def open_backend() -> Iterator[Open]:
    """Backends that are closed afterwards, and leave no thread behind."""
    before = set(threading.enumerate())
    opened: list[CpuBackend] = []

    def open_one(path: Path, *, lanes: int = 1, max_rows: int = 8, max_bytes: int = 1 << 16) -> CpuBackend:
        backend = CpuBackend(path, name="m", version="1", lanes=lanes, max_rows=max_rows, max_bytes=max_bytes)
        opened.append(backend)
        return backend

    yield open_one
    for backend in opened:
        backend.close()
    assert set(threading.enumerate()) <= before
