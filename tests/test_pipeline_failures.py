"""Bad records and failing batches: they never cost their neighbours."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from tests.pipeline_rig import GUILTY, Rig, fails_on
from tests.records import floats, model_of, packed, request_bytes, spec
from tests.scripted_backend import (
    Answer,
    Break,
    Fail,
    Hang,
    always,
)
from worker.errors import FatalError, GpuError


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
