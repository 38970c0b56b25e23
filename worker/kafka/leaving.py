"""Leaving a group within a time: the clients' own wait for the cluster's word on it knows no deadline."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from confluent_kafka import Consumer, ShareConsumer

from worker.deadline import Deadline


def close_within(timeout_s: float, clients: Iterable[Consumer | ShareConsumer]) -> bool:
    """Close these clients, all at once; False where one was not done in time, and is left to itself."""
    deadline = Deadline(timeout_s)
    leaving = [threading.Thread(target=client.close, name="leaving", daemon=True) for client in clients]
    for thread in leaving:
        thread.start()
    for thread in leaving:
        thread.join(deadline.left_s)
    return not any(thread.is_alive() for thread in leaving)
