"""The command line: joins the commands, and turns the errors that end a process into one line and an exit code."""

from __future__ import annotations

import sys

import typer

from worker import __version__
from worker.commands import config, dlq, engines
from worker.commands.bench import bench
from worker.commands.build import build
from worker.commands.demo import demo
from worker.commands.run import run
from worker.commands.send import send
from worker.errors import FatalError

app = typer.Typer(
    name="trt-worker",
    help="TensorRT inference behind Kafka: consume, batch, run, publish.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(demo)
app.command()(run)
app.add_typer(config.app, name="config")
app.command()(build)
app.add_typer(engines.app, name="engines")
app.command()(bench)
app.command()(send)
app.add_typer(dlq.app, name="dlq")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of all commands."""


def main() -> None:
    """Entry point of `trt-worker`."""
    try:
        app(prog_name="trt-worker")
    except FatalError as error:
        sys.stderr.write(f"trt-worker: {error}\n")
        sys.exit(error.exit_code)
