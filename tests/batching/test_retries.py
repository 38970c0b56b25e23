"""Requests of a failed batch, run again."""

from __future__ import annotations

from tests.batching.bench import Bench, row
from worker.records import Request


def halves(bench: Bench, *values: float) -> list[Request]:
    """Requests that were in a batch which failed."""
    for value in values:
        assert bench.add(row(value))
    (batch,) = bench.due(everything=True)
    batch.lane.release()
    return batch.requests


def test_retried_requests_run_as_a_batch_of_their_own() -> None:
    """Not among new requests: else a guilty one would be tried with ever new neighbours."""
    bench = Bench()
    requests = halves(bench, 1, 2, 3)
    bench.add(row(9))
    bench.batcher.retry(requests[:2])
    waited = bench.batcher.has_retries
    (batch,) = bench.due()
    assert (waited, bench.batcher.has_retries) == (True, False)
    assert batch.requests == requests[:2]
    assert bench.launch(batch).inputs[0].tolist() == [[1, 1], [2, 2]]


def test_retries_leave_at_once_in_the_order_they_were_given() -> None:
    bench = Bench(lanes=3)
    requests = halves(bench, 1, 2, 3)
    bench.batcher.retry(requests[:1])
    bench.batcher.retry(requests[1:])
    assert [batch.requests for batch in bench.due()] == [requests[:1], requests[1:]]


def test_retries_wait_for_lanes_and_take_them_before_new_requests() -> None:
    """A filling batch leaves early to make room for one."""
    bench = Bench(lanes=1)
    requests = halves(bench, 1, 2)
    bench.add(row(9))
    bench.batcher.retry(requests)
    (batch,) = bench.due()
    assert batch.requests[0] not in requests
    assert bench.batcher.has_retries
    assert bench.due() == []
    batch.lane.release()
    assert [batch.requests for batch in bench.due()] == [requests]


def test_abandoned_retries_are_forgotten() -> None:
    """Those of revoked partitions; their batch-mates stay."""
    bench = Bench()
    requests = halves(bench, 1, 2, 3)
    bench.batcher.retry(requests[:2])
    bench.batcher.retry(requests[2:])
    bench.batcher.abandon(lambda request: request in requests[1:])
    (batch,) = bench.due()
    assert batch.requests == requests[:1]
    assert not bench.batcher.has_retries
