"""`trt-worker demo`: the whole system in one process, on real input."""

from __future__ import annotations

import logging
import signal
from typing import Annotated

import typer

from worker.demo.interruption import Interrupted, interruption


def demo(
    requests: Annotated[int, typer.Option(min=1, help="How many images to send.")] = 2000,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Requests a second. Without it: as fast as answers come.")
    ] = None,
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Your own Kafka instead of the embedded broker; topics are created for the demo and deleted again.",
        ),
    ] = None,
    keep_running: Annotated[
        bool,
        typer.Option(
            "--keep-running", help="Afterwards keep /metrics and /status up, with slow traffic, until Ctrl-C."
        ),
    ] = False,
) -> None:
    """The whole system in one process: real images in, every answer checked.

    Needs no GPU and no Kafka. Exit code 0 only if every answer came, once, and right.
    """
    logging.getLogger("worker.kafka.librdkafka").setLevel(logging.ERROR)  # a new broker's hesitations are no news here
    with interruption() as noted:
        # Slow to import, so after the signals have their handler.
        from worker.commands.console import open_console
        from worker.demo.showcase import Options, run_demo

        try:
            is_perfect: bool | None = run_demo(
                Options(requests, rate, bootstrap_servers, keep_running), open_console(), noted.check
            )
        except Interrupted:
            typer.echo("stopped", err=True)
            is_perfect = None
    if is_perfect is None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # all is closed; an impatient second one would change the exit code
        raise typer.Exit(noted.exit_code)
    if not is_perfect:
        raise typer.Exit(1)
