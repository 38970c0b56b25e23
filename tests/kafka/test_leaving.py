"""Who leaves the group in order says so, and does not wait for ever to be let go."""

from __future__ import annotations

import logging

import pytest

from tests.kafka.test_at_least_once import Site
from worker.kafka import consumer
from worker.kafka.caution import RUN


def settled(site: Site) -> None:
    for partition in (0, 1):
        entries = site.take(2, partition)
        site.publish(*entries)
        site.acknowledge(*entries)
    site.go_on()
    assert all(site.member.metadata[partition].startswith(RUN) for partition in (0, 1))


def test_a_rebalance_behind_the_last_commit_does_not_take_back_that_nobody_died() -> None:
    """The members of one worker leave together: while one waits, the group may give its partitions to another."""
    site = Site(partitions=2)
    settled(site)
    site.mode.commit()
    assert site.member.metadata == {0: "", 1: ""}
    site.member.rebalances.append(("on_revoke", [0]))
    site.mode.stay(0.01)
    site.mode.close()
    assert site.member.metadata == {0: "", 1: ""}


def test_a_group_that_does_not_let_go_is_left_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(consumer, "CLOSE_TIMEOUT_S", 0.05)
    site = Site()
    site.mode.commit()
    site.member.may_leave.clear()
    with caplog.at_level(logging.WARNING):
        site.mode.close()
    assert "does not let us go" in caplog.text
    site.member.may_leave.set()
