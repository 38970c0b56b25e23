"""Clients that have lost the cluster for good: no waiting brings them back, though it may answer others.

A cluster that goes down may name no broker in its last answer. librdkafka (2.13 to 2.16 at least, its issue 5301) takes
that at its word, forgets every address that it had, those of bootstrap.servers among them, and never asks again. Only a
new client helps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

LOST_AFTER_S = 5.0  # without any address; who begins again from bootstrap.servers has them back at once
ADDRESSES = frozenset(("configured", "learned"))  # the other brokers in a report have none of their own


class LostClients:
    """Looks at what the clients report of themselves."""

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}  # client -> its own time of the first report without an address
        self.names: frozenset[str] = frozenset()

    def note(self, client: str, report: Mapping[str, Any]) -> None:
        """Learn from a client's statistics whether it is lost."""
        if any(broker.get("source") in ADDRESSES for broker in report.get("brokers", {}).values()):
            self._since_s.pop(client, None)
            return
        now_s = report["ts"] / 1e6  # reports may come late, several at once
        if now_s - self._since_s.setdefault(client, now_s) >= LOST_AFTER_S and client not in self.names:
            log.warning("the %s has lost the cluster for good, a fault of its library: it is replaced", client)
            self.names |= {client}

    def forget(self, client: str) -> None:
        """Another one has taken its place."""
        self._since_s.pop(client, None)
        self.names -= {client}
