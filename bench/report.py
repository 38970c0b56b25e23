"""The medians of all rounds, as a table and for the JSON."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.contestants import IDEAL, RAW
from bench.one_round import Figures
from bench.rounds import Outcome
from bench.scenario import Scenario

QUIET = "worker-no-metrics"


def summary(rounds: Sequence[Figures], rows: int = 1) -> dict[str, dict[str, Any]]:
    """Per contestant: medians over its rounds, and the shares of the bounds.

    Args:
        rounds: of one topic.
        rows: of one request.
    """
    by_name: dict[str, list[Figures]] = {}
    for figures in rounds:
        by_name.setdefault(figures.contestant, []).append(figures)
    raw, best = (median(each.rate for each in by_name[name]) if name in by_name else None for name in (RAW, IDEAL))
    summed: dict[str, dict[str, Any]] = {}
    for name, mine in by_name.items():
        rates = [figures.rate for figures in mine]
        summed[name] = {
            "records_per_s": round(median(rates)),
            "slowest": round(min(rates)),
            "fastest": round(max(rates)),
            "whole_per_s": round(median(figures.records_per_s for figures in mine)),
            "steady_per_s": round(median(figures.steady_per_s for figures in mine)),
            "rows_per_s": round(median(rates) * rows),
            "of_raw": round(median(rates) / raw, 3) if raw and name != IDEAL else None,
            "of_ideal": round(median(rates) / best, 3) if best else None,
            "cpu_us": round(median(figures.cpu_us for figures in mine), 2),
            "main_thread_us": round(median(figures.main_thread_us for figures in mine), 2),
            "rounds": len(mine),
            "missing": sum(figures.missing for figures in mine),
            "duplicates": sum(figures.duplicates for figures in mine),
            "wrong": sum(figures.wrong for figures in mine),
            "uncommitted": sum(figures.uncommitted for figures in mine),
        }
    return summed


def cost_of_metrics(rounds: Sequence[Figures]) -> dict[str, float] | None:
    """Shares by which the worker is slower, and takes more processor time, than without metrics: medians of the rounds.

    Each round is compared with its neighbour in time; None where one of both did not take part, or was over before
    the first look at the processor time.
    """
    worker, quiet = ([each for each in rounds if each.contestant == name] for name in ("worker", QUIET))
    pairs = [(on, off) for on, off in zip(worker, quiet, strict=False) if on.cpu_us and off.cpu_us]
    if not pairs:
        return None
    return {
        "throughput": round(median(1 - on.records_per_s / off.records_per_s for on, off in pairs), 4),
        "cpu": round(median(on.cpu_us / off.cpu_us - 1 for on, off in pairs), 4),
    }


def throughput(scenario: Scenario, value_bytes: int, warm_ups: int, found: Outcome) -> dict[str, Any]:
    """What the JSON file says of one scenario."""
    return {
        "scenario": {**scenario.as_json(), "value_bytes": value_bytes},
        "warm_ups": warm_ups,
        "medians": summary(found.rounds, scenario.rows),
        "cost_of_metrics": cost_of_metrics(found.rounds),
        "failed": found.failed,
        "rounds": [figures.as_json() for figures in found.rounds],
    }


def show(console: Console, scenario: Scenario, value_bytes: int, found: Outcome) -> None:
    """Print the medians."""
    size = f"{scenario.records:,} records of {value_bytes:,} bytes, {scenario.partitions} partitions"
    table = Table(title=f"{scenario.name}: {size}, medians")
    for heading in (
        "",
        "rounds",
        "records/s",
        "range",
        "rows/s",
        "of raw",
        "of ideal",
        "CPU µs",
        "thread µs",
        "faults",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in summary(found.rounds, scenario.rows).items():
        table.add_row(
            name,
            str(row["rounds"]),
            f"{row['records_per_s']:,}",
            f"{row['slowest'] / 1000:.3g}–{row['fastest'] / 1000:.3g}k",
            f"{row['rows_per_s']:,}",
            *("–" if row[key] is None else f"{row[key]:.0%}" for key in ("of_raw", "of_ideal")),
            f"{row['cpu_us']:.1f}",
            f"{row['main_thread_us']:.1f}",
            str(row["missing"] + row["duplicates"] + row["wrong"] + row["uncommitted"]),
        )
    table.caption = (
        "records/s: from the first answer to the last, by the broker's clock; of several processes: from 3/10 to 9/10\n"
        "CPU µs: user and system time of all its processes a record; thread µs: of its main thread\n"
        "faults: answers missing, given twice or wrong, and records not committed"
    )
    console.print(table)
    if cost := cost_of_metrics(found.rounds):
        console.print(f"metrics cost {cost['throughput']:.1%} of the throughput, {cost['cpu']:.1%} more CPU")
