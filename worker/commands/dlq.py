"""`trt-worker dlq`: look at dead letters, and send them back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import typer
from rich.table import Table

from worker import config
from worker.commands.console import open_console
from worker.commands.options import ConfigFile
from worker.kafka.dead_letter_topic import DeadLetter, DeadLetterTopic

app = typer.Typer(no_args_is_help=True, help="Look at dead letters, send them back to the input topic.")
Code = Annotated[str | None, typer.Option(help="Only dead letters with this error code.")]


@app.command("list")
def list_letters(
    config_file: ConfigFile = None,
    code: Code = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, oldest first.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print where each dead letter came from and why it could not be answered."""
    settings = config.load(config_file)
    with DeadLetterTopic(settings.kafka) as topic:
        letters = list(islice((letter for letter in topic.read() if code in (None, letter.code)), limit))
    if as_json:
        for letter in letters:
            typer.echo(json.dumps(_plain(letter), ensure_ascii=False))
        return
    table = Table("source", "code", "message", "bytes", "written")
    for letter in letters:
        plain = _plain(letter)
        table.add_row(*(str(plain[column]) for column in ("source", "code", "message", "bytes", "written")))
    open_console().print(table)


@app.command()
def replay(
    config_file: ConfigFile = None,
    code: Code = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    to_topic: Annotated[str | None, typer.Option(help="Send to this topic instead of the one each came from.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also those that were sent back before.")] = False,
) -> None:
    """Send dead letters back as they were; without --code, what was sent is remembered and not sent twice."""
    settings = config.load(config_file)
    with DeadLetterTopic(settings.kafka) as topic:
        sent, skipped = topic.replay(code=code, limit=limit, from_start=again, to_topic=to_topic)
    typer.echo(f"{sent} sent back, {skipped} skipped")


def _plain(letter: DeadLetter) -> dict[str, str | int]:
    return {
        "source": letter.source,
        "code": letter.code,
        "message": letter.message,
        "bytes": letter.omitted_bytes or len(letter.value or b""),
        "written": datetime.fromtimestamp(letter.written_ms / 1000, UTC).isoformat(timespec="seconds"),
    }
