"""Latency at a given rate on real Kafka: from the scheduled sending of a request to the receipt of its answer.

`broker` is what sending, the broker and reading take by themselves: the reader reads the requests.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer
from rich.console import Console
from rich.table import Table

from bench import command, one_round
from bench.contestants import Subject
from bench.loops.job import Job
from bench.requests import Requests
from bench.rounds import AIR, Budget
from bench.scenario import SCENARIOS
from bench.traffic import PROBE, Order, Receipts, traffic
from tests.kafka_server import KafkaCluster

BROKER = "broker"
WARM_UP_S = 2.0  # of each run, not counted
JOIN_S = 60.0
Cell = tuple[str, float, str]  # contestant, records a second, arrivals


def main() -> int:
    """Measure; 0 when every answer came, once."""
    options = _options()
    console, budget = command.console(), Budget(options.minutes)
    cells: list[Cell] = [
        (name, rate, kind) for rate in options.rates for kind in options.arrivals for name in options.contestants
    ]
    runs: list[dict[str, Any]] = []
    with command.broker(console) as (kafka, scratch):
        scenario = command.scenario(options, options.scenario)
        subject = command.subject(options, scenario, scratch, batching={"max_delay_ms": options.max_delay_ms})
        longest_s = 0.0
        for _ in range(options.repetitions):
            start_s = time.monotonic()
            if longest_s * AIR > budget.left_s:
                break
            for cell in cells:
                run = _one(kafka, cell, subject, scratch, options.seconds, seed=len(runs))
                runs.append(run)
                console.print(f"{_name(run):32} p50 {run['p50_ms']:7.2f}  p99 {run['p99_ms']:7.2f} ms", markup=False)
                told = {
                    "scenario": scenario.as_json(),
                    "max_delay_ms": options.max_delay_ms,
                    "seconds": options.seconds,
                }
                command.keep(options, "latency", scenario.name, {**told, "medians": summary(runs), "runs": runs})
            longest_s = max(longest_s, time.monotonic() - start_s)
    _show(console, runs)
    return 0 if all(run["missing"] == run["duplicates"] == 0 for run in runs) else 1


def summary(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per contestant, rate and kind of arrivals: medians over the runs."""
    by_cell: dict[Cell, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_cell.setdefault((run["contestant"], run["rate"], run["arrivals"]), []).append(run)
    figures = ("p50_ms", "p95_ms", "p99_ms", "max_ms", "late_p99_ms")
    return [
        {
            "contestant": name,
            "rate": rate,
            "arrivals": kind,
            "runs": len(mine),
            **{figure: round(median(run[figure] for run in mine), 3) for figure in figures},
            "missing": sum(run["missing"] for run in mine),
            "duplicates": sum(run["duplicates"] for run in mine),
        }
        for (name, rate, kind), mine in by_cell.items()
    ]


def percentiles(receipts: Receipts) -> dict[str, Any]:
    """Of what was scheduled after the warm-up."""
    counted = receipts.due_s >= WARM_UP_S
    came = receipts.latency_s[counted & ~np.isnan(receipts.latency_s)]
    p50, p95, p99, most = np.percentile(came, (50, 95, 99, 100)) * 1000 if len(came) else [float("nan")] * 4
    return {
        "p50_ms": round(float(p50), 3),
        "p95_ms": round(float(p95), 3),
        "p99_ms": round(float(p99), 3),
        "max_ms": round(float(most), 3),
        "late_p99_ms": round(float(np.percentile(receipts.late_s[counted], 99)) * 1000, 3),
        "records": int(counted.sum()),
        "missing": int(np.isnan(receipts.latency_s).sum()),
        "duplicates": receipts.duplicates,
    }


def _one(kafka: KafkaCluster, cell: Cell, subject: Subject, scratch: Path, seconds: float, seed: int) -> dict[str, Any]:
    name, rate, kind = cell
    partitions = subject.scenario.partitions
    requests, answers = (f"{purpose}-{seed}" for purpose in ("requests", "answers"))
    for topic in (requests, answers):
        kafka.create_topic(topic, partitions)
    order = Order(
        kafka.bootstrap_servers,
        requests,
        requests if name == BROKER else answers,
        partitions,
        subject.scenario,
        subject.model,
        rate,
        WARM_UP_S + seconds,
        "poisson" if kind == "poisson" else "even",
        seed,
    )
    if name == BROKER:
        with traffic(order) as run:
            receipts = run()
    else:
        job = Job(kafka.bootstrap_servers, f"latency-{seed}", requests, answers, subject.model)
        with one_round.started(name, job, subject, scratch) as process:
            await_answers(job, subject, lambda: process.poll() is None)
            with traffic(order) as run:
                receipts = run()
    for topic in (requests, answers):
        kafka.delete_topic(topic)
    return {"contestant": name, "rate": rate, "arrivals": kind, **percentiles(receipts)}


def await_answers(job: Job, subject: Subject, is_alive: Any) -> None:
    """Wait until a contestant has joined: a request to every partition, and as many answers.

    Raises:
        TimeoutError: they did not come.
    """
    partitions = subject.scenario.partitions
    producer = Producer({"bootstrap.servers": job.bootstrap_servers, "log_level": 3})
    for partition in range(partitions):
        producer.produce(job.input_topic, Requests(subject.scenario, subject.model).value(0), PROBE, partition)
    producer.flush(30)
    looker = Consumer({"bootstrap.servers": job.bootstrap_servers, "group.id": "looker"})
    due_s = time.monotonic() + JOIN_S
    while one_round.records_in(looker, job.output_topic, partitions) < partitions:
        if time.monotonic() > due_s or not is_alive():
            raise TimeoutError(f"no answers in {JOIN_S:g} s")
        time.sleep(0.2)
    looker.close()


def _name(run: Mapping[str, Any]) -> str:
    return f"{run['contestant']} {run['rate']:g}/s {run['arrivals']}"


def _show(console: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="latency in ms, medians of the runs")
    for heading in ("", "runs", "p50", "p95", "p99", "max", "sent late p99", "faults"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in summary(runs):
        figures = [f"{row[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms", "late_p99_ms")]
        table.add_row(_name(row), str(row["runs"]), *figures, str(row["missing"] + row["duplicates"]))
    console.print(table)


def _options() -> argparse.Namespace:
    parser = command.parser("latency", __doc__)
    parser.add_argument("--scenario", default="pass-through-0.6k", choices=SCENARIOS)
    parser.add_argument(
        "--contestants",
        nargs="+",
        type=lambda name: name if name == BROKER else command.contestant(name),
        default=[BROKER, "worker", "careful"],
    )
    parser.add_argument("--rates", nargs="+", type=float, default=[500.0, 2000.0])
    parser.add_argument("--arrivals", nargs="+", choices=("poisson", "even"), default=["poisson", "even"])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run, after the warm-up")
    parser.add_argument("--max-delay-ms", type=float, default=2.0, help="the worker's batching.max_delay_ms")
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
