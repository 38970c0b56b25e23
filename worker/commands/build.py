"""`trt-worker build`: an engine for this machine's GPU, from an ONNX file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from worker import assemble_tensorrt, logs
from worker.commands.console import open_console
from worker.engine.building import Order
from worker.engine.manifest import HardwareCompatibility, Precision
from worker.engine.onnx_model import read_onnx
from worker.engine.profiles import RowRange, full_batches, parse_rows, parse_shape
from worker.engine.repository import Repository
from worker.errors import ConfigError
from worker.sections import LoggingSettings

log = logging.getLogger(__name__)


def build(
    onnx: Annotated[Path, typer.Option(help="ONNX file; external weights lie beside it.")],
    model: Annotated[str, typer.Option(help="Name in the engine repository; model.name of the settings.")],
    version: Annotated[
        str, typer.Option(help="Version in the engine repository; model.version of the settings.")
    ] = "1",
    repository: Annotated[Path, typer.Option(help="Root of the engine repository.")] = Path("engines"),
    precision: Annotated[Precision, typer.Option(help="as-is, or fp16: convert the ONNX first.")] = "as-is",
    profile: Annotated[
        list[str] | None, typer.Option(help="Rows of a batch, MIN,OPT,MAX; repeat for more profiles. Default 1,64,64.")
    ] = None,
    max_rows: Annotated[
        int | None,
        typer.Option(min=1, help="As --profile 1,N,N, for batching.max_rows; nothing where the model fixes its rows."),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Shapes of an input with other free axes: NAME=MIN,OPT,MAX, as in ids=1x16,8x128,64x512."),
    ] = None,
    workspace: Annotated[int | None, typer.Option(help="MiB of scratch memory a layer may take.", min=1)] = None,
    hardware_compatible: Annotated[
        HardwareCompatibility, typer.Option(help="Which other GPUs the engine must run on; costs speed.")
    ] = "none",
    version_compatible: Annotated[
        bool, typer.Option(help="Runs on other versions of TensorRT, which needs engine.allow_host_code.")
    ] = False,
    max_aux_streams: Annotated[int | None, typer.Option(help="Streams inside one batch.", min=0)] = None,
    device: Annotated[str, typer.Option(help="GPU ordinal or UUID.")] = "0",
    flavour: Annotated[str | None, typer.Option(help="tensorrt or tensorrt_rtx; default: the first installed.")] = None,
    force: Annotated[bool, typer.Option(help="Build also when an equal engine is there.")] = False,
    verbose: Annotated[bool, typer.Option(help="Show what TensorRT says.")] = False,
) -> None:
    """Build an engine for this GPU and put it, with its manifest, into the repository."""
    logs.set_up(LoggingSettings(level="info" if verbose else "warning", format="text"))
    ranges: Sequence[RowRange] = [parse_rows(text) for text in profile or ()]
    if max_rows is not None:
        if ranges:
            raise ConfigError(f"--max-rows is {max_rows}, and --profile is given, too; leave one of them out")
        ranges = full_batches(read_onnx(onnx).inputs, max_rows)
    machine = assemble_tensorrt.this_machine(device, flavour, needs_gpu=False)
    order = Order(
        onnx,
        model,
        version,
        precision=precision,
        rows=ranges,
        shapes=dict(parse_shape(text) for text in shape or ()),
        hardware_compatibility=hardware_compatible,
        version_compatible=version_compatible,
        workspace_mib=workspace,
        max_aux_streams=max_aux_streams,
    )
    console = open_console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"building {model}", total=1.0)
        entry = assemble_tensorrt.build_engine(
            Repository(repository),
            order,
            machine,
            is_forced=force,
            on_progress=lambda phase, fraction: bar.update(task, completed=fraction, description=phase[:40]),
            on_wait=lambda holder: bar.update(task, description=f"waiting: {holder} is building this"),
        )
    if entry.manifest is not None:
        rows = entry.manifest.max_rows
        typer.echo(
            f"{entry.plan}\n{entry.manifest.plan_bytes / 1e6:.1f} MB, up to {rows} rows, sha256 "
            f"{entry.manifest.plan_sha256[:12]}…, built in {entry.manifest.build_seconds:.1f} s by {machine.runtime}"
        )
