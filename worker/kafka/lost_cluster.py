"""A client that has lost its cluster for good: others are answered, it is not, and no waiting mends it.

A cluster that comes back as a whole may name no broker at all in its first answers. librdkafka (2.13 to 2.16 at least,
its issue 5301) takes that at its word, forgets every broker, and never asks again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

ASK_AFTER_S = 10.0  # without any broker that a client knows of; then others are asked
RECONNECT_S = 20.0  # time for a client to find the way back by itself, once others are answered


class LostCluster:
    """Looks at what the clients say of themselves. One thread calls note()."""

    def __init__(self, is_answered: Callable[[], bool]) -> None:
        """Args:
        is_answered: whether a new client gets an answer that names brokers; may take seconds, so a thread calls it.
        """
        self._is_answered = is_answered
        self._since_s: dict[str, float] = {}  # client -> when it was first seen without any broker
        self._answered_s: float | None = None  # when a new client was answered
        self._asking: threading.Thread | None = None

    def note(self, client: str, knows_brokers: bool) -> bool:
        """Whether this client is lost, after this report of it."""
        now_s = time.monotonic()
        if knows_brokers:
            self._since_s.pop(client, None)
            return False
        since_s = self._since_s.setdefault(client, now_s)
        if now_s - since_s < ASK_AFTER_S:
            return False
        if self._answered_s is None or self._answered_s < since_s:
            self._ask()
            return False
        return now_s - self._answered_s > RECONNECT_S

    def _ask(self) -> None:
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._run, name="lost-cluster", daemon=True)
            self._asking.start()

    def _run(self) -> None:
        if self._is_answered():
            self._answered_s = time.monotonic()
