"""Throughput and processor time a record on real Kafka: the raw pass-through, the worker, a careful loop.

The input topic is filled once; every round reads it again with a new consumer group. Rounds are interleaved, so that a
slow minute of the machine meets all contestants, and the first ones are discarded: a cold broker is up to 40 % slower.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench import one_round, report
from bench.contestants import CONTESTANTS
from bench.one_round import Figures
from bench.scenario import Scenario
from tests import kafka_jars
from tests.kafka_server import BENCH_JVM, KafkaCluster

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure; 0 when every answer of every round was there, once, and right."""
    options = _options()
    console = Console()
    if (reason := kafka_jars.missing()) is not None:
        console.print(f"cannot measure: {reason}")
        return 2
    scenario = Scenario(options.records, options.payload_bytes, options.partitions)
    rounds: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch = Path(name)
        model = scratch / "pass-through.onnx"
        scenario.write_model(model)
        with console.status("starting Kafka"), KafkaCluster(scratch / "kafka", jvm=BENCH_JVM) as kafka:
            topic = kafka.create_topic("input", scenario.partitions)
            value_bytes = scenario.fill(kafka.bootstrap_servers, topic)
            for number in range(options.warm_ups + options.repetitions):
                is_warm_up = number < options.warm_ups
                for contestant in options.contestants:
                    figures = one_round.run(contestant, kafka, topic, model, scenario, scratch)
                    _tell(console, number, figures, is_warm_up=is_warm_up)
                    if not is_warm_up:
                        rounds.append(figures)
    report.show(console, scenario, value_bytes, rounds)
    report.write(options.output, scenario, value_bytes, options.warm_ups, rounds)
    console.print(f"written to {options.output}")
    if not all(figures.is_right for figures in rounds):
        console.print("[red]some answers were missing, given twice, wrong, or not committed")
        return 1
    return 0


def _tell(console: Console, number: int, figures: Figures, *, is_warm_up: bool) -> None:
    what = "warm-up" if is_warm_up else f"round {number}"
    console.print(
        f"{what:8} {figures.contestant:8} {figures.records_per_s:9,.0f} records/s  {figures.cpu_us:5.1f} µs CPU",
        style="dim" if is_warm_up else None,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--payload-bytes", type=int, default=576, help="of the FP32 tensor in each request")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--warm-ups", type=int, default=1, help="discarded rounds of each contestant")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--output", type=Path, default=RESULTS / "throughput.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
