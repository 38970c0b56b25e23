"""Files that a command was asked to write."""

from __future__ import annotations

from pathlib import Path

from worker.errors import ConfigError


def write(file: Path, text: str) -> None:
    """Write the file, and the folders above it.

    Raises:
        ConfigError: the disk refuses it.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from error
