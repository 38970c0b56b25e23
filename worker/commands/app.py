"""`trt-worker`: the commands, joined."""

from __future__ import annotations

import typer

from worker import __version__
from worker.commands import config, dlq, engines
from worker.commands.bench import bench
from worker.commands.build import build
from worker.commands.demo import demo
from worker.commands.run import run
from worker.commands.send import send
from worker.commands.tune import tune

app = typer.Typer(
    name="trt-worker",
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
app.command()(tune)
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
    """TensorRT inference behind Kafka: consume, batch, run, publish."""
