"""Log lines: one JSON object each, or readable text."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from datetime import UTC, datetime

from worker.sections import LoggingSettings


class JsonFormatter(logging.Formatter):
    """time, level, logger, message, and the exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.processName not in (None, "MainProcess"):
            entry["process"] = str(record.processName)  # an intake process
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A readable line; one of an intake process begins with its name."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.processName in (None, "MainProcess") else f"[{record.processName}] {line}"


class Repeats(logging.Filter):
    """Lets a message that differs only in its numbers through once in a while; clients of an absent broker insist."""

    def __init__(self, every_s: float = 10.0) -> None:
        super().__init__()
        self._every_s = every_s
        self._told_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key = re.sub(r"[0-9]+", "0", record.getMessage())
        now_s = time.monotonic()
        is_news = now_s - self._told_s.get(key, -self._every_s) >= self._every_s
        if is_news:
            if len(self._told_s) > 1000:
                self._told_s.clear()
            self._told_s[key] = now_s
        return is_news


def set_up(settings: LoggingSettings) -> None:
    """Send the log to standard error in the chosen form; called once, by the command."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
