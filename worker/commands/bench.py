"""`trt-worker bench`: the worker's lanes, without Kafka, against an ideal loop on the same plan."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from worker import assemble_tensorrt, logs
from worker.commands.lane_loop import LaneLoop, LaneRun
from worker.engine.manifest import Manifest
from worker.engine.repository import Repository
from worker.errors import ConfigError, EngineError
from worker.gpu.cuda_runtime import load_cuda
from worker.gpu.device import Device
from worker.gpu.ideal_loop import ideal_loop
from worker.gpu.loading import open_tensorrt_backend
from worker.gpu.plan import Plan
from worker.sections import LoggingSettings

STREAMS = (1, 2, 3, 4)
MAX_BYTES = 1 << 31  # the plan's own limit is the only one here


def bench(
    model: Annotated[str, typer.Option(help="Name in the engine repository.")],
    version: Annotated[str, typer.Option(help="Version in the engine repository.")] = "1",
    repository: Annotated[Path, typer.Option(help="Root of the engine repository.")] = Path("engines"),
    rows: Annotated[int, typer.Option(help="Rows of a batch.", min=1)] = 64,
    lanes: Annotated[int, typer.Option(help="Lanes to compare with one.", min=1, max=16)] = 4,
    cuda_graphs: Annotated[str, typer.Option(help="auto or off: for the lanes; the ideal loop tries both.")] = "auto",
    seconds: Annotated[float, typer.Option(help="Length of one measurement.", min=0.05)] = 0.5,
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions; medians are reported.", min=1)] = 5,
    device: Annotated[str, typer.Option(help="GPU ordinal or UUID.")] = "0",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
) -> None:
    """Measure how near the worker's lanes come to what the GPU can do with this plan."""
    logs.set_up(LoggingSettings(level="warning", format="text"))
    if cuda_graphs not in {"auto", "off"}:
        raise ConfigError(f"--cuda-graphs is {cuda_graphs!r}; say auto or off")
    machine = assemble_tensorrt.this_machine(device)
    choice = assemble_tensorrt.choose_engine(
        Repository(repository), model, version, machine, onnx=None, allow_host_code=False
    )
    if choice.entry is None or choice.entry.manifest is None or machine.device is None:
        raise EngineError(f"no engine for {model} version {version} in {repository}: {choice.reason}")
    manifest, spec = choice.entry.manifest, choice.entry.manifest.model_spec()
    with ExitStack() as stack:
        cuda = load_cuda()
        cuda.set_device(machine.device.ordinal)
        plan = Plan(machine.trt, choice.entry.plan, manifest.plan_sha256, spec)
        stack.callback(plan.close)
        row_shapes = tuple(best[1:] for _, best, _ in plan.profiles[0].shapes)
        ideal = stack.enter_context(ideal_loop(cuda, machine.device, plan, row_shapes, rows, max(STREAMS)))
        backend = stack.enter_context(
            open_tensorrt_backend(
                machine.trt,
                machine.device,
                choice.entry.plan,
                manifest.plan_sha256,
                spec,
                lanes=lanes,
                cuda_graphs="off" if cuda_graphs == "off" else "auto",
                max_rows=rows,
                max_bytes=MAX_BYTES,
            )
        )
        loop = LaneLoop(backend, row_shapes, rows)
        ideal_rates: dict[str, list[float]] = {}
        runs: dict[str, list[LaneRun]] = {}
        for _ in range(rounds):  # interleaved, so that a GPU that warms up or a noisy neighbour hits all alike
            for streams in STREAMS:
                for with_graphs in (False, True) if ideal.has_graphs else (False,):
                    batches, took_s = ideal.run(seconds, streams=streams, with_graphs=with_graphs)
                    name = f"{streams} streams{' + graphs' if with_graphs else ''}"
                    ideal_rates.setdefault(name, []).append(batches * rows / took_s)
            runs.setdefault("1 lane", []).append(loop.run(seconds, lanes=1))
            runs.setdefault(f"{lanes} lanes", []).append(loop.run(seconds, lanes=lanes))
            runs.setdefault(f"{lanes} lanes + gather", []).append(loop.run(seconds, lanes=lanes, with_gather=True))
        figures = _figures(ideal_rates, runs, rows, lanes)
        figures["graphs"] = backend.describe()["cuda_graphs"]
    report = {
        "what": _what(manifest, rows, lanes, seconds, rounds),
        "machine": _machine(machine.device, cuda.driver_version()),
    }
    report |= figures
    _print(report)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(report, indent=2) + "\n")


def _figures(ideal: dict[str, list[float]], runs: dict[str, list[LaneRun]], rows: int, lanes: int) -> dict[str, Any]:
    ideal_rates = {name: round(median(rates), 1) for name, rates in ideal.items()}
    best = max(ideal_rates, key=lambda name: ideal_rates[name])
    lane_rates = {name: round(median(run.rows_per_s for run in several), 1) for name, several in runs.items()}
    stages = {
        stage: median(times)
        for stage in ("h2d", "compute", "d2h")
        if (times := [seconds[stage] for run in runs["1 lane"] for seconds in run.stage_seconds])
    }
    one, many = rows / lane_rates["1 lane"], rows / lane_rates[f"{lanes} lanes"]
    return {
        "ideal_rows_per_s": ideal_rates,
        "ideal_best": best,
        "lanes_rows_per_s": lane_rates,
        "lanes_share_of_ideal": round(lane_rates[f"{lanes} lanes"] / ideal_rates[best], 4),
        "overlap": {
            "stage_us": {stage: round(seconds * 1e6, 1) for stage, seconds in stages.items()},
            "sum_of_stages_us": round(sum(stages.values()) * 1e6, 1),
            "batch_us_1_lane": round(one * 1e6, 1),
            f"batch_us_{lanes}_lanes": round(many * 1e6, 1),
            "gain_over_1_lane": round(one / many - 1.0, 4),
        },
        "latency_us": {name: _percentiles(several) for name, several in runs.items()},
    }


def _percentiles(runs: list[LaneRun]) -> dict[str, float]:
    latencies = sorted(latency for run in runs for latency in run.latency_s)
    return {
        f"p{share}": round(latencies[min(len(latencies) - 1, len(latencies) * share // 100)] * 1e6, 1)
        for share in (50, 99)
    }


def _what(manifest: Manifest, rows: int, lanes: int, seconds: float, rounds: int) -> dict[str, Any]:
    return {
        "model": manifest.model,
        "precision": manifest.recipe.precision,
        "plan": manifest.plan_sha256[:12],
        "rows": rows,
        "lanes": lanes,
        "seconds": seconds,
        "rounds": rounds,
        "command": shlex.join(["trt-worker", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "tensorrt": f"{manifest.flavour} {manifest.tensorrt_version}",
    }


def _machine(device: Device, cuda_version: str) -> dict[str, Any]:
    return {
        "gpu": device.name,
        "compute_capability": device.compute_capability,
        "memory_gib": round(device.memory_bytes / (1 << 30), 1),
        "driver": _driver(),
        "driver_cuda": cuda_version,
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def _driver() -> str:
    """The driver's own version, which CUDA does not tell."""
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.splitlines()[0].strip()


def _print(report: dict[str, Any]) -> None:
    what, machine, overlap = report["what"], report["machine"], report["overlap"]
    console = Console()
    console.print(
        f"{what['model']} ({what['precision']}), {what['rows']} rows a batch, {machine['gpu']}, {what['tensorrt']}"
    )
    best = report["ideal_rows_per_s"][report["ideal_best"]]
    table = Table("", "rows/s", "of the best ideal", "p50 us", "p99 us", box=None)
    for name, rate in report["ideal_rows_per_s"].items():
        table.add_row(f"ideal, {name}", f"{rate:,.0f}", f"{rate / best:.1%}", "", "")
    for name, rate in report["lanes_rows_per_s"].items():
        latency = report["latency_us"][name]
        table.add_row(
            f"lanes, {name}", f"{rate:,.0f}", f"{rate / best:.1%}", f"{latency['p50']:,.0f}", f"{latency['p99']:,.0f}"
        )
    console.print(table)
    stages = ", ".join(f"{stage} {value:,.0f}" for stage, value in overlap["stage_us"].items())
    console.print(f"stages of a batch in us: {stages}; sum {overlap['sum_of_stages_us']:,.0f}")
    console.print(
        f"{what['lanes']} lanes are {overlap['gain_over_1_lane']:.1%} quicker than 1; CUDA graphs: {report['graphs']}"
    )
