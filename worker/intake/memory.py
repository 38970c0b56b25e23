"""Memory of one intake process's seats, mapped by it and by the engine process."""

from __future__ import annotations

import fcntl
import mmap
import os

import numpy as np
from numpy.typing import NDArray

from worker.errors import ConfigError

PAGE = mmap.PAGESIZE


class SeatMemory:
    """A file without a name, mapped as a whole; it is gone with the last process that has it open, however that ends.

    Pages are taken as they are first touched (or pinned). None of /dev/shm's size is used.
    """

    def __init__(self, fd: int, seats: int, seat_bytes: int) -> None:
        """Args:
        fd: of the file, from create(); owned from here on.
        seats: how many.
        seat_bytes: of each, a multiple of the page size.

        Raises:
            ValueError: the file has another size.
        """
        self.fd = fd
        self.seats = seats
        self.seat_bytes = seat_bytes
        size = seats * seat_bytes
        if (found := os.fstat(fd).st_size) != size:  # touching what is not there would end the process
            raise ValueError(f"the seats' memory has {found} bytes, {seats} seats of {seat_bytes} were promised")
        self._map = mmap.mmap(fd, size)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)

    def seat(self, number: int) -> NDArray[np.uint8]:
        """The bytes of one seat, writable."""
        return self.bytes[number * self.seat_bytes : (number + 1) * self.seat_bytes]

    def close(self) -> None:
        """Close the file; the mapping goes when its last view does."""
        os.close(self.fd)


def create(name: str, seats: int, at_least_bytes: int) -> SeatMemory:
    """New memory for so many seats, each of at_least_bytes, zeroed.

    Raises:
        ConfigError: this system has no such files.
    """
    if not hasattr(os, "memfd_create"):
        raise ConfigError("engine.intake_processes needs Linux (memfd_create); set it to 1 here")
    seat_bytes = max(1, -(-at_least_bytes // PAGE)) * PAGE
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, seats * seat_bytes)
    # Nobody can shrink it under a process that has it mapped.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return SeatMemory(fd, seats, seat_bytes)
