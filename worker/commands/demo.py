"""`trt-worker demo`: the whole system in one process, on real input."""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Annotated

import typer


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
    exit_code = 0

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal exit_code
        exit_code = 128 + number
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    logging.getLogger("worker.kafka.librdkafka").setLevel(logging.ERROR)  # a new broker's hesitations are no news here
    try:
        # Slow to import, so under the protection of this block.
        from rich.console import Console

        from worker.demo.showcase import Options, run_demo

        options = Options(requests, rate, bootstrap_servers, keep_running)
        is_perfect = run_demo(options, Console())
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        raise typer.Exit(exit_code) from None
    if not is_perfect:
        raise typer.Exit(1)
