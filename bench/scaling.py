"""Does the cost stay flat? Processor time a record at 1 to 64 partitions, and throughput at ten times the lag.

Records lie by their keys, so that those of one partition are answered to one. With the most partitions they are
measured a second time in turns: then every batch's answers go to all partitions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench import command, report, rounds
from bench.contestants import RAW
from bench.rounds import Budget, Outcome, Topic
from bench.scenario import SCENARIOS


def main() -> int:
    """Measure; 0 when every answer of every round was there, once, and right."""
    options = _options()
    console, budget = command.console(), Budget(options.minutes)
    base = command.scenario(options, options.scenario)
    variants = {_named(count): base.over(count, by_key=True) for count in options.of_partitions}
    most = max(options.of_partitions)
    if most > 1:
        variants[f"{_named(most)} in turns"] = base.over(most)
    if options.lag > 1:
        variants[f"{options.lag}x lag"] = base.over(base.partitions, by_key=True).with_records(
            base.records * options.lag
        )
    with command.broker(console) as (kafka, scratch):
        subject = command.subject(options, base, scratch)
        topics = {}
        for key, scenario in variants.items():
            with console.status(f"filling {key}"):
                topics[key] = Topic.filled(kafka, key.replace(" ", "-"), replace(subject, scenario=scenario))

        def keep(outcomes: Mapping[str, Outcome]) -> None:
            command.keep(options, "scaling", base.name, {"variants": _told(topics, outcomes)})

        found = rounds.measure(
            kafka,
            topics,
            options.contestants,
            scratch,
            warm_ups=options.warm_ups,
            repetitions=options.repetitions,
            budget=budget,
            console=console,
            keep=keep,
        )
    for key, outcome in found.items():
        report.show(console, variants[key], topics[key].value_bytes, outcome)
    return 0 if all(outcome.is_right for outcome in found.values()) else 1


def _named(partitions: int) -> str:
    return "1 partition" if partitions == 1 else f"{partitions} partitions"


def _told(topics: Mapping[str, Topic], outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    return {
        key: report.throughput(topics[key].subject.scenario, topics[key].value_bytes, 0, outcome)
        for key, outcome in outcomes.items()
    }


def _options() -> argparse.Namespace:
    parser = command.parser("scaling", __doc__)
    parser.add_argument("--scenario", default="pass-through-0.6k", choices=SCENARIOS)
    parser.add_argument("--contestants", nargs="+", type=command.contestant, default=[RAW, "worker"])
    parser.add_argument("--of-partitions", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--lag", type=int, default=10, help="so many times the records, on the scenario's partitions")
    parser.add_argument("--warm-ups", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
