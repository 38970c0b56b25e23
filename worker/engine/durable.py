"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

CHUNK_BYTES = 1 << 24


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Write aside, flush to disk, rename over `path`; a reader sees the old file or the new one.

    Raises:
        OSError: disk full, no permission; nothing is left behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            view = memoryview(data)
            for start in range(0, len(view), CHUNK_BYTES):  # Ctrl-C is heard between chunks
                file.write(view[start : start + CHUNK_BYTES])
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def put_folder(aside: Path, target: Path) -> None:
    """Make the finished folder `aside` the new `target`; what was there before is removed.

    The caller holds the lock of `target`. After a crash `target` is the old folder, the new one, or missing; never
    a mixture.
    """
    flush_folder(aside)
    retired = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(retired)
    aside.rename(target)
    flush_folder(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Bring the folder's entries (names, renames) to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
