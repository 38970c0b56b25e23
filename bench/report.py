"""The medians of all rounds as a table and as JSON."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import machine
from bench.contestants import RAW
from bench.one_round import Figures
from bench.scenario import Scenario
from worker.config import ENV_PREFIX


def summary(rounds: Sequence[Figures]) -> dict[str, dict[str, Any]]:
    """Per contestant: medians over its rounds, and the share of the raw pass-through."""
    by_name: dict[str, list[Figures]] = {}
    for figures in rounds:
        by_name.setdefault(figures.contestant, []).append(figures)
    bound = median(figures.records_per_s for figures in by_name[RAW]) if RAW in by_name else None
    summed: dict[str, dict[str, Any]] = {}
    for name, mine in by_name.items():
        rates = [figures.records_per_s for figures in mine]
        summed[name] = {
            "records_per_s": round(median(rates)),
            "slowest": round(min(rates)),
            "fastest": round(max(rates)),
            "of_raw": round(median(rates) / bound, 3) if bound else None,
            "cpu_us": round(median(figures.cpu_us for figures in mine), 2),
            "main_thread_us": round(median(figures.main_thread_us for figures in mine), 2),
            "missing": sum(figures.missing for figures in mine),
            "duplicates": sum(figures.duplicates for figures in mine),
            "wrong": sum(figures.wrong for figures in mine),
            "uncommitted": sum(figures.uncommitted for figures in mine),
        }
    return summed


def show(console: Console, scenario: Scenario, value_bytes: int, rounds: Sequence[Figures]) -> None:
    """Print the medians."""
    table = Table(
        title=f"{scenario.records:,} records of {value_bytes} bytes, {scenario.partitions} partitions, "
        f"medians of {len(rounds) // len({figures.contestant for figures in rounds})}"
    )
    for heading in ("", "records/s", "range", "of raw", "CPU µs", "thread µs", "faults"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in summary(rounds).items():
        table.add_row(
            name,
            f"{row['records_per_s']:,}",
            f"{row['slowest'] / 1000:.0f}–{row['fastest'] / 1000:.0f}k",
            "–" if row["of_raw"] is None else f"{row['of_raw']:.0%}",
            f"{row['cpu_us']:.1f}",
            f"{row['main_thread_us']:.1f}",
            str(row["missing"] + row["duplicates"] + row["wrong"] + row["uncommitted"]),
        )
    table.caption = (
        "raw: the same bytes in and out, the bound; careful: a loop of 64 records, written by hand\n"
        "CPU µs: user and system time of the whole process a record; thread µs: of its main thread\n"
        "faults: answers missing, given twice or wrong, and records not committed"
    )
    console.print(table)


def write(path: Path, scenario: Scenario, value_bytes: int, warm_ups: int, rounds: Sequence[Figures]) -> None:
    """Keep everything that was measured, with where and when."""
    document = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine.facts(),
        "scenario": {**asdict(scenario), "value_bytes": value_bytes, "model": "pass-through"},
        "settings": {key: value for key, value in sorted(os.environ.items()) if key.startswith(ENV_PREFIX)},
        "warm_ups": warm_ups,
        "medians": summary(rounds),
        "rounds": [figures.as_json() for figures in rounds],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
