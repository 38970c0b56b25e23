"""The rights that docs/security.md gives are enough, and none of them is too much."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tests.pages import section
from tests.security.conftest import PAGE, PARTITIONS, Guard, Rights
from tests.security.guarded_kafka import Right
from tests.security.last_words import last_words
from tests.system.traffic import Reader, committed, publish, request
from tests.system.worker_process import WorkerProcess

pytestmark = pytest.mark.broker

EVERY, TRANSACTIONS, SHARES = "every mode", "exactly_once, too", "queue, too"
NEEDED = {"at_least_once": (EVERY,), "exactly_once": (EVERY, TRANSACTIONS), "queue": (EVERY, SHARES)}
NEW_PROTOCOL = {"group.protocol": "consumer"}


def test_the_table_and_the_commands_say_the_same(rights: Rights) -> None:
    lines = [line for line in section(PAGE, "Rights").splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    table = {mode: {f"{row[0]} {row[1]}".lower() for row in rows if row[head.index(mode)] == "yes"} for mode in NEEDED}
    commands = {mode: {str(right) for name in names for right in rights[name]} for mode, names in NEEDED.items()}
    assert table == commands


@pytest.mark.parametrize(
    ("mode", "consumer"),
    [("at_least_once", {}), ("at_least_once", NEW_PROTOCOL), ("exactly_once", {}), ("queue", {})],
    ids=["at_least_once", "at_least_once with the new protocol", "exactly_once", "queue"],
)
def test_a_mode_runs_with_its_rights(mode: str, consumer: dict[str, Any], guard: Guard) -> None:
    """Answers, dead letters, commits and a clean end, without a warning."""
    guard.kafka.allow(guard.needed(*NEEDED[mode]))
    worker = guard.worker(guard.settings(mode, **({"consumer": consumer} if consumer else {}))).await_ready()
    servers = guard.kafka.cluster.bootstrap_servers
    publish(servers, guard.topics[0], [*map(request, range(20)), b"junk"], PARTITIONS)
    reader = Reader(servers, guard.topics[1], PARTITIONS)
    answers = reader.read(until=21, timeout_s=30)
    reader.close()
    assert len(answers.times) == 21
    assert answers.errors == {"malformed": 1}
    assert worker.terminate() == 0
    said = worker.log.read_text(encoding="utf-8")
    assert "uthoriz" not in said
    assert "cannot be read or set" not in said
    if mode != "queue":
        assert sum(committed(servers, guard.group).values()) >= 21


def missing(guard: Guard, mode: str, lost: str) -> tuple[set[Right], Right]:
    """(the rights that are left, the one that is missing) by words of the page's table."""
    rights = guard.needed(*NEEDED[mode])
    (without,) = [right for right in rights if lost in str(right)]
    return rights - {without}, without


LOST = [
    ("at_least_once", "read topic", "grant Read on digits.requests-{mark}"),
    ("at_least_once", "topic digits.results", "grant Write on digits.results-{mark}"),
    ("at_least_once", "topic digits.dead-letters", "grant Write on digits.dead-letters-{mark}"),
    ("at_least_once", "read group", "grant Read on group digits-worker-{mark}"),
    ("exactly_once", "transactional id", "delivery.transactional_id is digits-worker-{mark}-0: .*; grant Write on"),
    ("queue", "read group", "grant Read on group digits-worker-{mark}"),
]


@pytest.mark.parametrize(("mode", "lost", "words"), LOST, ids=lambda part: str(part)[:25])
def test_without_a_right_the_start_is_refused(mode: str, lost: str, words: str, guard: Guard) -> None:
    """One line that names what is missing."""
    guard.kafka.allow(missing(guard, mode, lost)[0])
    assert re.search(words.format(mark=guard.mark), last_words(guard.worker(guard.settings(mode))))


OUTPUT, GROUP = "grant Write on topic digits.results-{mark}", "grant Read on group digits-worker-{mark}"
REVOKED: list[tuple[str, dict[str, str], str, str]] = [
    ("at_least_once", {}, "topic digits.results", OUTPUT),
    ("at_least_once", {}, "read group", GROUP),
    ("exactly_once", {}, "read group", GROUP),
    ("queue", {}, "read group", GROUP),
]
REVOKED_TOO = [
    ("at_least_once", {}, "read topic", "grant Read on topic digits.requests-{mark}"),
    ("at_least_once", {}, "topic digits.dead-letters", "grant Write on topic digits.dead-letters-{mark}"),
    ("at_least_once", NEW_PROTOCOL, "read group", GROUP),
    ("exactly_once", {}, "topic digits.results", OUTPUT),
    ("exactly_once", {}, "transactional id", "grant Write on this transactional id"),
    ("queue", {}, "read topic", "grant Read on topic digits.requests-{mark}"),
    ("queue", {}, "topic digits.results", OUTPUT),
]


@pytest.mark.parametrize(
    ("mode", "consumer", "lost", "words"),
    [*REVOKED, *(pytest.param(*case, marks=pytest.mark.soak) for case in REVOKED_TOO)],
    ids=lambda part: str(part)[:25],
)
def test_a_right_that_is_taken_away_ends_a_running_worker(
    mode: str, consumer: dict[str, Any], lost: str, words: str, guard: Guard
) -> None:
    """With one line and exit code 4; every record that is committed has its answer, and a successor has the rest."""
    rights, revoked = missing(guard, mode, lost)
    guard.kafka.allow([*rights, revoked])
    settings = guard.settings(mode, **({"consumer": consumer} if consumer else {}))
    worker = guard.worker(settings).await_ready()
    servers = guard.kafka.cluster.bootstrap_servers
    reader = Reader(servers, guard.topics[1], PARTITIONS)
    guard.stack.callback(reader.close)
    publish(servers, guard.topics[0], map(request, range(10)), PARTITIONS)
    assert len(reader.read(until=10, timeout_s=30).times) == 10

    guard.kafka.forbid(revoked)
    sent = publish_until_the_end_of(worker, guard, 10)
    assert words.format(mark=guard.mark) in last_words(worker)
    if mode != "queue":
        done = sum(committed(servers, guard.group).values())
        assert done <= len(reader.read(until=1 << 60, timeout_s=1).times)

    guard.kafka.allow([revoked])
    guard.worker(settings, "successor").await_ready()
    answers = reader.read(until=sent + sent - 10, timeout_s=40)
    assert [number for number in range(sent) if str(number) not in answers.times] == []
    assert answers.wrong == []


@pytest.mark.soak
def test_a_worker_that_is_careful_after_a_crash_ends_too(guard: Guard) -> None:
    """It commits before every small group, and would try again at every turn, with a line in the log for each."""
    rights, revoked = missing(guard, "at_least_once", "read group")
    guard.kafka.allow([*rights, revoked])
    servers = guard.kafka.cluster.bootstrap_servers
    reader = Reader(servers, guard.topics[1], PARTITIONS)
    guard.stack.callback(reader.close)
    predecessor = guard.worker(guard.settings(), "predecessor").await_ready()
    publish(servers, guard.topics[0], map(request, range(10)), PARTITIONS)
    assert len(reader.read(until=10, timeout_s=30).times) == 10
    predecessor.kill()
    worker = guard.worker(guard.settings()).await_ready()
    publish(servers, guard.topics[0], map(request, range(10, 20)), PARTITIONS)
    assert len(reader.read(until=20, timeout_s=30).times) == 20
    assert "died at work" in worker.log.read_text(encoding="utf-8")
    guard.kafka.forbid(revoked)
    publish_until_the_end_of(worker, guard, 20)
    assert GROUP.format(mark=guard.mark) in last_words(worker)


def publish_until_the_end_of(worker: WorkerProcess, guard: Guard, first: int) -> int:
    """Requests with consecutive numbers, and junk between them; the number behind the last one."""
    number = first
    deadline_s = time.monotonic() + 30
    while worker.exit_code is None and time.monotonic() < deadline_s:
        publish(guard.kafka.cluster.bootstrap_servers, guard.topics[0], [request(number), b"junk"], PARTITIONS)
        number += 1
        time.sleep(0.2)
    return number
