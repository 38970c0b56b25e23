"""The loop, with a backend that does what a script says and a delivery in memory."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from tests.memory_delivery import MemoryDelivery
from tests.records import floats, model_of, packed, request_bytes, request_of, spec, tensor
from tests.scripted_backend import (
    Action,
    Answer,
    Arrays,
    Batch,
    Break,
    Fail,
    Hang,
    Script,
    ScriptedBackend,
    always,
    echo,
)
from worker import pipeline as pipeline_module
from worker.batching.micro_batcher import MicroBatcher
from worker.codec.decode import RequestDecoder
from worker.codec.encode import ResultEncoder
from worker.errors import FatalError, GpuError
from worker.health import Heartbeat
from worker.metrics import Metrics
from worker.pipeline import Pipeline
from worker.protocols import Backend, Delivery, Lane
from worker.sections import LimitSettings, PadSettings
from worker.tensors import ModelSpec

ECHO = model_of(spec("x"), outputs=(spec("y"),))
GUILTY = 666.0


class Rig:
    """A pipeline with everything around it; steps are taken one by one, on the test's own thread."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        model: ModelSpec = ECHO,
        lanes: int = 2,
        max_rows: int = 4,
        max_delay_s: float = 0.002,
        max_in_flight_batches: int = 64,
        max_in_flight_bytes: int = 1 << 20,
        drain_timeout_s: float = 5.0,
        pad: Mapping[str, PadSettings] | None = None,
        compute: Callable[[Arrays], Arrays] = echo,
    ) -> None:
        self.delivery = MemoryDelivery()
        self.backend = ScriptedBackend(model, script, lanes=lanes, max_rows=max_rows, compute=compute)
        self.metrics, self.heartbeat = Metrics(), Heartbeat()
        delivery: Delivery = self.delivery
        backend: Backend = self.backend
        batcher: MicroBatcher[Lane] = MicroBatcher(
            model, backend.acquire, max_rows=max_rows, max_delay_s=max_delay_s, pad=pad or {}
        )
        self.pipeline = Pipeline(
            delivery=delivery,
            backend=backend,
            decoder=RequestDecoder(model, LimitSettings(), max_rows=max_rows),
            batcher=batcher,
            encoder=ResultEncoder(model),
            metrics=self.metrics,
            heartbeat=self.heartbeat,
            max_in_flight_batches=max_in_flight_batches,
            max_in_flight_bytes=max_in_flight_bytes,
            drain_timeout_s=drain_timeout_s,
        )

    def ask(self, value: float, *, rows: int = 1, partition: int = 0, **fields: Any) -> str:
        """One request whose rows hold this number."""
        return self.delivery.send(request_bytes(np.full((rows, 2), value, np.float32), **fields), partition=partition)

    def turn_until(self, is_reached: Callable[[], bool], timeout_s: float = 10.0) -> float:
        """Step until something holds; the seconds that took."""
        start_s = time.monotonic()
        while not is_reached():
            assert time.monotonic() - start_s < timeout_s, "it did not happen"
            self.pipeline.step()
        return time.monotonic() - start_s

    def turn_for(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.pipeline.step()

    def turn_until_all_ended(self) -> None:
        sent = sum(self.delivery._offsets.values()) + len(self.delivery._offsets)
        self.turn_until(lambda: self.delivery.ended == sent)

    def is_at_rest(self) -> bool:
        """Nothing is held, running or owed."""
        self.pipeline.step()
        return self.backend.busy_lanes == 0 and self.delivery.in_flight() == 0

    def rows_of(self, source: str, output: int = 0) -> NDArray[np.float32]:
        tensor_map = msgpack.unpackb(self.delivery.answers[source])["outputs"][output]
        return np.frombuffer(tensor_map["data"], np.float32).reshape(tensor_map["shape"])


def fails_on(value: float) -> Script:
    return lambda batch: Fail("this input cannot be run") if batch.has(value) else Answer()


# answers


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


# bad records


def test_a_bad_record_never_costs_its_neighbours() -> None:
    """Each kind of bad record between good ones; each is refused with its own code, the good ones are answered."""
    rig = Rig()
    bad = {
        "malformed": b"\xc1 junk",
        "unknown_input": request_bytes(floats((1, 2)), name="z"),
        "missing_input": packed({"inputs": []}),
        "wrong_datatype": request_bytes(np.zeros((1, 2))),
        "wrong_shape": request_bytes(np.zeros((1, 3), np.float32)),
        "too_large": request_bytes(np.zeros((5, 2), np.float32)),
        "expired": request_bytes(floats((1, 2)), parameters={"expires_at_ms": 1000}),
    }
    good, refused = [], {}
    for number, (code, value) in enumerate(bad.items()):
        good.append(rig.ask(number))
        refused[rig.delivery.send(value)] = code
        good.append(rig.ask(number))
    refused[rig.delivery.send(None)] = "malformed"
    rig.turn_until_all_ended()
    assert {source: code for source, (code, _) in rig.delivery.refusals.items()} == refused
    assert set(rig.delivery.answers) == set(good)
    assert rig.is_at_rest()


def test_error_answers_carry_the_requests_id_or_its_source() -> None:
    rig = Rig()
    named = rig.delivery.send(request_bytes(np.zeros((1, 3), np.float32), id="job-1"))
    unnamed = rig.delivery.send(b"\xc1")
    rig.turn_until_all_ended()
    answers = {source: msgpack.unpackb(value) for source, value in rig.delivery.values.items()}
    assert answers[named]["id"] == "job-1"
    assert answers[named]["error"]["code"] == "wrong_shape"
    assert answers[unnamed]["id"] == unnamed


def test_messages_of_refusals_stay_short() -> None:
    """They travel in headers."""
    rig = Rig()
    source = rig.delivery.send(request_bytes(floats((1, 2)), name="n" * 100_000))
    rig.turn_until_all_ended()
    assert len(rig.delivery.refusals[source][1]) <= 1000


# failing batches


def test_a_failing_batch_is_bisected_until_only_the_guilty_request_is_refused() -> None:
    """Eight requests, one guilty: halves, quarters, and the one; not eight single runs."""
    rig = Rig(fails_on(GUILTY), max_rows=8)
    sources = [rig.ask(GUILTY if number == 5 else number) for number in range(8)]
    rig.turn_until_all_ended()
    code, message = rig.delivery.refusals[sources[5]]
    assert (code, message) == ("inference_failed", "this input cannot be run")
    assert set(rig.delivery.answers) == {*sources} - {sources[5]}
    assert [batch.rows for batch in rig.backend.batches] == [8, 4, 4, 2, 2, 1, 1]
    assert rig.is_at_rest()


@pytest.mark.parametrize("guilty", [{0}, {7}, {2, 5}, {0, 1, 2, 3}, set(range(8))])
def test_any_number_of_guilty_requests_is_found(guilty: set[int]) -> None:
    rig = Rig(fails_on(GUILTY), max_rows=8)
    sources = [rig.ask(GUILTY if number in guilty else number) for number in range(8)]
    rig.turn_until_all_ended()
    assert set(rig.delivery.refusals) == {sources[number] for number in guilty}
    assert set(rig.delivery.answers) == {sources[number] for number in range(8) if number not in guilty}
    assert rig.is_at_rest()


def test_a_request_of_several_rows_is_never_cut() -> None:
    rig = Rig(fails_on(GUILTY), max_rows=8)
    sources = [rig.ask(GUILTY, rows=3), rig.ask(1, rows=3), rig.ask(2, rows=2)]
    rig.turn_until_all_ended()
    assert set(rig.delivery.refusals) == {sources[0]}
    assert [batch.rows for batch in rig.backend.batches] == [8, 3, 5]


def test_a_failure_that_passes_costs_nobody() -> None:
    """The same batch, in halves, runs the second time."""
    rig = Rig(lambda batch: Fail() if batch.number == 0 else Answer())
    for number in range(4):
        rig.ask(number)
    rig.turn_until_all_ended()
    assert rig.delivery.refusals == {}
    assert [batch.rows for batch in rig.backend.batches] == [4, 2, 2]


def test_a_failing_batch_runs_again_even_with_a_single_lane_and_traffic_behind_it() -> None:
    """Retries need lanes like everything else; new requests wait for them."""
    rig = Rig(fails_on(GUILTY), lanes=1)
    sources = [rig.ask(GUILTY if number % 7 == 0 else number) for number in range(40)]
    rig.turn_until_all_ended()
    assert set(rig.delivery.refusals) == set(sources[::7])
    assert rig.is_at_rest()


def test_nothing_new_is_taken_while_retries_wait() -> None:
    """They go first; a guilty request must not be pushed behind ever new ones."""
    rig = Rig(lambda batch: Fail() if batch.number == 0 else Hang(), lanes=1)
    for number in range(4):
        rig.ask(number)
    rig.turn_until(lambda: rig.backend.launched == 2)
    for number in range(20):
        rig.ask(number)
    rig.turn_for(0.1)
    assert rig.delivery.taken == 4
    rig.backend.script = always(Answer())
    rig.backend.wake()
    rig.turn_until_all_ended()
    assert rig.delivery.refusals == {}


@pytest.mark.parametrize("rows", [-1, 1])
def test_answers_with_another_number_of_rows_reach_nobody(rows: int) -> None:
    """Better no answer than a neighbour's."""
    rig = Rig(compute=lambda inputs: [np.zeros((len(inputs[0]) + rows, 2), np.float32)])
    sources = [rig.ask(number) for number in range(4)]
    rig.turn_until_all_ended()
    assert {code for code, _ in rig.delivery.refusals.values()} == {"inference_failed"}
    assert set(rig.delivery.refusals) == set(sources)
    assert rig.is_at_rest()


def test_a_shape_that_the_engine_does_not_take_is_refused_alone() -> None:
    model = model_of(spec("x", "FP32", (-1, -1)), outputs=(spec("y", "FP32", (-1, -1)),))
    rig = Rig(model=model)
    rig.backend.cannot_run = lambda row_shapes: "outside the profile" if row_shapes[0][0] > 4 else ""
    good = rig.ask(1)
    bad = rig.delivery.send(request_bytes(np.zeros((1, 5), np.float32)))
    rig.turn_until_all_ended()
    assert set(rig.delivery.answers) == {good}
    assert rig.delivery.refusals[bad][0] == "wrong_shape"
    assert rig.is_at_rest()


def test_an_unusable_backend_ends_the_loop_with_nothing_settled() -> None:
    """What was in flight is not answered and not committed: a new process reads it again."""
    rig = Rig(lambda batch: Break("illegal memory access") if batch.has(GUILTY) else Answer(0.02), max_rows=1)
    rig.ask(GUILTY)
    rig.ask(1)
    with pytest.raises(GpuError, match="illegal memory access") as caught:
        rig.pipeline.run()
    assert isinstance(caught.value, FatalError)
    assert caught.value.exit_code == 5
    assert rig.delivery.ended == 0
    assert rig.delivery.in_flight() == 2
    assert rig.delivery.commits == 0


# expiry


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


# backpressure


def test_what_is_taken_in_stays_bounded_while_lanes_hang() -> None:
    """Lanes full, one intake waiting, the rest stays in Kafka, however much may be in flight."""
    rig = Rig(always(Hang()), max_in_flight_batches=10_000)
    for number in range(2000):
        rig.ask(number)
    rig.turn_for(0.2)
    assert rig.backend.busy_lanes == 2
    assert rig.delivery.taken <= 2 * 4 + pipeline_module.MAX_INTAKE
    rig.backend.script = always(Answer())
    rig.backend.wake()
    rig.turn_until_all_ended()
    assert rig.is_at_rest()


@pytest.mark.parametrize("bound", ["records", "bytes"])
def test_records_that_nobody_acknowledges_stay_bounded(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker is away: answers pile up only as far as the limits in records and in bytes allow."""
    monkeypatch.setattr(pipeline_module, "MAX_INTAKE", 8)
    rig = Rig(max_in_flight_batches=4 if bound == "records" else 1000, max_in_flight_bytes=8000)
    rig.delivery.acknowledges = False
    for _ in range(400 if bound == "records" else 0):
        rig.ask(1)
    for _ in range(400 if bound == "bytes" else 0):
        rig.delivery.send(bytes(1000))  # refused, and still held until that is acknowledged
    rig.turn_for(0.5)
    assert 8 <= rig.delivery.in_flight() <= 4 * 4 + 8
    taken = rig.delivery.taken
    rig.turn_for(0.2)
    assert rig.delivery.taken == taken
    rig.delivery.acknowledges = True
    rig.turn_until_all_ended()


def test_nothing_is_taken_while_the_producer_is_full() -> None:
    """It would only wait in our memory."""
    rig = Rig()
    rig.delivery.has_room = False
    for number in range(20):
        rig.ask(number)
    rig.turn_for(0.1)
    assert rig.delivery.taken == 0
    rig.delivery.has_room = True
    rig.turn_until_all_ended()


def test_finished_batches_stay_in_their_lanes_while_the_producer_is_full() -> None:
    """No second copy of their answers in memory; new ones cannot run meanwhile, so what is held stays bounded."""
    rig = Rig(always(Answer(0.05)))
    for number in range(40):
        rig.ask(number)
    rig.turn_until(lambda: rig.backend.launched == 2)
    rig.delivery.has_room = False
    ended = rig.delivery.ended
    rig.turn_for(0.2)
    assert rig.delivery.ended == ended
    assert rig.backend.launched == 2
    rig.delivery.has_room = True
    rig.turn_until_all_ended()


def test_partitions_are_held_after_a_while_and_polling_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that does not poll is expelled; held, it polls and gets nothing."""
    monkeypatch.setattr(pipeline_module, "HOLD_AFTER_S", 0.2)
    rig = Rig(always(Hang()))
    for number in range(2000):
        rig.ask(number)
    rig.turn_for(0.15)
    assert rig.delivery.holds == []
    rig.turn_until(lambda: rig.delivery.holds == [True])
    takes, taken = rig.delivery.takes, rig.delivery.taken
    rig.turn_for(0.2)
    assert rig.delivery.takes > takes
    assert rig.delivery.taken <= taken + 1
    rig.backend.script = always(Answer())
    rig.backend.wake()
    rig.turn_until(lambda: rig.delivery.holds == [True, False])
    rig.turn_until_all_ended()
    assert rig.delivery.holds[-1] is False


def test_a_short_blockage_holds_nothing() -> None:
    """Pausing throws away what the client has fetched ahead: only past a second."""
    assert pipeline_module.HOLD_AFTER_S == 1.0
    rig = Rig(always(Answer(0.05)), lanes=1)
    for number in range(40):
        rig.ask(number)
    rig.turn_until_all_ended()
    assert rig.delivery.holds == []


def test_a_blocked_loop_does_not_spin() -> None:
    rig = Rig(always(Hang()))
    for number in range(2000):
        rig.ask(number)
    rig.turn_for(0.1)
    cpu_s = time.process_time()
    rig.turn_for(0.5)
    assert time.process_time() - cpu_s < 0.2


# drain


def test_stop_finishes_what_was_taken_in() -> None:
    """A partial batch leaves at once, whatever max_delay says; then commit, and run() returns."""
    rig = Rig(always(Answer(0.05)), max_delay_s=60.0, lanes=1)
    for number in range(10):
        rig.ask(number)
    rig.turn_until(lambda: rig.delivery.taken == 10)
    rig.pipeline.stop()
    rig.pipeline.run()
    assert rig.delivery.ended == 10
    assert rig.delivery.in_flight() == 0
    assert rig.delivery.commits == 1


def test_stop_takes_nothing_more_in() -> None:
    rig = Rig()
    rig.ask(1)
    rig.pipeline.stop()
    rig.pipeline.run()
    assert rig.delivery.taken == 0
    assert rig.delivery.commits == 1


def test_a_drain_waits_for_the_brokers_acknowledgement() -> None:
    """Answered is not delivered."""
    rig = Rig(drain_timeout_s=0.3)
    rig.delivery.acknowledges = False
    rig.ask(1)
    rig.turn_until(lambda: rig.delivery.ended == 1)
    rig.pipeline.stop()
    start_s = time.monotonic()
    rig.pipeline.run()
    assert time.monotonic() - start_s >= 0.3
    assert rig.delivery.in_flight() == 1


def test_a_drain_gives_up_at_its_deadline_and_keeps_track(caplog: pytest.LogCaptureFixture) -> None:
    """One lane hangs: what it holds stays in flight, is not answered, and is told; the rest is finished."""
    rig = Rig(lambda batch: Hang() if batch.has(GUILTY) else Answer(), max_rows=1, drain_timeout_s=0.4)
    hanging = rig.ask(GUILTY)
    others = [rig.ask(number) for number in range(6)]
    rig.turn_until(lambda: rig.delivery.taken == 7)
    rig.pipeline.stop()
    start_s = time.monotonic()
    with caplog.at_level(logging.WARNING):
        rig.pipeline.run()
    assert 0.35 < time.monotonic() - start_s < 2.0
    assert set(rig.delivery.answers) == set(others)
    assert rig.delivery.in_flight() == 1
    assert hanging not in rig.delivery.order
    assert rig.delivery.commits == 1
    assert "1 records" in caplog.text


def test_a_failing_batch_is_bisected_during_a_drain_too() -> None:
    rig = Rig(fails_on(GUILTY), lanes=1, max_delay_s=60.0, max_rows=8)
    sources = [rig.ask(GUILTY if number == 2 else number) for number in range(5)]
    rig.turn_until(lambda: rig.delivery.taken == 5)
    rig.pipeline.stop()
    rig.pipeline.run()
    assert set(rig.delivery.refusals) == {sources[2]}
    assert rig.delivery.in_flight() == 0


def test_the_heart_beats_during_a_drain() -> None:
    """A long drain is not a stalled loop."""
    beats: list[float] = []

    class Counted(Heartbeat):
        def beat(self) -> None:
            beats.append(time.monotonic())
            super().beat()

    rig = Rig(always(Hang()), drain_timeout_s=0.6)
    rig.pipeline._heartbeat = Counted()
    rig.ask(1)
    rig.turn_until(lambda: rig.backend.launched == 1)
    rig.pipeline.stop()
    rig.pipeline.run()
    beats.append(time.monotonic())
    assert max(later - earlier for earlier, later in pairwise(beats)) < 0.4


# revoke


def test_a_revoked_partitions_work_is_finished_before_it_is_handed_over() -> None:
    """Inside take(), within the deadline: partial batches leave, lanes are waited for."""
    rig = Rig(always(Answer(0.05)), max_delay_s=60.0)
    sources = [rig.ask(number, partition=number % 2) for number in range(6)]
    rig.turn_until(lambda: rig.delivery.taken == 6)
    rig.delivery.revoke(0)
    rig.turn_until(lambda: not rig.delivery._revoking)
    assert {*sources[::2]} <= {*rig.delivery.answers}
    rig.pipeline.stop()
    rig.pipeline.run()
    assert set(rig.delivery.answers) == set(sources)


def test_revoking_drops_the_work_of_those_partitions_alone() -> None:
    """Past the deadline: what hangs is given up with its partition, the neighbours are answered, each once."""
    rig = Rig(always(Hang()), max_rows=2, lanes=2)
    rig.delivery.revoke_timeout_s = 0.2
    sources = [rig.ask(number, partition=number % 2) for number in range(12)]
    rig.turn_until(lambda: rig.delivery.taken == 12 and rig.backend.busy_lanes == 2)
    rig.delivery.revoke(0)
    start_s = time.monotonic()
    rig.pipeline._delivery.take(1, 0.0)  # blocked, so the loop itself would poll only after HOLD_AFTER_S
    assert 0.15 < time.monotonic() - start_s < 1.0
    rig.backend.script = always(Answer())
    rig.backend.wake()
    rig.turn_until(lambda: {*rig.delivery.answers} >= {*sources[1::2]})
    assert set(rig.delivery.answers) == {*sources[1::2]}
    ran = {number for batch in rig.backend.batches[2:] for number in batch.inputs[0][:, 0].tolist()}
    assert not ran & {float(number) for number in range(4, 12, 2)}  # waiting ones of partition 0 never ran
    assert rig.is_at_rest()


def test_retries_of_a_revoked_partition_are_abandoned() -> None:
    rig = Rig(lambda batch: Fail() if batch.rows > 1 else Hang(), max_rows=4, lanes=1)
    rig.delivery.revoke_timeout_s = 0.1
    sources = [rig.ask(number, partition=number % 2) for number in range(4)]
    rig.turn_until(lambda: any(batch.rows == 1 for batch in rig.backend.batches))
    rig.delivery.revoke(0)
    rig.pipeline._delivery.take(1, 0.0)
    rig.backend.script = always(Answer())
    rig.backend.wake()
    rig.turn_until(lambda: {*rig.delivery.answers} >= {*sources[1::2]})
    assert set(rig.delivery.answers) == {*sources[1::2]}
    ran_alone = [batch.inputs[0][0, 0] for batch in rig.backend.batches if batch.rows == 1]
    assert 2.0 not in ran_alone  # it waited for its retry when its partition went
    assert rig.is_at_rest()


def test_a_revoke_of_nothing_in_flight_returns_at_once() -> None:
    rig = Rig(always(Hang()))
    rig.ask(1, partition=1)
    rig.turn_until(lambda: rig.backend.launched == 1)
    rig.delivery.revoke(0)
    assert rig.turn_until(lambda: not rig.delivery._revoking) < 0.5
    assert rig.delivery.in_flight() == 1


# what is told


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


# everything at once


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
