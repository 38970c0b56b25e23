"""`trt-worker engines`: what is in the engine repository, whether it is whole, and what a GPU would get."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from worker import assemble_tensorrt
from worker.commands.console import open_console
from worker.engine.gpu_key import Gpu, Runtime
from worker.engine.onnx_model import read_onnx
from worker.engine.repository import Entry, Repository
from worker.engine.select import Choice, Verdict, choose_verified
from worker.errors import ConfigError, EngineError
from worker.gpu.flavour import FULL, LEAN, RTX

FLAVOURS = (FULL, LEAN, RTX)

app = typer.Typer(no_args_is_help=True, help="List, verify and select engines.")

Root = Annotated[Path, typer.Option(help="Root of the engine repository.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ModelName = Annotated[str | None, typer.Option(help="Only this model.")]


@app.command(name="list")
def list_engines(repository: Root = Path("engines"), model: ModelName = None, as_json: AsJson = False) -> None:
    """Show what is there; problems that can be seen without reading the plans included."""
    entries = Repository(repository).entries(model)
    if as_json:
        typer.echo(json.dumps([_as_dict(entry, entry.problem) for entry in entries], indent=2))
        return
    table = Table("model", "version", "key", "rows", "precision", "MB", "built", "problem", box=None)
    for entry in entries:
        manifest = entry.manifest
        facts = ["", "", "", ""]
        if manifest is not None:
            facts = [
                str(manifest.max_rows),
                manifest.recipe.precision,
                f"{manifest.plan_bytes / 1e6:.1f}",
                manifest.built_at,
            ]
        table.add_row(entry.model, entry.version, entry.key, *facts, entry.problem)
    open_console().print(table if entries else f"no engines in {repository}")


@app.command()
def verify(repository: Root = Path("engines"), model: ModelName = None, as_json: AsJson = False) -> None:
    """Read every plan and compare its sum with the manifest; exit 3 if one is not whole."""
    checked = [(entry, entry.verify()) for entry in Repository(repository).entries(model)]
    if as_json:
        typer.echo(json.dumps([_as_dict(entry, problem) for entry, problem in checked], indent=2))
    else:
        for entry, problem in checked:
            typer.echo(f"{entry.model} {entry.version} {entry.key}: {problem or 'ok'}")
    if bad := [entry for entry, problem in checked if problem]:
        raise EngineError(f"{len(bad)} of {len(checked)} engines in {repository} cannot be used")
    if not checked:
        raise EngineError(f"no engines in {repository}")


@app.command()
def select(
    model: Annotated[str, typer.Option(help="model.name of the settings.")],
    version: Annotated[str, typer.Option(help="model.version of the settings.")] = "1",
    repository: Root = Path("engines"),
    onnx: Annotated[Path | None, typer.Option(help="Refuse engines that were built from another file.")] = None,
    allow_host_code: Annotated[bool, typer.Option(help="Accept version-compatible engines.")] = False,
    device: Annotated[str, typer.Option(help="GPU of this machine: ordinal or UUID.")] = "0",
    gpu: Annotated[str | None, typer.Option(help="Ask for another GPU: NAME,COMPUTE_CAPABILITY.")] = None,
    tensorrt: Annotated[
        str | None, typer.Option(help="Ask for another TensorRT: VERSION or FLAVOUR,VERSION. Needed with --gpu.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which engine a GPU would get and why, and why not the others; exit 3 if none."""
    wanted_gpu, runtime = _target(device, gpu, tensorrt)
    choice = choose_verified(
        Repository(repository).entries(model, version),
        wanted_gpu,
        runtime,
        onnx_sha256=read_onnx(onnx).sha256 if onnx is not None else None,
        allow_host_code=allow_host_code,
    )
    _print_choice(choice, wanted_gpu, runtime, as_json)
    if choice.entry is None:
        raise EngineError(f"no engine for {model} version {version} in {repository} fits {wanted_gpu} with {runtime}")


def _target(device: str, gpu: str | None, tensorrt: str | None) -> tuple[Gpu, Runtime]:
    """The GPU and TensorRT asked about: made up, or this machine's."""
    if gpu is not None:
        name, _, capability = gpu.rpartition(",")
        if not name or not re.fullmatch(r"\d+\.\d+", capability) or tensorrt is None:
            raise ConfigError(
                f"--gpu is {gpu!r}; write NAME,COMPUTE_CAPABILITY, such as 'NVIDIA L4,8.9', "
                "and give --tensorrt VERSION too"
            )
        flavour, _, version = tensorrt.rpartition(",")
        flavour = flavour or FULL
        if flavour not in FLAVOURS or not re.fullmatch(r"\d+(\.\d+)+", version):
            raise ConfigError(
                f"--tensorrt is {tensorrt!r}; write VERSION or FLAVOUR,VERSION, such as 10.6.0 or {RTX},1.7.1; "
                f"flavours: {', '.join(FLAVOURS)}"
            )
        return Gpu(name, capability), Runtime(flavour, version)
    machine = assemble_tensorrt.this_machine(device)
    if machine.gpu is None:
        raise ConfigError("there is no GPU here; ask for one with --gpu NAME,COMPUTE_CAPABILITY --tensorrt VERSION")
    return machine.gpu, machine.runtime


def _print_choice(choice: Choice, gpu: Gpu, runtime: Runtime, as_json: bool) -> None:
    if as_json:
        verdicts = [
            {"key": verdict.entry.key, "fit": _fit(verdict), "reason": verdict.reason} for verdict in choice.verdicts
        ]
        chosen = str(choice.entry.plan) if choice.entry else None
        typer.echo(
            json.dumps({"gpu": str(gpu), "tensorrt": str(runtime), "plan": chosen, "verdicts": verdicts}, indent=2)
        )
        return
    table = Table("", "key", "fit", "why", box=None)
    for verdict in choice.verdicts:
        mark = "->" if verdict.entry is choice.entry else ""
        table.add_row(mark, verdict.entry.key, _fit(verdict), verdict.reason)
    console = open_console()
    console.print(f"{gpu}; {runtime}")
    console.print(table)


def _fit(verdict: Verdict) -> str:
    return "refused" if verdict.fit is None else verdict.fit.name.lower().replace("_", "-")


def _as_dict(entry: Entry, problem: str) -> dict[str, object]:
    manifest = entry.manifest.model_dump(mode="json") if entry.manifest is not None else None
    return {"key": entry.key, "plan": str(entry.plan), "problem": problem or None, "manifest": manifest}
