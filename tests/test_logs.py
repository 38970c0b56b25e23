"""Log lines, as a machine and as a person read them."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.clock import Clock
from worker import logs
from worker.sections import LoggingSettings


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""  # standard output belongs to what commands print
    return err.splitlines()


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the message has lines of its own."""
    logs.set_up(LoggingSettings())
    logging.getLogger("worker.pipeline").warning("%d records\nof %s", 3, 'topic "ü"')
    (line,) = lines_of(capsys)
    entry = json.loads(line)
    assert entry["message"] == '3 records\nof topic "ü"'
    assert (entry["level"], entry["logger"]) == ("warning", "worker.pipeline")
    assert "ü" in line


def test_the_time_has_a_zone_and_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LoggingSettings())
    logging.getLogger("x").error("now")
    moment = datetime.fromisoformat(json.loads(lines_of(capsys)[0])["time"])
    offset = moment.utcoffset()
    assert offset is not None
    assert offset.total_seconds() == 0
    assert abs((datetime.now(moment.tzinfo) - moment).total_seconds()) < 60


def test_an_exception_is_part_of_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback over several lines would be several broken entries in a log store."""
    logs.set_up(LoggingSettings())
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    (line,) = lines_of(capsys)
    entry = json.loads(line)
    assert entry["message"] == "it failed"
    assert "ValueError: why" in entry["exception"]


def test_text_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LoggingSettings(format="text"))
    logging.getLogger("worker.cli").info("ready")
    (line,) = lines_of(capsys)
    assert line.endswith("worker.cli: ready")
    assert "INFO" in line


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_less_severe_lines_are_left_out(level: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LoggingSettings.model_validate({"level": level}))
    for severity in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("x").log(severity, "line")
    assert len(lines_of(capsys)) == count


def test_setting_up_again_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LoggingSettings(format="text"))
    logs.set_up(LoggingSettings())
    logging.getLogger("x").info("once")
    assert len(lines_of(capsys)) == 1


def test_what_no_terminal_can_show_is_still_written(capsys: pytest.CaptureFixture[str]) -> None:
    """A lone surrogate, as file names and broken producers bring it, must not cost the line."""
    logs.set_up(LoggingSettings())
    assert sys.stderr is not None
    logging.getLogger("x").error("name %r and %s", "\udcff", "\udcff".encode("utf-8", "backslashreplace").decode())
    assert len(lines_of(capsys)) == 1


def message(text: str) -> logging.LogRecord:
    return logging.LogRecord("kafka", logging.WARNING, "file.py", 1, text, (), None)


def test_what_differs_in_its_numbers_alone_is_told_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of a broker that is away says so several times a second."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    repeats = logs.Repeats(every_s=10.0)
    assert repeats.filter(message("broker 1: connect failed after 13 ms"))
    assert not repeats.filter(message("broker 1: connect failed after 9 ms"))
    assert repeats.filter(message("broker 1: authentication failed"))
    clock.now_s += 9.9
    assert not repeats.filter(message("broker 2: connect failed after 1 ms"))
    clock.now_s += 0.2
    assert repeats.filter(message("broker 1: connect failed after 13 ms"))


def test_what_was_told_is_forgotten_in_time() -> None:
    """Ever new messages must not fill the memory."""
    repeats = logs.Repeats()
    for number in range(3000):
        assert repeats.filter(message("a" * number))
    assert len(repeats._told_s) <= 1001
