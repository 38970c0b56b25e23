"""What an intake process must know before it can start."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Mapping
from dataclasses import dataclass

from worker.config import Settings
from worker.tensors import ModelSpec


@dataclass(frozen=True)
class Hello:
    """Packed by the engine process, unpacked by the one that it started."""

    index: int
    settings: Settings  # of the whole service
    model: ModelSpec
    labels: Mapping[str, str]  # Backend.describe()
    lanes: int  # of the engine's, this process's share, rounded up
    seats: int
    seat_bytes: int

    def pack(self) -> str:
        return base64.b64encode(pickle.dumps(self)).decode()


def unpack(text: str) -> Hello:
    """What pack() packed: pickled, so that the settings are those that were checked, whatever the environment says."""
    hello: Hello = pickle.loads(base64.b64decode(text))  # noqa: S301  # from our own parent, through a socket of ours
    return hello
