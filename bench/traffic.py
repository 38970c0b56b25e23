"""Requests by the clock, and when their answers come: a sender and a reader, each a process of its own.

A latency counts from the scheduled time: what is sent late, because the sender is behind, has waited all the same. Both
ends are on one machine, whose monotonic clock all processes share. The sender does not linger; the broker answers the
reader's fetch as soon as there is anything, and each answer is taken by itself.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray

from bench.requests import Requests
from bench.scenario import Scenario
from worker.tuning.open_loop import ArrivalKind, schedule_s

PROBE = "probe"  # key of what is sent before the clock starts
PATIENCE_S = 10.0  # after the last scheduled time
AHEAD_S = 0.3  # from all being ready to the first scheduled time
READY_S = 60.0


@dataclass(frozen=True)
class Order:
    """What is to be sent, and where answers come."""

    bootstrap_servers: str
    requests: str
    answers: str
    partitions: int
    scenario: Scenario
    model: Path
    rate: float
    seconds: float
    arrivals: ArrivalKind
    seed: int = 1

    def due_s(self) -> NDArray[np.float64]:
        """Scheduled times from the start, ascending."""
        return np.array(schedule_s(self.rate, self.seconds, self.arrivals, self.seed))


@dataclass(frozen=True)
class Receipts:
    """What became of an order."""

    due_s: NDArray[np.float64]
    late_s: NDArray[np.float64]  # of the sending, behind the schedule
    latency_s: NDArray[np.float64]  # from the scheduled time to the answer; NaN: none came
    duplicates: int


@contextmanager
def traffic(order: Order) -> Iterator[Callable[[], Receipts]]:
    """Sender and reader, ready; calling what is yielded starts the clock and returns when all is over."""
    context = multiprocessing.get_context("spawn")  # the Kafka client does not survive a fork
    pipes, processes = [], []
    for part in (_receive, _send):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=part, args=(order, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that the end of the process ends our wait
        pipes.append(ours)
    try:
        for pipe in pipes:
            if not pipe.poll(READY_S) or pipe.recv() != "ready":
                raise TimeoutError(f"sender and reader were not ready in {READY_S:g} s")
        yield lambda: _run(order, pipes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _run(order: Order, pipes: list[Connection]) -> Receipts:
    reader, sender = pipes
    start_s = time.monotonic() + AHEAD_S
    for pipe in pipes:
        pipe.send(start_s)
    due_s = order.due_s()
    late_s = sender.recv()
    came_s, duplicates = reader.recv()
    return Receipts(due_s, late_s, came_s - start_s - due_s, duplicates)


def _send(order: Order, pipe: Connection) -> None:
    requests = Requests(order.scenario, order.model)
    for number in range(order.scenario.distinct):
        requests.value(number)  # makes it, which takes longer than sending it
    producer = Producer(
        {
            "bootstrap.servers": order.bootstrap_servers,
            "linger.ms": 0,
            "enable.idempotence": True,
            "log_level": 3,
        }
    )
    producer.list_topics(order.requests, timeout=READY_S)
    due_s = order.due_s()
    late_s = np.zeros(len(due_s))
    pipe.send("ready")
    start_s = pipe.recv()
    for number, at_s in enumerate(due_s):
        value = requests.value(number)
        if (wait_s := start_s + at_s - time.monotonic()) > 0:
            time.sleep(wait_s)
        late_s[number] = time.monotonic() - start_s - at_s
        while True:
            try:
                producer.produce(order.requests, value, str(number), partition=number % order.partitions)
                break
            except BufferError:
                producer.poll(0.01)
        producer.poll(0)
    if producer.flush(PATIENCE_S):
        raise SystemExit("not all requests could be sent")
    pipe.send(late_s)


def _receive(order: Order, pipe: Connection) -> None:
    settings = {"bootstrap.servers": order.bootstrap_servers, "group.id": "reader", "enable.auto.commit": False}
    came_s = np.full(len(order.due_s()), np.nan)
    with closing(Consumer(settings)) as consumer:
        consumer.assign([TopicPartition(order.answers, partition, 0) for partition in range(order.partitions)])
        consumer.poll(0.5)  # looks up who leads the partitions
        pipe.send("ready")
        start_s = pipe.recv()
        end_s = start_s + order.seconds * 1.2 + PATIENCE_S
        left, duplicates = len(came_s), 0
        while left and time.monotonic() < end_s:
            message = consumer.poll(0.1)
            now_s = time.monotonic()
            if message is None or message.error() is not None or message.key() == PROBE.encode():
                continue
            number = int(message.key() or b"0")
            if np.isnan(came_s[number]):
                came_s[number] = now_s
                left -= 1
            else:
                duplicates += 1
    pipe.send((came_s, duplicates))
