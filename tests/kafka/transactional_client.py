"""A transactional producer that does as it is told; stands for librdkafka's."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition


def _nothing() -> None: ...


class TransactionalClient:
    """A transactional producer. `troubles` are raised one by one, by the names of the calls."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.calls: list[str] = []
        self.offsets: list[TopicPartition] = []  # of the present transaction
        self.published: list[bytes | None] = []  # in the present transaction
        self.troubles: dict[str, list[KafkaError]] = defaultdict(list)
        self.report: Callable[[], object] = _nothing  # what the next poll has to say
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def init_transactions(self, _timeout_s: float) -> None:
        self._called("init")

    def begin_transaction(self) -> None:
        self.offsets, self.published = [], []
        self._called("begin")

    def send_offsets_to_transaction(self, offsets: list[TopicPartition], _metadata: object, _timeout_s: float) -> None:
        self.offsets = offsets
        self._called("offsets")

    def commit_transaction(self, _timeout_s: float) -> None:
        self._called("commit")

    def abort_transaction(self, _timeout_s: float) -> None:
        self._called("abort")

    def produce(self, _topic: str, value: bytes | None, *_more: Any) -> None:
        if self.troubles["produce"]:
            raise KafkaException(self.troubles["produce"].pop(0))
        self.published.append(value)

    def poll(self, _timeout_s: float) -> None:
        self.report, report = _nothing, self.report
        report()

    def __len__(self) -> int:
        return 0  # all is acknowledged at once

    def purge(self, **_how: bool) -> None:
        self.calls.append("purge")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        assert self.may_go_on.wait(30)
        if self.troubles[name]:
            raise KafkaException(self.troubles[name].pop(0))
