"""What is printed is what was meant: brackets and colons in names and messages are no markup."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Self

import pytest
from rich.console import Console
from rich.live import Live
from typer.testing import CliRunner

from worker.commands import dlq
from worker.commands.app import app
from worker.commands.console import open_console
from worker.demo.view import LiveView, Snapshot
from worker.kafka.dead_letter_topic import DeadLetter
from worker.sections import KafkaSettings

WORDS = (
    "input 'x' has shape [1, 2]; send [rows, 144], rows >= 1",
    "the model has no input '[/x]'; it has x",
    "the model has no input ':warning:'; it has [bold]x[/bold]",
)
KAFKA = {
    "TRT_WORKER__MODEL__NAME": "m",
    "TRT_WORKER__KAFKA__BOOTSTRAP_SERVERS": "nowhere:1",
    "TRT_WORKER__KAFKA__GROUP_ID": "g",
    "TRT_WORKER__KAFKA__INPUT_TOPIC": "in",
    "TRT_WORKER__KAFKA__OUTPUT_TOPIC": "out",
    "TRT_WORKER__KAFKA__DEAD_LETTER_TOPIC": "dead",
}


class Letters:
    """A dead-letter topic that has a letter for each of WORDS."""

    def __init__(self, _settings: KafkaSettings) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self) -> Iterator[DeadLetter]:
        for number, words in enumerate(WORDS):
            yield DeadLetter("in", f"in/0/{number}", "malformed", words, 0, None, b"", [], 0)


def said(*words: str) -> str:
    done = CliRunner().invoke(app, words, catch_exceptions=False, env=KAFKA)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_dead_letters_message_is_listed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlq, "DeadLetterTopic", Letters)
    listed = said("dlq", "list")
    for words in WORDS:
        assert words in listed


def test_the_name_of_an_engine_repository_is_no_markup(tmp_path: Path) -> None:
    for name in ("[/x]", "[rows]"):
        assert f"no engines in {tmp_path / name}" in said("engines", "list", "--repository", str(tmp_path / name))


def test_whatever_a_command_prints_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """The console of all commands: demo, engines, bench, tune, dlq."""
    for words in WORDS:
        open_console().print(words)
        assert capsys.readouterr().out == words + "\n"


def test_no_command_opens_a_console_of_its_own() -> None:
    for file in Path(dlq.__file__).parent.glob("*.py"):
        assert file.name == "console.py" or "Console(" not in file.read_text(encoding="utf-8"), file.name


@pytest.mark.parametrize("words", WORDS)
def test_what_the_demo_says_on_a_terminal_is_no_markup(words: str) -> None:
    """Spinners and titles would read it as such, whatever the console thinks."""
    terminal = StringIO()
    console = Console(file=terminal, force_terminal=True, width=200)
    with Live(console=console, auto_refresh=False) as live:
        view = LiveView(live)
        view.say(words)
        live.refresh()
        view.show(Snapshot(1, 1, 2, 0, 1.0, (1.0, 2.0), 1.0, (0, 1)))
        live.refresh()
    assert terminal.getvalue().count(words) >= 2
