"""Throughput and processor time a record on real Kafka: the raw pass-through, the worker, and what one would run else.

The input topic is filled once; every round reads it again with a new consumer group. Rounds are interleaved, so that a
slow minute of the machine meets all contestants, and the first ones are discarded: a cold broker is up to 40 % slower.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from rich.console import Console

from bench import command, peers, report, rounds
from bench.contestants import USUAL
from bench.rounds import Budget, Outcome, Topic
from bench.scenario import SCENARIOS


def main() -> int:
    """Measure; 0 when every answer of every round was there, once, and right. Who cannot be installed is left out."""
    options = _options()
    console = command.console()
    budget = Budget(options.minutes)
    is_right = True
    with console.status("looking for the peers' packages"):
        left_out = peers.left_out(options.contestants)
    _tell(console, left_out)
    contestants = [name for name in options.contestants if name not in left_out]
    if not contestants:
        console.print("nobody is left to be measured")
        return 1
    with command.broker(console) as (kafka, scratch):
        for place, name in enumerate(options.scenario):
            scenario = command.scenario(options, name)
            subject = command.subject(options, scenario, scratch)
            with console.status(f"filling {name}"):
                topic = Topic.filled(kafka, f"input-{name}", subject)

            def keep(outcomes: Mapping[str, Outcome], topic: Topic = topic) -> None:
                found = outcomes[topic.subject.scenario.name]
                content = report.throughput(topic.subject.scenario, topic.value_bytes, options.warm_ups, found)
                content["left_out"] = left_out
                command.keep(options, "throughput", topic.subject.scenario.name, content)

            found = rounds.measure(
                kafka,
                {name: topic},
                contestants,
                scratch,
                warm_ups=options.warm_ups,
                repetitions=options.repetitions,
                budget=budget.share(len(options.scenario) - place),
                console=console,
                keep=keep,
                once=options.once,
            )[name]
            kafka.delete_topic(topic.name)
            report.show(console, scenario, topic.value_bytes, found)
            is_right = is_right and found.is_right
    _tell(console, left_out)  # again: the first time is far up by now
    if not is_right:
        console.print("[red]some answers were missing, given twice, wrong, or not committed; or a contestant failed")
    return 0 if is_right else 1


def _tell(console: Console, left_out: Mapping[str, str]) -> None:
    for name, why in left_out.items():
        console.print(f"note: {name} is left out: {why}", style="yellow", markup=False)


def _options() -> argparse.Namespace:
    parser = command.parser("throughput", __doc__)
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=["pass-through-0.6k"])
    parser.add_argument("--contestants", nargs="+", type=command.contestant, default=list(USUAL))
    parser.add_argument(
        "--once", nargs="*", type=command.contestant, default=["triton"], help="too slow to be measured repeatedly"
    )
    parser.add_argument("--warm-ups", type=int, default=1, help="discarded rounds of each contestant")
    parser.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
