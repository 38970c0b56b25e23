"""A lock on a folder that a crash releases: of several pods on one node, one builds and the others wait."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from worker.errors import EngineError

POLL_S = 0.5


@contextmanager
def folder_lock(path: Path, *, timeout_s: float, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path` for the body; the kernel lets go when the process dies.

    Args:
        path: lock file; created, and left in place (removing it would let two holders in).
        timeout_s: how long to wait for another holder.
        on_wait: called once, with who holds it, when there is something to wait for.

    Raises:
        EngineError: still held after timeout_s, or the file cannot be made or locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise EngineError(
            f"cannot make {path}: {error.strerror}; the engine repository must be a folder that can be written"
        ) from error
    try:
        _acquire(handle, path, time.monotonic() + timeout_s, on_wait)
        with suppress(OSError):  # a full disk; who waits is then told of "another process"
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)  # which releases the lock


def _acquire(handle: int, path: Path, until_s: float, on_wait: Callable[[str], None] | None) -> None:
    has_told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise EngineError(
                    f"cannot lock {path}: {error.strerror}; put the repository on a file system with locks"
                ) from error
        else:
            return
        holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
        if time.monotonic() >= until_s:
            raise EngineError(f"{holder} has been holding {path} for too long; end it, or wait and start again")
        if on_wait is not None and not has_told:
            on_wait(holder)
            has_told = True
        time.sleep(POLL_S)
