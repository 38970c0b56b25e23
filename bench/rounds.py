"""Rounds of several contestants in turns, so that a slow minute of the machine meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from bench import ideal, one_round, requests
from bench.contestants import IDEAL, Subject
from bench.one_round import Figures
from bench.requests import Requests
from tests.kafka_server import KafkaCluster

AIR = 1.1  # a cycle may take so much longer than the last one
LEAST_S = 30.0  # for one round, however little time is left


class Budget:
    """The time that a command may take."""

    def __init__(self, minutes: float | None) -> None:
        self._end_s = float("inf") if minutes is None else time.monotonic() + minutes * 60

    @property
    def left_s(self) -> float:
        return max(0.0, self._end_s - time.monotonic())

    def share(self, parts: int) -> Budget:
        """An equal part of what is left."""
        part = Budget(None)
        part._end_s = time.monotonic() + self.left_s / parts
        return part


@dataclass(frozen=True)
class Topic:
    """A scenario's requests in Kafka, to be read again and again."""

    name: str
    subject: Subject
    requests: Requests
    value_bytes: int

    @classmethod
    def filled(cls, kafka: KafkaCluster, name: str, subject: Subject) -> Topic:
        """Make and fill it."""
        kafka.create_topic(name, subject.scenario.partitions)
        value_bytes = requests.fill(kafka.bootstrap_servers, name, subject.scenario, subject.model)
        return cls(name, subject, Requests(subject.scenario, subject.model), value_bytes)


@dataclass
class Outcome:
    """What all rounds of one topic measured, and who could not take part."""

    rounds: list[Figures] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        return all(figures.is_right for figures in self.rounds) and not self.failed


def measure(
    kafka: KafkaCluster,
    topics: Mapping[str, Topic],
    names: Sequence[str],
    scratch: Path,
    *,
    warm_ups: int,
    repetitions: int,
    budget: Budget,
    console: Console,
    keep: Callable[[Mapping[str, Outcome]], None],
    once: Sequence[str] = (),
) -> Mapping[str, Outcome]:
    """Every contestant on every topic, `warm_ups` times for nothing, then `repetitions` times or until time is up.

    Args:
        once: those that are so slow that they run in the first measured cycle only.
        keep: is called after each measured round, so that an end from outside costs one round.

    Returns:
        By the topics' keys.
    """
    outcomes = {key: Outcome() for key in topics}
    longest_s = 0.0
    for number in range(warm_ups + repetitions):
        is_warm_up = number < warm_ups
        start_s = time.monotonic()
        if longest_s * AIR > budget.left_s:
            console.print(f"no time for another cycle of {longest_s:.0f} s", style="dim")
            break
        for key, topic in topics.items():
            # Who comes first has it harder, or easier.
            for name in names if (number - warm_ups) % 2 == 0 else reversed(names):
                if name in outcomes[key].failed or (name in once and number != warm_ups):
                    continue
                figures = _one(name, kafka, topic, scratch, budget, outcomes[key])
                what = "warm-up" if is_warm_up else f"round {number - warm_ups + 1}"
                _tell(console, f"{what:8} {key:18}", name, figures, outcomes[key], is_warm_up=is_warm_up)
                if figures is not None and not is_warm_up:
                    outcomes[key].rounds.append(figures)
                keep(outcomes)
        longest_s = max(longest_s, time.monotonic() - start_s)
    return outcomes


def _one(
    name: str, kafka: KafkaCluster, topic: Topic, scratch: Path, budget: Budget, outcome: Outcome
) -> Figures | None:
    deadline_s = min(one_round.ROUND_DEADLINE_S, max(LEAST_S, budget.left_s))
    try:
        if name == IDEAL:
            return ideal.run(topic.subject, scratch, deadline_s)
        return one_round.run(name, kafka, topic.name, topic.subject, topic.requests, scratch, deadline_s)
    except (RuntimeError, TimeoutError) as error:
        outcome.failed[name] = str(error)
        return None


def _tell(
    console: Console, where: str, name: str, figures: Figures | None, outcome: Outcome, *, is_warm_up: bool
) -> None:
    if figures is None:
        console.print(f"{where} {name}: {outcome.failed[name]}", style="red", markup=False)
        return
    console.print(
        f"{where} {name:16} {figures.records_per_s:9,.0f} records/s  {figures.cpu_us:7.1f} µs CPU"
        + ("" if figures.is_right else "  NOT RIGHT"),
        style="dim" if is_warm_up else None,
        markup=False,
    )
