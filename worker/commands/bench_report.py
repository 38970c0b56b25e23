"""The figures of `trt-worker bench`: worked out, printed."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table

from worker.commands.console import open_console
from worker.commands.lane_loop import LaneRun
from worker.tuning.bound import broker_bound, latency_bound, throughput_bound
from worker.tuning.measurement import Measurement
from worker.tuning.outcome import KafkaRun


def lane_figures(
    ideal: dict[str, list[float]], runs: dict[str, list[LaneRun]], rows: int, lanes: int
) -> dict[str, Any]:
    """Medians of the ideal loops and of the lanes, in rows a second, and what overlap is worth."""
    ideal_rates = {name: round(median(rates), 1) for name, rates in ideal.items()}
    best = max(ideal_rates, key=lambda name: ideal_rates[name])
    lane_rates = {name: round(median(run.rows_per_s for run in several), 1) for name, several in runs.items()}
    stages = {
        stage: median(times)
        for stage in ("h2d", "compute", "d2h")
        if (times := [seconds[stage] for run in runs["1 lane"] for seconds in run.stage_seconds if stage in seconds])
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
        if latencies
    }


def whole_figures(
    full: Measurement,
    half: Measurement,
    through: KafkaRun | None,
    figures: dict[str, Any],
    *,
    rows_per_request: int,
    max_delay_ms: float,
    is_gpu: bool,
) -> dict[str, Any]:
    """The whole path, and what everything is bound by.

    Args:
        full: as fast as it goes.
        half: at half of that.
        through: the same through a broker, if that was asked for.
        figures: lane_figures().
    """
    best = figures["ideal_rows_per_s"][figures["ideal_best"]]
    rate = full.answered_per_s * rows_per_request
    bound = {
        "throughput": throughput_bound(full, is_gpu=is_gpu),
        "latency_at_half_load": latency_bound(half, max_delay_ms),
    }
    found: dict[str, Any] = {
        "whole": {
            "rows_per_s": round(rate, 1),
            "requests_per_s": full.answered_per_s,
            "share_of_ideal": round(rate / best, 4),
            "full_load": asdict(full),
            "half_load": asdict(half),
        },
        "bound_by": bound,
    }
    if through is not None:
        found["kafka"] = asdict(through)
        bound["through_kafka"] = broker_bound(through)
    return found


def shown_levels(report: dict[str, Any]) -> list[tuple[str, str, float]]:
    """(kind, name, rows a second) of everything that was measured, for table and plot."""
    shown = [("ideal", f"ideal, {name}", rate) for name, rate in report["ideal_rows_per_s"].items()]
    shown += [("lanes", f"lanes, {name}", rate) for name, rate in report["lanes_rows_per_s"].items()]
    shown.append(("whole", "whole path", report["whole"]["rows_per_s"]))
    if "kafka" in report:
        kafka = report["kafka"]
        rate = kafka["answered_per_s"] * report["what"]["rows_per_request"]
        shown.append(("kafka", f"through {kafka['where']}", rate))
    return shown


def print_report(report: dict[str, Any]) -> None:
    what, machine, overlap = report["what"], report["machine"], report["overlap"]
    console = open_console()
    where = machine["cpu"] if machine.get("gpu") == "cpu" else f"{machine.get('gpu')}, {machine.get('tensorrt')}"
    console.print(f"{what['model']} ({what['precision']}), {what['rows']} rows a batch, {where}", highlight=False)
    best = report["ideal_rows_per_s"][report["ideal_best"]]
    table = Table("", "rows/s", "of the best ideal", "p50 us", "p99 us", box=None)
    for kind, name, rate in shown_levels(report):
        latency = report["latency_us"].get(name.removeprefix("lanes, "), {}) if kind == "lanes" else {}
        times = [f"{latency[share]:,.0f}" if share in latency else "" for share in ("p50", "p99")]
        table.add_row(name, f"{rate:,.0f}", f"{rate / best:.1%}", *times)
    console.print(table)
    stages = ", ".join(f"{stage} {value:,.0f}" for stage, value in overlap["stage_us"].items())
    console.print(f"stages of a batch in us: {stages}; sum {overlap['sum_of_stages_us']:,.0f}", soft_wrap=True)
    console.print(
        f"{what['lanes']} lanes: {overlap['gain_over_1_lane']:+.1%} rows a second over 1"
        + (f"; CUDA graphs: {report['graphs']}" if report["graphs"] else "")
    )
    for name, words in report["bound_by"].items():
        console.print(f"{name.replace('_', ' ')} is bound by {words}", highlight=False, soft_wrap=True)
