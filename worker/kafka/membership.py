"""What the metrics look at in a member of a consumer group or a share group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from worker.kafka.ledger import PartitionLedger


class Membership(Protocol):
    """GroupConsumer and ShareIntake are ones."""

    on_rebalance: Callable[[str], None]  # assign, revoke or lost
    on_commit: Callable[[str], None]  # ok or failed

    @property
    def ledgers(self) -> Mapping[tuple[str, int], PartitionLedger]: ...

    @property
    def is_held(self) -> bool: ...
