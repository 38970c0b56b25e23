"""`trt-worker bench`: ideal loop, lanes, whole path; and what each of them is bound by."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from worker import assemble, logs
from worker.commands.bench_report import lane_figures, print_report, shown_levels, whole_figures
from worker.commands.files import write
from worker.commands.lane_loop import LaneLoop, LaneRun
from worker.commands.subject import shapes_of, subject
from worker.config import Settings
from worker.demo.stage import open_stage
from worker.errors import BatchError, ConfigError
from worker.sections import LoggingSettings
from worker.tuning.ideal import best_shapes, find_engine, open_ideal
from worker.tuning.machine import machine_facts
from worker.tuning.measurement import Measurement, Setting
from worker.tuning.outcome import KafkaRun
from worker.tuning.payload import Payload, seeded_payload
from worker.tuning.plots import levels
from worker.tuning.through_kafka import most_rate, run_through_kafka
from worker.tuning.trial import run_trial

MAX_BYTES = 1 << 31  # of a batch on the GPU: the plan's own limit is the only one here
HALF_LOAD = 0.5  # of what the whole path carries: where its latency is looked at
PATIENCE_S = 5.0
EMBEDDED = "embedded"


def bench(
    model: Annotated[str | None, typer.Option(help="Name in the engine repository.")] = None,
    version: Annotated[str, typer.Option(help="Version in the engine repository.")] = "1",
    repository: Annotated[Path, typer.Option(help="Root of the engine repository.")] = Path("engines"),
    config_file: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file, in place of those.")
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="ONNX file, for the cpu backend.")] = None,
    backend: Annotated[str, typer.Option(help="Without --config: auto, tensorrt or cpu.")] = "auto",
    rows: Annotated[int | None, typer.Option(help="Rows of a batch. Default: the settings' or 64.", min=1)] = None,
    lanes: Annotated[int | None, typer.Option(help="Lanes. Default: the settings' or 4.", min=1, max=16)] = None,
    cuda_graphs: Annotated[
        str | None, typer.Option(help="auto or off: for the lanes; the ideal loop tries both.")
    ] = None,
    rows_per_request: Annotated[int, typer.Option(help="Rows of a request, in the whole path.", min=1)] = 1,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="INPUT=AxBx…", help="Lengths of free axes, without the batch axis.")
    ] = None,
    bootstrap_servers: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The whole path through this Kafka too, or: embedded.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of one measurement.", min=0.05)] = 0.5,
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions; medians are reported.", min=1)] = 5,
    device: Annotated[str, typer.Option(help="GPU ordinal or UUID.")] = "0",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them there, as SVG.")] = None,
) -> None:
    """Measure how near lanes and whole worker come to what this machine can do with the model, and what holds them."""
    logs.set_up(LoggingSettings(level="error", format="text"))
    if cuda_graphs not in {"auto", "off", None}:
        raise ConfigError(f"--cuda-graphs is {cuda_graphs!r}; say auto or off")
    told = subject(config_file, onnx, model, version, repository, backend, device)
    settings = _sized(told, rows, lanes, cuda_graphs, is_given=config_file is not None)
    rows, lanes = settings.batching.max_rows, settings.engine.lanes
    if rows_per_request > rows:
        raise ConfigError(f"--rows-per-request is {rows_per_request}; a batch has {rows} rows (--rows)")
    with ExitStack() as stack:
        seats = stack.enter_context(assemble.open_backend(settings))
        found = find_engine(settings)
        shapes = {**(best_shapes(found[2]) if found else {}), **shapes_of(shape)}
        payload = seeded_payload(seats.model, settings, rows_per_request, shapes)
        row_shapes = payload.row_shapes[0]
        try:
            ideal = stack.enter_context(open_ideal(settings, seats.model, row_shapes, rows))
            loop = LaneLoop(seats, row_shapes, rows)
        except BatchError as error:
            raise ConfigError(f"{rows} rows cannot run as a batch: {error}; see --rows") from error
        ideal_rates: dict[str, list[float]] = {}
        runs: dict[str, list[LaneRun]] = {}
        whole: list[Measurement] = []
        setting = Setting(rows, settings.batching.max_delay_ms, lanes)
        trial = partial(run_trial, settings, seats, payload, setting, patience_s=PATIENCE_S, go_on=lambda: None)
        for _ in range(rounds):  # interleaved, so that a GPU that warms up or a noisy neighbour hits all alike
            for name, run in ideal.items():
                batches, took_s = run(seconds)
                ideal_rates.setdefault(name, []).append(batches * rows / took_s)
            runs.setdefault("1 lane", []).append(loop.run(seconds, lanes=1))
            runs.setdefault(f"{lanes} lanes", []).append(loop.run(seconds, lanes=lanes))
            runs.setdefault(f"{lanes} lanes + gather", []).append(loop.run(seconds, lanes=lanes, with_gather=True))
            whole.append(trial(None, seconds))
        full = _middle(whole, "answered_per_s")
        half_rate = max(1.0, HALF_LOAD * full.answered_per_s)
        half = _middle([trial(half_rate, seconds, seed=n) for n in range(rounds)], "p99_ms")
        figures = lane_figures(ideal_rates, runs, rows, lanes)
        machine, tag = machine_facts(seats), seats.model.tag
    through = None
    if bootstrap_servers is not None:
        through = _through_kafka(settings, setting, payload, full, bootstrap_servers, seconds * rounds)
    figures |= whole_figures(
        full,
        half,
        through,
        figures,
        rows_per_request=rows_per_request,
        max_delay_ms=settings.batching.max_delay_ms,
        is_gpu=found is not None,
    )
    what = {
        "model": settings.model.name,
        "precision": found[2].recipe.precision if found else "as-is",
        "plan": tag,
        "rows": rows,
        "lanes": lanes,
        "rows_per_request": rows_per_request,
        "request_bytes": round(payload.value_bytes, 1),
        "seconds": seconds,
        "rounds": rounds,
        "command": shlex.join(["trt-worker", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    report = {"what": what, "machine": machine, **figures, "graphs": machine.get("cuda_graphs", "")}
    print_report(report)
    if json_file is not None:
        write(json_file, json.dumps(report, indent=2) + "\n")
    if plot is not None:
        write(plot, levels(shown_levels(report), f"{settings.model.name}, {rows} rows a batch"))


def _sized(settings: Settings, rows: int | None, lanes: int | None, graphs: str | None, *, is_given: bool) -> Settings:
    """The settings with what the options say; without a settings file, the bench's own defaults."""
    batching: dict[str, Any] = {"max_rows": rows or (settings.batching.max_rows if is_given else 64)}
    if not is_given:
        batching["max_bytes"] = MAX_BYTES if find_engine(settings) else settings.batching.max_bytes
    engine: dict[str, Any] = {"lanes": lanes or (settings.engine.lanes if is_given else 4)}
    if graphs is not None:
        engine["cuda_graphs"] = graphs
    return settings.model_copy(
        update={
            "batching": settings.batching.model_copy(update=batching),
            "engine": settings.engine.model_copy(update=engine),
        }
    )


def _through_kafka(
    settings: Settings, setting: Setting, payload: Payload, full: Measurement, servers: str, seconds: float
) -> KafkaRun:
    is_embedded = servers == EMBEDDED
    rate = min(full.answered_per_s, most_rate(payload, is_embedded=is_embedded))
    stage = partial(open_stage, None if is_embedded else servers)
    return run_through_kafka(settings, setting, payload, rate, seconds, stage, arrivals="even", go_on=lambda: None)


def _middle(runs: list[Measurement], figure: str) -> Measurement:
    """The run whose figure is the median."""
    return sorted(runs, key=lambda run: float(getattr(run, figure)))[len(runs) // 2]
