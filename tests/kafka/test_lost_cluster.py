"""A client that no waiting brings back is told from one that waits for its cluster."""

from __future__ import annotations

import time

import pytest

from worker.kafka.lost_cluster import ASK_AFTER_S, RECONNECT_S, LostCluster


class Site:
    """A clock, a cluster, and reports of a client every two seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.is_up = False
        self.lost = LostCluster(lambda: self.is_up)
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)

    def report(self, seconds: float, *, knows_brokers: bool = False) -> list[bool]:
        told = []
        for _ in range(round(seconds / 2)):
            self.now_s += 2
            told.append(self.lost.note("consumer", knows_brokers))
            if (asking := self.lost._asking) is not None:
                asking.join(20)
        return told


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(monkeypatch)


def test_a_cluster_that_answers_nobody_is_waited_for(site: Site) -> None:
    assert not any(site.report(3600))


def test_who_finds_the_way_back_is_not_lost(site: Site) -> None:
    """Its next attempt may be some seconds away when the cluster answers others already."""
    site.report(600)
    site.is_up = True
    assert not any(site.report(RECONNECT_S))
    assert not any(site.report(60, knows_brokers=True))
    assert not any(site.report(ASK_AFTER_S))  # and the next time it counts from the beginning


def test_who_is_still_without_brokers_when_others_are_answered_is_lost(site: Site) -> None:
    site.report(600)
    site.is_up = True
    told = site.report(RECONNECT_S + 10)
    assert told[-1]
    assert not any(told[: round(RECONNECT_S / 2)])


def test_an_answer_from_before_counts_for_nothing(site: Site) -> None:
    site.is_up = True
    site.report(ASK_AFTER_S + 4)
    site.report(2, knows_brokers=True)
    site.is_up = False
    assert not any(site.report(600))


def test_nobody_is_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch)
    site.is_up = True
    site.report(ASK_AFTER_S - 2)
    assert site.lost._asking is None
    assert time.monotonic() == site.now_s
