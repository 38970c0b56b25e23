"""How a transaction ends, and what is made of each end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from tests.conftest import MakeTopic
from tests.kafka.transactional_client import TransactionalClient
from tests.kafka_server import KafkaCluster
from tests.records import FakeRecord
from worker.errors import KafkaRefused
from worker.kafka import transactions
from worker.kafka.connection import Connection
from worker.kafka.ledger import PartitionLedger, Reports
from worker.kafka.transactions import FENCES_ALLOWED, Outcome, Transactions
from worker.sections import KafkaSettings

OFFSETS = [TopicPartition("requests", 0, 7)]
AGAIN = KafkaError(KafkaError._TIMED_OUT_QUEUE, "try again", retriable=True)
ABORT = KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "somebody else's", txn_requires_abort=True)
UNKNOWN = KafkaError(KafkaError._TIMED_OUT, "no answer")
FENCED = KafkaError(KafkaError._FENCED, "fenced", fatal=True)
DENIED = KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "not you")


class Site:
    """A transactional producer and all the clients that it opened."""

    lost = frozenset[str]()

    def __init__(self) -> None:
        self.clients: list[TransactionalClient] = []
        self.on_open: Callable[[TransactionalClient], None] = lambda _client: None
        settings = KafkaSettings(
            bootstrap_servers="nowhere:1", group_id="group", input_topics=("requests",), output_topic="results"
        )
        self.transactions = Transactions(settings, cast("Connection", self), "group-0", 0.1)

    def open_client(self, _kind: object, _name: str, defaults: Any, own: Any, **_options: bool) -> TransactionalClient:
        self.clients.append(TransactionalClient({**defaults, **own}))
        self.on_open(self.clients[-1])
        return self.clients[-1]

    @property
    def client(self) -> TransactionalClient:
        return self.clients[-1]

    def outcome(self) -> Outcome:
        assert self.transactions.wait(30)
        return self.transactions.finish()

    def commit(self) -> Outcome:
        self.transactions.begin()
        self.transactions.commit(OFFSETS, "who we are")
        assert self.transactions.is_busy
        return self.outcome()

    def recover(self, how: Outcome) -> Outcome:
        self.transactions.recover(how)
        return self.outcome()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(transactions, "RETRY_S", 0.001)
    site = Site()
    site.transactions.start(1.0)
    site.client.calls.clear()
    yield site
    for client in site.clients:
        client.may_go_on.set()


def test_offsets_are_sent_before_the_commit(site: Site) -> None:
    assert site.commit() is Outcome.COMMITTED
    assert site.client.calls == ["begin", "offsets", "commit"]
    assert site.client.offsets == OFFSETS
    assert not site.transactions.is_busy


@pytest.mark.parametrize("call", ["offsets", "commit"])
def test_a_call_that_may_be_repeated_is(call: str, site: Site) -> None:
    site.client.troubles[call] = [AGAIN, AGAIN]
    assert site.commit() is Outcome.COMMITTED
    assert site.client.calls.count(call) == 3


@pytest.mark.parametrize(
    ("trouble", "outcome"), [(ABORT, Outcome.REFUSED), (UNKNOWN, Outcome.BROKEN), (FENCED, Outcome.FENCED)]
)
@pytest.mark.parametrize("call", ["offsets", "commit"])
def test_each_trouble_has_its_outcome(call: str, trouble: KafkaError, outcome: Outcome, site: Site) -> None:
    site.client.troubles[call] = [trouble]
    assert site.commit() is outcome


def test_what_was_refused_is_aborted_and_the_producer_stays(site: Site) -> None:
    site.client.troubles["commit"] = [ABORT]
    assert site.recover(site.commit()) is Outcome.COMMITTED
    assert len(site.clients) == 1
    assert site.client.calls[-1] == "abort"
    assert site.commit() is Outcome.COMMITTED


@pytest.mark.parametrize("trouble", [UNKNOWN, FENCED])
def test_a_producer_whose_transaction_is_in_doubt_is_replaced(trouble: KafkaError, site: Site) -> None:
    """Its successor ends what it left open, whichever way, before anything is read again."""
    site.client.troubles["commit"] = [trouble]
    assert site.recover(site.commit()) is Outcome.COMMITTED
    old, new = site.clients
    assert "abort" not in old.calls
    assert new.calls == ["init"]
    assert site.commit() is Outcome.COMMITTED


def test_an_abort_that_fails_costs_the_producer(site: Site) -> None:
    site.client.troubles["abort"] = [UNKNOWN]
    assert site.recover(Outcome.REFUSED) is Outcome.COMMITTED
    assert [client.calls[0] for client in site.clients] == ["abort", "init"]


def test_a_call_that_does_not_return_is_left_behind(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old client is not touched again: that call would not return either."""
    monkeypatch.setattr(transactions, "CALL_TIMEOUT_S", 0.05)
    monkeypatch.setattr(transactions, "STUCK_S", 0.05)
    stuck = site.client
    site.transactions.begin()
    stuck.may_go_on.clear()
    site.transactions.commit(OFFSETS, "who we are")
    assert site.outcome() is Outcome.BROKEN
    assert stuck.calls == ["begin", "offsets"]
    assert len(site.clients) == 2
    assert site.recover(Outcome.BROKEN) is Outcome.COMMITTED
    assert site.client.calls == ["init"]


def test_a_transaction_on_purpose_is_aborted_after_its_offsets_were_sent(site: Site) -> None:
    site.transactions.should_abort = lambda: True
    assert site.commit() is Outcome.REFUSED
    assert site.client.calls == ["begin", "offsets"]


def test_batches_that_were_too_large_shrink_with_the_next_producer(site: Site) -> None:
    assert site.recover(Outcome.TOO_LARGE) is Outcome.COMMITTED
    assert "batch.size" not in site.clients[0].config
    assert site.client.config["batch.size"] == 250_000


def test_who_is_fenced_again_and_again_gives_up(site: Site) -> None:
    for _ in range(FENCES_ALLOWED - 1):
        assert site.recover(Outcome.FENCED) is Outcome.COMMITTED
    with pytest.raises(KafkaRefused, match="give every worker its own"):
        site.recover(Outcome.FENCED)


def test_fences_long_ago_do_not_count(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "FENCES_WITHIN_S", 0.0)
    for _ in range(2 * FENCES_ALLOWED):
        assert site.recover(Outcome.FENCED) is Outcome.COMMITTED


def test_a_cluster_that_refuses_the_id_ends_it_at_once(site: Site) -> None:
    site.on_open = lambda client: client.troubles["init"].append(DENIED)
    with pytest.raises(KafkaRefused, match=r"delivery\.transactional_id is group-0.*not you"):
        site.recover(Outcome.BROKEN)


def test_an_absent_cluster_is_asked_again(site: Site) -> None:
    site.on_open = lambda client: client.troubles["init"].extend([AGAIN, AGAIN])
    assert site.recover(Outcome.BROKEN) is Outcome.COMMITTED
    assert site.client.calls == ["init", "init", "init"]


def test_an_open_transaction_is_aborted_at_the_end(site: Site) -> None:
    """Readers would wait for its timeout."""
    site.transactions.begin()
    site.transactions.close(is_open=True)
    assert site.client.calls == ["begin", "abort", "purge"]


def test_a_client_that_is_fenced_at_the_end_changes_nothing(site: Site) -> None:
    """It tells of that in place of its last reports; the reason why the process ends must not be lost for that."""

    def report() -> None:
        raise KafkaException(FENCED)

    site.client.report = report
    site.transactions.close(is_open=False)
    assert site.client.calls == ["purge"]


@pytest.mark.broker
def test_a_client_that_learns_at_the_end_that_it_was_fenced_changes_nothing(
    kafka: KafkaCluster, topics: MakeTopic
) -> None:
    """With the report of what it had to send; librdkafka's flush() would then raise what is no exception."""
    topic = topics("results")
    settings = KafkaSettings(
        bootstrap_servers=kafka.bootstrap_servers, group_id="group", input_topics=("requests",), output_topic=topic
    )
    fenced, other = (Transactions(settings, Connection(settings), f"{topic}-0", 0.1) for _ in range(2))
    fenced.start(30.0)
    fenced.begin()
    other.start(30.0)
    (entry,) = PartitionLedger("requests", 0, reports := Reports()).admit([FakeRecord(b"value")])
    entry.answer([(topic, b"answer", None, [])])
    fenced.producer.produce(topic, b"answer", on_delivery=entry.delivered)  # one: the next might be refused already
    time.sleep(0.5)  # the cluster tells it so, and it keeps that for the next call
    assert reports.failed == []
    fenced.close(is_open=False)
    assert [failure.entry for failure in reports.failed] == [entry]
    other.close(is_open=False)


def test_a_call_that_raises_what_is_no_exception_leaves_the_outcome_unknown(site: Site) -> None:
    """What librdkafka's own flush() can do, inside of a commit or an abort; nobody waits until it looks stuck."""
    site.transactions.should_abort = sys.exit
    assert site.commit() is Outcome.BROKEN
    assert site.clients == [site.client], "it was not taken for stuck"
