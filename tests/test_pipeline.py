"""The loop, with a backend that does what a script says and a delivery in memory."""

from __future__ import annotations

import random
import time
from typing import Any

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from tests.pipeline_rig import GUILTY, Rig, fails_on
from tests.records import floats, model_of, packed, request_bytes, request_of, spec, tensor
from tests.scripted_backend import (
    Action,
    Answer,
    Arrays,
    Batch,
    Fail,
    Hang,
    always,
)
from worker.metrics import Metrics
from worker.sections import PadSettings


def test_every_request_gets_its_own_answer() -> None:
    """Rows of 30 requests of one to four rows, through shared batches and back."""
    rig = Rig()
    sent = {rig.ask(number, rows=1 + number % 4, partition=number % 3): number for number in range(30)}
    rig.turn_until_all_ended()
    for source, number in sent.items():
        assert rig.rows_of(source).tolist() == [[number, number]] * (1 + number % 4)
    assert rig.delivery.refusals == {}
    assert rig.backend.launched < 30
    assert rig.is_at_rest()


def test_batches_may_end_in_any_order() -> None:
    """The first is the slowest; each answer still goes to the request that asked."""
    delays = iter([0.12, 0.06, 0.01, 0.0])
    rig = Rig(lambda _batch: Answer(next(delays)), lanes=4, max_rows=2)
    sources = [rig.ask(number) for number in range(8)]
    rig.turn_until_all_ended()
    assert rig.delivery.order == [*sources[6:], *sources[4:6], *sources[2:4], *sources[:2]]
    assert [rig.rows_of(source)[0, 0] for source in sources] == list(range(8))


def test_a_partial_batch_leaves_in_time() -> None:
    """The poll never sleeps past the age of the oldest record, though nothing else is there to do."""
    rig = Rig(max_delay_s=0.02)
    took_s = []
    for number in range(1, 6):
        rig.ask(number)
        took_s.append(rig.turn_until(lambda count=number: rig.delivery.ended == count))  # type: ignore[misc]
    assert 0.015 < min(took_s) < 0.05


def test_a_full_batch_does_not_wait() -> None:
    rig = Rig(max_delay_s=30.0)
    for number in range(4):
        rig.ask(number)
    assert rig.turn_until(lambda: rig.delivery.ended == 4) < 1.0


def test_an_idle_loop_sleeps() -> None:
    """Ten turns a second at most, next to no processor time."""
    rig = Rig()
    takes, cpu_s = rig.delivery.takes, time.process_time()
    rig.turn_for(0.5)
    assert rig.delivery.takes - takes <= 6
    assert time.process_time() - cpu_s < 0.1


def test_a_bert_like_model_answers_in_the_requests_own_length() -> None:
    """Sequences of different length share a batch; what was filled in is cut off the answer again."""
    axes = ("batch", "sequence")
    model = model_of(
        spec("ids", "INT64", (-1, -1), axes),
        spec("mask", "INT64", (-1, -1), axes),
        outputs=(spec("hidden", "FP32", (-1, -1), axes), spec("pooled", "FP32", (-1, 1), ("batch", ""))),
    )

    def bert(inputs: Arrays) -> Arrays:
        ids, mask = inputs
        return [(ids * 10).astype(np.float32), (ids * mask).sum(axis=1, keepdims=True).astype(np.float32)]

    pad = {name: PadSettings(axis=1, value=value, buckets=(4, 8)) for name, value in {"ids": 99, "mask": 0}.items()}
    rig = Rig(model=model, pad=pad, compute=bert)
    sources = {}
    for length in (2, 4, 3, 1):
        ids, mask = np.arange(1, length + 1, dtype=np.int64)[None], np.ones((1, length), np.int64)
        sources[length] = rig.delivery.send(packed(request_of(tensor("ids", ids), tensor("mask", mask))))
    rig.turn_until_all_ended()
    assert rig.backend.launched == 1
    for length, source in sources.items():
        assert rig.rows_of(source, 0).tolist() == [[10.0 * number for number in range(1, length + 1)]]
        assert rig.rows_of(source, 1).tolist() == [[length * (length + 1) / 2]]


def in_ms(seconds: float) -> float:
    return (time.time() + seconds) * 1000


def test_a_request_that_expires_while_it_waits_for_a_lane_is_not_run() -> None:
    """It is answered `expired` while the lane is still taken."""
    rig = Rig(always(Hang()), lanes=1, max_rows=1)
    rig.ask(1)
    rig.turn_until(lambda: rig.backend.launched == 1)
    waiting = rig.ask(2, id="late", parameters={"expires_at_ms": in_ms(0.1)})
    rig.turn_until(lambda: rig.delivery.taken == 2)
    assert rig.delivery.ended == 0
    rig.turn_until(lambda: rig.delivery.ended == 1)
    assert rig.delivery.refusals[waiting][0] == "expired"
    assert msgpack.unpackb(rig.delivery.values[waiting])["id"] == "late"
    rig.backend.wake()
    rig.turn_until_all_ended()
    assert rig.backend.launched == 1


def test_a_request_in_time_is_run() -> None:
    rig = Rig()
    source = rig.ask(1, parameters={"expires_at_ms": in_ms(30)})
    rig.turn_until_all_ended()
    assert set(rig.delivery.answers) == {source}


def samples(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.expose().decode())
        for sample in family.samples
    }


def test_batches_and_retries_are_counted() -> None:
    rig = Rig(fails_on(GUILTY), max_rows=8)
    for number in range(3):
        rig.ask(GUILTY if number == 0 else number)
    rig.turn_until_all_ended()
    got = samples(rig.metrics)
    assert [batch.rows for batch in rig.backend.batches] == [3, 1, 2]
    assert got["trt_worker_batch_rows_count"] == 3
    assert got["trt_worker_batch_rows_sum"] == 6
    assert (
        got["trt_worker_batches_total{1}"],
        got["trt_worker_batches_total{2}"],
        got["trt_worker_batches_total{4}"],
    ) == (1, 1, 1)
    assert got["trt_worker_retries_total{batch_failed}"] == 1
    assert got["trt_worker_batch_fill_ratio_sum"] == pytest.approx(6 / 8)
    for stage in ("wait", "decode", "gather", "compute", "encode", "publish"):
        assert got[f"trt_worker_stage_seconds_count{{{stage}}}"] > 0


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        ({"id": "job"}, "job"),
        ({}, "requests/0/0"),
        ({"id": "late", "parameters": {"expires_at_ms": 1}}, "late"),  # it has expired since
    ],
)
def test_explain_words_an_error_answer_for_a_result_that_was_too_large(fields: dict[str, Any], identity: str) -> None:
    rig = Rig()
    rig.delivery.send(request_bytes(floats((1, 2)), **fields))
    (ticket,) = rig.delivery.take(1, 0.0)
    value, headers, code, message = rig.pipeline.explain(ticket, "too_large", "why")
    assert (code, message) == ("too_large", "why")
    assert msgpack.unpackb(value)["id"] == identity
    assert msgpack.unpackb(value)["error"]["code"] == "too_large"
    assert [name for name, _ in headers] == ["trt-worker-source", "trt-worker-engine"]


@pytest.mark.parametrize("seed", range(4))
def test_in_the_thick_of_it_every_record_ends_once_and_rightly(seed: int) -> None:
    """Good and bad records, guilty ones, several shapes, slow lanes in any order, a producer that is full at times."""
    dice = random.Random(seed)

    def script(batch: Batch) -> Action:
        if batch.has(GUILTY) or dice.random() < 0.05:
            return Fail(after_s=dice.random() * 0.004)
        return Answer(dice.random() * 0.01)

    model = model_of(spec("x", "FP32", (-1, -1)), outputs=(spec("y", "FP32", (-1, -1)),))
    rig = Rig(script, model=model, lanes=3, max_rows=6)
    expected: dict[str, NDArray[np.float32] | None] = {}
    for number in range(400):
        kind = dice.random()
        rows = np.full((dice.randint(1, 4), dice.randint(1, 3)), float(number), np.float32)
        if kind < 0.1:
            expected[rig.delivery.send(dice.randbytes(30), partition=number % 4)] = None
        elif kind < 0.15:
            rows[:] = GUILTY
            expected[rig.delivery.send(request_bytes(rows), partition=number % 4)] = None
        else:
            expected[rig.delivery.send(request_bytes(rows), partition=number % 4)] = rows
        if dice.random() < 0.2:
            rig.delivery.has_room = dice.random() < 0.8
            rig.pipeline.step()
    rig.delivery.has_room = True
    rig.turn_until_all_ended()
    for source, rows_or_none in expected.items():
        if rows_or_none is None:
            assert source in rig.delivery.refusals
        elif source in rig.delivery.refusals:  # alone in its batch when chance had it fail
            assert rig.delivery.refusals[source][0] == "inference_failed"
        else:
            assert (rig.rows_of(source) == rows_or_none).all()
    assert rig.is_at_rest()
