"""`trt-worker config`: check and show settings without starting anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from worker import config

app = typer.Typer(no_args_is_help=True, help="Check and show the settings.")
File = Annotated[str | None, typer.Argument(help="Settings file (YAML); the environment is laid over it.")]


def _load(file: str | None) -> config.Settings:
    return config.load(Path(file) if file is not None else None)


@app.command()
def check(file: File = None) -> None:
    """Say whether the settings are right; exit 2 and one line per fault if not."""
    _load(file)
    typer.echo(f"{file or 'the environment'}: ok")


@app.command()
def show(file: File = None) -> None:
    """Print the effective values, defaults and environment included, secrets hidden."""
    typer.echo(yaml.safe_dump(config.show(_load(file)), sort_keys=False, allow_unicode=True), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON schema of the settings file."""
    typer.echo(json.dumps(config.schema(), indent=2))
