"""A client that no waiting brings back is told from one that waits for its cluster."""

from __future__ import annotations

from typing import Any

import pytest

from worker.kafka.lost_clients import LOST_AFTER_S, LostClients

EVERY_S = 2.0
LOGICAL = {"source": "logical", "nodeid": -1, "state": "TRY_CONNECT"}
WAITING = {"source": "configured", "nodeid": -1, "state": "TRY_CONNECT"}
DOWN = {"source": "learned", "nodeid": 1, "state": "DOWN"}


class Clients:
    """Reports every two seconds, as librdkafka writes them."""

    def __init__(self) -> None:
        self.lost = LostClients()
        self._now_s = 1000.0

    def report(self, seconds: float, *brokers: dict[str, Any], name: str = "consumer") -> bool:
        for _ in range(round(seconds / EVERY_S)):
            self._now_s += EVERY_S
            told = {str(place): broker for place, broker in enumerate(brokers)}
            self.lost.note(name, {"ts": int(self._now_s * 1e6), "brokers": told})
        return name in self.lost.names


@pytest.fixture
def clients() -> Clients:
    return Clients()


@pytest.mark.parametrize("broker", [WAITING, DOWN])
def test_who_has_an_address_waits_however_long(clients: Clients, broker: dict[str, Any]) -> None:
    assert not clients.report(3600, LOGICAL, broker)


@pytest.mark.parametrize("brokers", [[], [LOGICAL]], ids=["none", "logical"])
def test_who_has_none_is_lost(clients: Clients, brokers: list[dict[str, Any]]) -> None:
    assert not clients.report(LOST_AFTER_S - 1, *brokers)
    assert clients.report(2 * EVERY_S, *brokers)


def test_who_begins_again_is_not_lost(clients: Clients) -> None:
    for _ in range(100):
        assert not clients.report(LOST_AFTER_S - 1, LOGICAL)
        assert not clients.report(EVERY_S, LOGICAL, WAITING)


def test_a_new_client_of_the_same_name_has_its_own_time(clients: Clients) -> None:
    assert clients.report(60, LOGICAL)
    clients.lost.forget("consumer")
    assert not clients.report(LOST_AFTER_S - 1, LOGICAL)
    assert not clients.report(60, WAITING)


def test_each_client_is_judged_by_itself(clients: Clients) -> None:
    clients.report(60, LOGICAL)
    assert not clients.report(60, WAITING, name="producer")
    assert clients.lost.names == {"consumer"}
    clients.lost.forget("producer")
    assert clients.lost.names == {"consumer"}
