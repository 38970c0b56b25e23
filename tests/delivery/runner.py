"""`trt-worker run` with something wrong on purpose: `python -m tests.delivery.runner CONFIG JSON`.

What the JSON may ask for:

    abort_one_in     exactly_once: of so many transactions, one is aborted after its offsets were sent
    mutant           a worker that breaks the promise, for the tests of the tests:
                     exactly_once: no_rewind | early_commit; at_least_once: unacknowledged
    lose             clients (consumer, producer, …) that are found lost, each at its third report and at its sixth
    batches          a scripted backend in place of ONNX Runtime: {"raise" | "abort" | "hang": value of a row}
"""

from __future__ import annotations

import faulthandler
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from confluent_kafka import TopicPartition

from tests.records import model_of, spec
from tests.scripted_backend import Abort, Action, Answer, Batch, Fail, Hang, ScriptedBackend
from worker import assemble, cli
from worker.config import Settings
from worker.kafka.ledger import Entry
from worker.kafka.lost_clients import LOST_AFTER_S, LostClients
from worker.kafka.publishing import Acknowledged
from worker.kafka.transaction_cycle import State, TransactionCycle

COLUMNS = 144


def abort_one_in(count: int) -> None:
    """Have transactions aborted at random."""
    make = TransactionCycle.__init__
    rng = random.Random(7)

    def make_and_arm(self: TransactionCycle, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        self.transactions.should_abort = lambda: rng.randrange(count) == 0

    TransactionCycle.__init__ = make_and_arm  # type: ignore[method-assign]


def no_rewind(self: TransactionCycle) -> None:
    """Go on reading where the aborted transaction stood."""
    self._reports.failed.clear()
    self._state = State.IDLE


def early_commit(self: TransactionCycle, max_records: int, timeout_s: float) -> list[Entry]:
    """Commit a record as soon as it is read."""
    entries = super(TransactionCycle, self).take(max_records, timeout_s)
    ends = {(entry.ledger.topic, entry.ledger.partition): entry.record.offset() + 1 for entry in entries}
    if ends:
        offsets = [TopicPartition(*place, offset) for place, offset in ends.items()]
        self.consumer._client.commit(offsets=offsets, asynchronous=True)
    return entries


def unacknowledged(self: Acknowledged, sent: Iterable[Entry]) -> None:
    """Let a record be done as soon as the client library has its answer; nobody waits for the broker."""
    for entry in sent:
        entry.is_done = True
        self._reports.done.append(entry)


def lose(names: Iterable[str]) -> None:
    """Have these clients found lost, and those in their place once more."""
    note, reports = LostClients.note, Counter[str]()

    def note_or_lose(self: LostClients, client: str, report: Mapping[str, Any]) -> None:
        note(self, client, report)
        reports[client] += 1
        if client in names and reports[client] in (3, 6):
            for later_s in (0, LOST_AFTER_S):
                note(self, client, {"ts": report["ts"] + later_s * 1e6})

    LostClients.note = note_or_lose  # type: ignore[method-assign]


def scripted(values: dict[str, float]) -> None:
    """Batches that hold certain values do certain things; all others are answered with their inputs."""
    actions: dict[str, Action] = {"raise": Fail("scripted"), "abort": Abort(after_s=0.02), "hang": Hang()}

    def script(batch: Batch) -> Action:
        for name, value in values.items():
            if batch.has(value):
                return actions[name]
        return Answer(after_s=0.002)

    @contextmanager
    def open_backend(settings: Settings) -> Iterator[ScriptedBackend]:
        model = model_of(spec("x", shape=(-1, COLUMNS)), outputs=(spec("y", shape=(-1, COLUMNS)),))
        rows = settings.batching.max_rows
        yield ScriptedBackend(model, script, lanes=3, max_rows=rows, max_bytes=rows * 4 * COLUMNS)

    assemble.open_backend = open_backend


def main() -> None:
    faulthandler.register(signal.SIGUSR1)
    config, options = sys.argv[1], json.loads(sys.argv[2])
    if (count := options.get("abort_one_in")) is not None:
        abort_one_in(count)
    match options.get("mutant"):
        case "no_rewind":
            TransactionCycle._resume = no_rewind  # type: ignore[method-assign]
        case "early_commit":
            TransactionCycle.take = early_commit  # type: ignore[method-assign]
        case "unacknowledged":
            Acknowledged._look_at = unacknowledged  # type: ignore[method-assign]
    lose(options.get("lose", ()))
    if (values := options.get("batches")) is not None:
        scripted(values)
    sys.argv = ["trt-worker", "run", "--config", config]
    cli.main()


if __name__ == "__main__":
    main()
