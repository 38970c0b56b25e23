"""Load for a long time on real Kafka, every answer accounted for: does the worker's memory, threads or files grow?"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from typing import Self

import psutil

from bench import command, growth, latency, one_round
from bench.growth import Holding
from bench.loops.job import Job
from bench.scenario import SCENARIOS
from bench.traffic import Order, traffic

PROPERTIES = {"log.retention.bytes": str(256 << 20)}  # of a partition
EVERY_S = 1.0


def main() -> int:
    """Measure; 0 when nothing grew, and every answer came once."""
    options = _options()
    console = command.console()
    seconds = (options.minutes or 30.0) * 60
    with command.broker(console, PROPERTIES) as (kafka, scratch):
        scenario = command.scenario(options, options.scenario)
        subject = command.subject(options, scenario, scratch)
        for topic in ("requests", "answers"):
            kafka.create_topic(topic, scenario.partitions)
        order = Order(
            kafka.bootstrap_servers,
            "requests",
            "answers",
            scenario.partitions,
            scenario,
            subject.model,
            options.rate,
            seconds,
            "even",
        )
        job = Job(kafka.bootstrap_servers, "soak", "requests", "answers", subject.model)
        with one_round.started(options.contestant, job, subject, scratch) as process:
            latency.await_answers(job, subject, lambda: process.poll() is None)
            with traffic(order) as run, _Watch(process.pid, seconds) as watch:
                receipts = run()
    told = latency.percentiles(receipts)
    grown = growth.faults(watch.held)
    content = {
        "scenario": scenario.as_json(),
        "contestant": options.contestant,
        "minutes": round(seconds / 60, 2),
        "rate": options.rate,
        "answers": told,
        "grown": grown,
        "held": [each.as_json() for each in watch.held[:: max(1, len(watch.held) // 300)]],
    }
    path = command.keep(options, "soak", scenario.name, content)
    console.print(f"{told['records']:,} records, {told['missing']} missing, {told['duplicates']} twice; {path}")
    first, last = watch.held[len(watch.held) // 4], watch.held[-1]
    console.print(f"after a quarter of the time: {first.as_json()}\nat the end: {last.as_json()}")
    for each in grown:
        console.print(each, style="red")
    return 0 if not grown and told["missing"] == told["duplicates"] == 0 else 1


class _Watch:
    """Looks at a process once a second while the context is open."""

    def __init__(self, pid: int, seconds: float) -> None:
        self.held: list[Holding] = []
        self._process = psutil.Process(pid)
        self._seconds = seconds
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")

    def _run(self) -> None:
        start_s = time.monotonic()
        while not self._is_over.wait(EVERY_S) and (at_s := time.monotonic() - start_s) < self._seconds:
            try:
                self.held.append(growth.look(self._process, at_s))
            except psutil.NoSuchProcess:
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()
        self._thread.join()


def _options() -> argparse.Namespace:
    parser = command.parser("soak", __doc__)
    parser.add_argument("--scenario", default="pass-through-0.6k", choices=SCENARIOS)
    parser.add_argument("--contestant", type=command.contestant, default="worker")
    parser.add_argument("--rate", type=float, default=5000.0, help="records a second")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
