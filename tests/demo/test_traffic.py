"""The demo's eye: whatever an answering side does wrong, the tally says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from worker.demo.digits import TOLERANCE_FP32, Digits
from worker.demo.stage import Stage, open_stage
from worker.demo.tally import Tally
from worker.demo.traffic import MAX_OUTSTANDING, Traffic

REQUESTS = 12
Answer = dict[str, Any]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture
def stage() -> Iterator[Stage]:
    with open_stage(None) as opened:
        yield opened


class Actor:
    """Plays the worker in plain msgpack, right unless it is told otherwise."""

    def __init__(self, stage: Stage, digits: Digits) -> None:
        config = {"bootstrap.servers": stage.bootstrap_servers, "log_level": 2}
        self._stage, self._digits = stage, digits
        self._producer = Producer(config)
        self._consumer = Consumer({**config, "group.id": "actor", **stage.consumer})
        self._consumer.assign([TopicPartition(stage.requests, partition, 0) for partition in range(4)])

    def answer(self, change: Callable[[int, Answer], list[bytes]], key: bytes | None = None) -> None:
        """Answer every request; `change` gets its number and the right answer, and returns what to publish."""
        for _ in range(REQUESTS):
            message = self._consumer.poll(10)
            assert message is not None
            request = msgpack.unpackb(message.value() or b"")
            image = int(message.key() or b"")
            np.testing.assert_array_equal(
                np.frombuffer(request["inputs"][0]["data"], "<f4"), self._digits.images[image]
            )
            right = {
                "model_name": "digits",
                "model_version": "1",
                "id": request["id"],
                "outputs": [
                    tensor("probabilities", "FP32", self._digits.probabilities[image : image + 1]),
                    tensor("label", "INT64", self._digits.answers[image : image + 1]),
                ],
            }
            for value in change(int(request["id"]), right):
                self._producer.produce(self._stage.results, value, key=message.key() if key is None else key)
        self._producer.flush(10)
        self._consumer.close()


def tensor(name: str, datatype: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.tobytes()}


def play(stage: Stage, digits: Digits, change: Callable[[int, Answer], list[bytes]], key: bytes | None = None) -> Tally:
    tally = Tally()
    with Traffic(stage, digits, tally, TOLERANCE_FP32) as traffic:
        traffic.step(REQUESTS)
        Actor(stage, digits).answer(change, key)
        due_s = time.monotonic() + 10
        while tally.missing and time.monotonic() < due_s:
            traffic.step(0)
            if tally.answered == REQUESTS - 1:
                break
        traffic.read_to_the_end(10)
    return tally


def test_right_answers_are_perfect(stage: Stage, digits: Digits) -> None:
    tally = play(stage, digits, lambda _, right: [msgpack.packb(right)])
    assert tally.is_perfect
    assert tally.answered == REQUESTS
    assert tally.accuracy == digits.accuracy(REQUESTS)


def test_a_duplicate_is_seen(stage: Stage, digits: Digits) -> None:
    tally = play(stage, digits, lambda number, right: [msgpack.packb(right)] * (2 if number == 5 else 1))
    assert (tally.duplicates, tally.missing, tally.wrong) == (1, 0, 0)
    assert not tally.is_perfect


def test_a_duplicate_is_seen_even_behind_the_last_answer(stage: Stage, digits: Digits) -> None:
    """The result topic is read to its end, not only until every request has an answer."""
    values = []

    def change(_: int, right: Answer) -> list[bytes]:
        values.append(msgpack.packb(right))
        return values[-1:]

    tally = Tally()
    with Traffic(stage, digits, tally, TOLERANCE_FP32) as traffic:
        traffic.step(REQUESTS)
        Actor(stage, digits).answer(change)
        while tally.missing:
            traffic.step(0)
        assert tally.is_perfect
        late = Producer({"bootstrap.servers": stage.bootstrap_servers, "log_level": 2})
        late.produce(stage.results, values[7])
        assert late.flush(10) == 0
        traffic.read_to_the_end(10)
    assert tally.duplicates == 1
    assert not tally.is_perfect


def test_a_missing_answer_is_seen(stage: Stage, digits: Digits) -> None:
    tally = play(stage, digits, lambda number, right: [] if number == 5 else [msgpack.packb(right)])
    assert (tally.duplicates, tally.missing, tally.wrong) == (0, 1, 0)
    assert not tally.is_perfect


def swapped(right: Answer, digits: Digits) -> Answer:
    probabilities = digits.probabilities[200:201]
    return {**right, "outputs": [tensor("probabilities", "FP32", probabilities), right["outputs"][1]]}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda right, digits: swapped(right, digits), "off by"),
        (lambda right, _: {**right, "outputs": right["outputs"][:1]}, "outputs"),
        (lambda right, _: {**right, "id": "4000"}, "never published"),
        (lambda right, _: {**right, "id": "topic/0/1"}, "invalid literal"),
        (lambda right, _: {**right, "error": {"code": "wrong_shape", "message": "no"}}, "error wrong_shape: no"),
        (lambda *_: {"junk": 1}, "wire format 1"),
    ],
    ids=range(6),
)
def test_a_wrong_answer_is_seen(
    stage: Stage, digits: Digits, change: Callable[[Answer, Digits], Answer], fault: str
) -> None:
    tally = play(
        stage,
        digits,
        lambda number, right: [msgpack.packb(change(right, digits) if number == 5 else right)],
    )
    assert tally.wrong == 1
    assert fault in tally.first_fault
    assert not tally.is_perfect


def test_a_key_that_was_not_carried_over_is_seen(stage: Stage, digits: Digits) -> None:
    tally = play(stage, digits, lambda _, right: [msgpack.packb(right)], key=b"another")
    assert tally.wrong == REQUESTS
    assert "key b'another'" in tally.first_fault


def test_what_is_outstanding_is_bounded(stage: Stage, digits: Digits) -> None:
    """The embedded broker forgets old records, so nobody may run ahead of the answers."""
    tally = Tally()
    with Traffic(stage, digits, tally, TOLERANCE_FP32) as traffic:
        for _ in range(3):
            traffic.step(1000)
    assert tally.published == tally.missing == MAX_OUTSTANDING
