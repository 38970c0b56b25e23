"""Workers joining, leaving and dying under load: at_least_once on real Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kafka_server import KafkaCluster
from tests.system.conftest import PARTITIONS, Site
from tests.system.traffic import committed, lag, publish, request

CLASSIC: dict[str, str] = {}
NEW_PROTOCOL = {"group.protocol": "consumer"}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("protocol", [CLASSIC, NEW_PROTOCOL], ids=["classic", "consumer"])
def test_a_member_joins_and_one_leaves_and_every_id_is_answered_once(site: Site, protocol: dict[str, str]) -> None:
    """100,000 requests in a steady flow; a handover drains and commits, so it costs no duplicate and no order."""
    kafka_settings = {"consumer": protocol}
    count, rate = 100_000, 6_000.0
    reader = site.reader()
    first = site.worker("first", kafka=kafka_settings).start().await_ready()
    second = site.worker("second", kafka=kafka_settings)
    has_left = threading.Event()

    def values() -> Iterator[bytes]:
        """The last fifth comes after the leaving, however slow the machine is."""
        for number in range(count):
            if number == count * 4 // 5:
                assert has_left.wait(150)
            yield request(number)

    with ThreadPoolExecutor() as pool:
        publishing = pool.submit(publish, site.servers, site.input_topic, values(), PARTITIONS, rate)
        reader.read(until=count // 10, timeout_s=120)
        second.start().await_ready()
        reader.read(until=count * 2 // 5, timeout_s=120)
        assert len(reader.answers.times) < count * 4 // 5, "it left too late to prove anything"
        assert first.terminate() == 0
        has_left.set()
        answers = reader.read(until=count, timeout_s=200, quiet_s=2)
        published = publishing.result()

    assert len(answers.times) == count
    assert answers.duplicates == 0
    assert answers.wrong == []
    assert answers.out_of_order() == 0
    assert second.terminate() == 0
    assert lag(site.servers, site.group, published) == 0


@pytest.mark.timeout(200)
def test_a_killed_worker_loses_nothing_and_doubles_only_what_was_not_committed(site: Site) -> None:
    """kill -9 midway: the successor reads again exactly what was published behind the last commit."""
    count = 60_000
    published = publish(site.servers, site.input_topic, (request(n) for n in range(count)), PARTITIONS)
    reader = site.reader()
    quick = {"consumer": {"session.timeout.ms": 6000}}
    first = site.worker("first", kafka=quick).start().await_ready()
    reader.read(until=count // 4, timeout_s=100)
    first.kill()
    before = reader.read(until=0, timeout_s=60, quiet_s=1)
    assert len(before.times) < count, "it was killed too late to prove anything"
    done = committed(site.servers, site.group)
    uncommitted = sum(
        sum(offset >= done.get(partition, 0) for offset in offsets) for partition, offsets in before.sources.items()
    )
    second = site.worker("second", kafka=quick).start().await_ready()
    answers = reader.read(until=count, timeout_s=150, quiet_s=2)

    assert len(answers.times) == count
    assert answers.duplicates == uncommitted
    assert answers.wrong == []
    assert answers.out_of_order() == 0
    assert second.terminate() == 0
    assert lag(site.servers, site.group, published) == 0


@pytest.mark.timeout(300)
def test_a_broker_that_is_gone_for_ten_seconds_needs_no_hand(site: Site, kafka: KafkaCluster) -> None:
    """The worker waits for the broker, goes on by itself, and says meanwhile that it is not ready."""
    count = 100_000
    published = publish(site.servers, site.input_topic, (request(number) for number in range(count)), PARTITIONS)
    worker = site.worker().start().await_ready()
    site.reader().read(until=count // 10, timeout_s=100)
    worker.process.suspend()  # or it could be done before the broker is gone
    begun = site.reader().read(until=count, timeout_s=5)
    kafka.stop()
    worker.process.resume()
    time.sleep(10)
    assert worker.get("/readyz")[0] == 503
    assert worker.get("/healthz")[0] == 200
    kafka.start()
    reader = site.reader()  # a new one: the old one may have lost the cluster, too
    answers = reader.read(until=count, timeout_s=150, quiet_s=2)

    assert count // 10 <= len(begun.times) < count, "nobody waited for the broker"
    assert len(answers.times) == count
    assert answers.wrong == []
    assert answers.out_of_order() == 0
    assert worker.await_ready().terminate() == 0
    assert lag(site.servers, site.group, published) == 0
