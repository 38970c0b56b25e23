"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="Settings file (YAML). Without it, TRT_WORKER__SECTION__KEY variables say it all."
    ),
]
