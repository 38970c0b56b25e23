"""What an intake process hears and says, also when something of its own fails."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from worker.intake import link as link_module
from worker.intake.link import Link


class Parent:
    """The engine process's end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._end.settimeout(20)
        self._lines = end.makefile("rb")

    def tell(self, command: Mapping[str, Any]) -> None:
        self._end.sendall(json.dumps(command).encode() + b"\n")

    def hear(self, about: str) -> Any:
        """The next news of this kind; others are passed over."""
        while about not in (news := json.loads(self._lines.readline())):
            pass
        return news

    def close(self) -> None:
        self._lines.close()
        self._end.close()


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Parent, Link]]:
    monkeypatch.setattr(link_module, "CLOSING_S", 3600.0)  # it would end the tests
    ours, its = socket.socketpair()
    parent = Parent(ours)
    with its:
        link = Link(its)
        yield parent, link
        parent.close()
        link._thread.join(20)  # it must not come to its end without the patch
        assert not link._thread.is_alive()


def failing() -> Any:
    raise RuntimeError("deque mutated during iteration")


def test_a_report_that_fails_costs_neither_the_next_one_nor_the_stop(ends: tuple[Parent, Link]) -> None:
    """Every question is answered: the engine process asks the next one only then."""
    parent, link = ends
    stopped = threading.Event()
    link.stop, link.report = stopped.set, failing
    link.start()
    parent.tell({"ask": 1})
    assert "report" not in parent.hear("number")
    link.report = lambda: {"records": 3}
    parent.tell({"ask": 2})
    assert parent.hear("number") == {"report": {"records": 3}, "number": 2}
    parent.tell({"stop": True})
    parent.tell({"leave": True})
    assert stopped.wait(20)
    assert link.may_leave.wait(20)


def test_who_can_no_longer_hear_stops_by_itself(ends: tuple[Parent, Link]) -> None:
    """Or nobody could ever end it in order."""
    _, link = ends
    stopped = threading.Event()
    link.stop, link.is_calm = stopped.set, failing
    link.start()
    assert stopped.wait(20)
    assert link.may_leave.wait(20)


def test_when_the_engine_process_is_gone_it_leaves(ends: tuple[Parent, Link]) -> None:
    parent, link = ends
    link.start()
    parent.close()
    assert link.may_leave.wait(20)
