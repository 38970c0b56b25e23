"""`trt-worker tune`: settings for a latency target, measured on this machine with the user's own model."""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer
import yaml

from worker import logs
from worker.commands.files import write
from worker.commands.subject import shapes_of, subject
from worker.config import Settings
from worker.demo import interruption
from worker.errors import ConfigError
from worker.sections import LoggingSettings


def tune(
    config_file: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file to start from.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="Without --config: the ONNX file.")] = None,
    model: Annotated[str | None, typer.Option(help="Without --config: name in the engine repository.")] = None,
    version: Annotated[str, typer.Option(help="Without --config: version there.")] = "1",
    repository: Annotated[Path, typer.Option(help="Without --config: root of the engine repository.")] = Path(
        "engines"
    ),
    backend: Annotated[str, typer.Option(help="Without --config: auto, tensorrt or cpu.")] = "auto",
    p99_ms: Annotated[float, typer.Option(help="The target: 99 of 100 answers within so many ms.", min=0.01)] = 20.0,
    rates: Annotated[
        str | None, typer.Option(metavar="R,R,…", help="Requests a second. Without it: the highest.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time to spend, about.", min=1)] = 90.0,
    arrivals: Annotated[str, typer.Option(help="poisson, or even: at equal distances.")] = "poisson",
    rows_per_request: Annotated[int, typer.Option(help="Rows of a request.", min=1)] = 1,
    input_file: Annotated[
        Path | None, typer.Option("--input", help=".npz to cut requests from (name -> rows).")
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="INPUT=AxBx…", help="Lengths of free axes, without the batch axis.")
    ] = None,
    max_rows: Annotated[str | None, typer.Option(metavar="N,N,…", help="Only these batching.max_rows.")] = None,
    max_delay_ms: Annotated[
        str | None, typer.Option(metavar="MS,MS,…", help="Only these batching.max_delay_ms.")
    ] = None,
    lanes: Annotated[str | None, typer.Option(metavar="N,N,…", help="Only these engine.lanes.")] = None,
    cuda_graphs: Annotated[str | None, typer.Option(metavar="auto,off", help="Only these engine.cuda_graphs.")] = None,
    kafka: Annotated[bool, typer.Option(help="Run the chosen setting through a broker at the end.")] = True,
    bootstrap_servers: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Your Kafka for that; topics are created and deleted again."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The recommended settings.")] = Path("tune.yaml"),
    report: Annotated[Path, typer.Option(help="The report.")] = Path("tune.html"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Every measurement, as JSON.")] = None,
) -> None:
    """Sweep rows, delay, lanes and graphs; recommend what meets a p99 at the highest rate, or at given ones.

    Exit code 0 if the target is met when measured again, 1 if not.
    """
    logs.set_up(LoggingSettings(level="error", format="text"))
    if arrivals not in {"poisson", "even"}:
        raise ConfigError(f"--arrivals is {arrivals!r}; say poisson or even")
    with interruption.interruption() as noted:
        # Slow to import, so after the signals have their handler.
        from worker.commands.console import open_console
        from worker.demo.stage import open_stage
        from worker.tuning.report import render
        from worker.tuning.session import Interrupted, Wishes
        from worker.tuning.session import tune as run_tune

        def go_on() -> None:
            if noted.exit_code:
                raise Interrupted

        settings = subject(config_file, onnx, model, version, repository, backend)
        wishes = Wishes(
            p99_ms=p99_ms,
            rates=tuple(_numbers("--rates", rates, float)),
            seconds=seconds,
            is_even=arrivals == "even",
            rows_per_request=rows_per_request,
            input_file=input_file,
            shapes=shapes_of(shape),
            max_rows=tuple(_numbers("--max-rows", max_rows, int)),
            max_delay_ms=tuple(_numbers("--max-delay-ms", max_delay_ms, float, least=0)),
            lanes=tuple(_numbers("--lanes", lanes, int)),
            cuda_graphs=_graphs(cuda_graphs),
            open_stage=partial(open_stage, bootstrap_servers) if kafka else None,
            is_embedded=bootstrap_servers is None,
            knows_present=config_file is not None,
        )
        console = open_console()
        outcome = run_tune(settings, wishes, console, go_on, shlex.join(["trt-worker", *sys.argv[1:]]))
        if outcome.setting is None:
            typer.echo("stopped before anything was measured", err=True)
            raise typer.Exit(noted.exit_code or 1)
        recommended = _recommended(outcome.setting)
        write(output, _header(outcome.verdict(), outcome.command) + _yaml(_merged(config_file, settings, recommended)))
        write(report, render(outcome, _yaml(recommended)))
        if json_file is not None:
            write(json_file, json.dumps(outcome.to_json(), indent=2) + "\n")
        _print(console, outcome, recommended, [output, report, *([json_file] if json_file else [])])
    if noted.exit_code:
        raise typer.Exit(noted.exit_code)
    if not outcome.is_confirmed:
        raise typer.Exit(1)


def _numbers(option: str, text: str | None, kind: type[Any], least: float = 1e-9) -> list[Any]:
    try:
        values = [kind(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        values = [least - 1]
    if any(value < least for value in values):
        raise ConfigError(f"{option} is {text!r}; write numbers with commas between them, such as 16,64")
    return values


def _graphs(text: str | None) -> tuple[Literal["auto", "off"], ...]:
    words = text.split(",") if text is not None else []
    if any(word not in {"auto", "off"} for word in words):
        raise ConfigError(f"--cuda-graphs is {text!r}; say auto, off, or auto,off")
    return tuple(cast("list[Literal['auto', 'off']]", words))


def _recommended(setting: Any) -> dict[str, dict[str, Any]]:
    graphs = list(setting.cuda_graphs) if isinstance(setting.cuda_graphs, tuple) else setting.cuda_graphs
    return {
        "engine": {"lanes": setting.lanes, "cuda_graphs": graphs},
        "batching": {"max_rows": setting.max_rows, "max_delay_ms": _plain(setting.max_delay_ms)},
    }


def _plain(value: float) -> float:
    """5, not 5.0."""
    return int(value) if value == int(value) else value


def _merged(config_file: Path | None, settings: Settings, recommended: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The user's file with the recommended keys in it; without one, what a service of this model needs."""
    if config_file is not None:
        merged: dict[str, Any] = yaml.safe_load(config_file.read_text(encoding="utf-8")) or {}
    else:
        merged = {name: getattr(settings, name).model_dump(mode="json", exclude_defaults=True) for name in _TOLD}
    for section, values in recommended.items():
        merged[section] = {**(merged.get(section) or {}), **values}
    return merged


_TOLD = ("model", "engine", "kafka", "batching")


def _header(verdict: str, command: str) -> str:
    return f"# {verdict}\n# {command}\n"


def _yaml(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _print(console: Any, outcome: Any, recommended: dict[str, dict[str, Any]], files: list[Path]) -> None:
    if outcome.is_interrupted:
        console.print("stopped early; this is what is known", style="yellow")
    for section, values in recommended.items():
        told = "  ".join(f"{key}: {value}" for key, value in values.items())
        console.print(f"{section}:  {told}", style="bold", highlight=False)
    choice = outcome.choice
    if choice is not None and choice.meets_target:
        console.print(
            f"{choice.share_of_best:.0%} of the best of the sweep ({choice.best_rate:,.0f}/s)", highlight=False
        )
    for note in outcome.sweep.notes:
        console.print(note, style="yellow", highlight=False, soft_wrap=True)
    console.print(outcome.verdict(), style="green" if outcome.is_confirmed else "red", highlight=False)
    if outcome.kafka is not None:
        console.print(str(outcome.kafka), highlight=False, soft_wrap=True)
    console.print("written: " + ", ".join(map(str, files)), highlight=False, soft_wrap=True)
