"""The other side of the broker: requests by the clock, answers read, latencies told. A process of its own.

python -m worker.tuning.traffic ORDER.json    prints one JSON object; see through_kafka.py
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from worker.tuning.measurement import percentiles_ms
from worker.tuning.open_loop import schedule_s

READ_S = 0.001  # between two looks at the clock
WARM_UP_S = 0.5
PATIENCE_S = 10.0  # after the last request


class Traffic:
    """Sends what is due and reads what has come; one thread calls it."""

    def __init__(self, order: Mapping[str, Any], values: list[bytes]) -> None:
        self._order, self._values = order, values
        servers = {"bootstrap.servers": order["bootstrap_servers"], "log_level": 2}
        self._producer = Producer({**servers, "linger.ms": 1, "queue.buffering.max.messages": 1_000_000})
        self._reader = Consumer(
            {**servers, "group.id": "trt-worker-tune-reader", "enable.auto.commit": False, **order["consumer"]}
        )
        results = order["results"]
        found = self._reader.list_topics(results, PATIENCE_S).topics[results].partitions
        self._reader.assign([TopicPartition(results, partition, 0) for partition in found])
        self._due_s = schedule_s(order["rate"], WARM_UP_S + order["seconds"], order["arrivals"], order["seed"])
        self._latency_s: dict[int, float] = {}
        self._start_s = 0.0

    def run(self) -> dict[str, Any]:
        """Send all, read all, or give up on what is missing."""
        self._reader.poll(0.5)  # connects
        self._start_s = time.perf_counter()
        sent, count, due_s = 0, len(self._due_s), self._due_s
        until_s = due_s[-1] + PATIENCE_S
        while len(self._latency_s) < count and (now_s := time.perf_counter() - self._start_s) < until_s:
            while sent < count and due_s[sent] <= now_s and self._send(sent):
                sent += 1
            self._producer.poll(0)
            gap_s = max(0.0, due_s[sent] - now_s) if sent < count else READ_S
            self._read(min(READ_S, gap_s))
        self._producer.purge()
        self._reader.close()
        counted = {number: latency for number, latency in self._latency_s.items() if due_s[number] >= WARM_UP_S}
        last_s = max((due_s[number] + latency for number, latency in counted.items()), default=WARM_UP_S)
        return {
            "sent": count - sum(due < WARM_UP_S for due in due_s),
            "answered": len(counted),
            "answered_per_s": len(counted) / max(last_s - WARM_UP_S, 1e-6),
            "latency_ms": percentiles_ms(list(counted.values())),
        }

    def _send(self, number: int) -> bool:
        """False where the producer is full: the request goes late, and its latency counts that."""
        try:
            self._producer.produce(
                self._order["requests"], self._values[number % len(self._values)], key=number.to_bytes(4, "big")
            )
        except BufferError:
            return False
        return True

    def _read(self, timeout_s: float) -> None:
        first = self._reader.poll(timeout_s)
        if first is None:
            return
        now_s = time.perf_counter() - self._start_s
        for message in (first, *self._reader.consume(1000, 0)):
            self._note(message, now_s)

    def _note(self, message: Message, now_s: float) -> None:
        key = message.key()
        if message.error() is None and isinstance(key, bytes):
            number = int.from_bytes(key, "big")
            self._latency_s.setdefault(number, now_s - self._due_s[number])


def main(order_file: Path) -> None:
    order = json.loads(order_file.read_text())
    with np.load(order["values"]) as archive:
        values = [archive[name].tobytes() for name in archive.files]
    sys.stdout.write(json.dumps(Traffic(order, values).run()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
