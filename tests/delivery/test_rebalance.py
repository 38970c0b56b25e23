"""Workers joining and leaving all the time, under load."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.delivery.conftest import PATIENCE_S, Delivery, DeliveryWorker, MakeDelivery, await_that
from tests.delivery.flow import Flow, await_answers, faults, read_along
from tests.kafka_server import KafkaCluster

pytestmark = pytest.mark.broker

MAX_DUPLICATES = 0.05  # at_least_once
PER_SECOND = 800
PARTITIONS = 6
GUESTS = 5  # at most, beside the one that stays: enough that one can come while others are still on their way out
BEAT_S = 1.0


class Guests:
    """Workers that come and go, each as often as it can; nobody waits for one of them before the next one moves."""

    def __init__(self, delivery: Delivery, mode: str) -> None:
        self._away = [delivery.worker(f"guest-{number}", mode) for number in range(GUESTS)]
        self._here: list[DeliveryWorker] = []  # in the order of their coming
        self._leaving: list[DeliveryWorker] = []
        self.visits = 0  # came, answered something, and left in order

    def beat(self) -> None:
        """One comes, and one goes."""
        self._one_goes()
        if self._away:
            self._here.append(self._away.pop(0).start())

    def see_off(self) -> None:
        """No more come; wait until all that are here have left."""
        await_that(self._are_gone, "somebody does not leave")

    def _are_gone(self) -> bool:
        self._one_goes()
        return not self._here and not self._leaving

    def _one_goes(self) -> None:
        """Of those that have answered something, the one that has been here for longest."""
        for guest in self._here:
            assert guest.exit_code is None, f"{guest.name} ended with {guest.exit_code}"
        for guest in [guest for guest in self._leaving if guest.exit_code is not None]:
            assert guest.exit_code == 0, f"{guest.name} ended with {guest.exit_code}"
            self._leaving.remove(guest)
            self._away.append(guest)
            self.visits += 1
        if (ready := next(filter(is_at_work, self._here), None)) is not None:
            ready.process.send_signal(signal.SIGTERM)
            self._here.remove(ready)
            self._leaving.append(ready)


def is_at_work(worker: DeliveryWorker) -> bool:
    """Whether it has answered a record since it was started: so it has partitions, or a share of them."""
    status, body = worker.get("/status") if worker.port is not None else (0, "")
    return status == 200 and json.loads(body).get("records", {}).get("settled", 0) > 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("seconds", "visits"),
    [pytest.param(5.0, 4, id="short"), pytest.param(120.0, 40, id="full", marks=pytest.mark.soak)],
)
@pytest.mark.parametrize("mode", ["at_least_once", "exactly_once", "queue"])
def test_a_storm_of_rebalances_loses_nothing(
    mode: str, seconds: float, visits: int, single: KafkaCluster, deliver: MakeDelivery
) -> None:
    """Every second one joins and one leaves, for so long and so often at least; one stays all the time."""
    delivery = deliver(single, PARTITIONS)
    steady = delivery.worker("steady", mode).start().await_ready()
    guests = Guests(delivery, mode)
    flow = Flow(delivery.servers, delivery.input_topic, PARTITIONS, 1 << 30, PER_SECOND)
    with read_along(delivery.reader()) as so_far:
        flow.start()
        await_answers(so_far, PER_SECOND, PATIENCE_S)
        began_s = time.monotonic()
        give_up_s = began_s + seconds + PATIENCE_S
        while time.monotonic() < began_s + seconds or guests.visits < visits:
            assert time.monotonic() < give_up_s, f"only {guests.visits} came and went"
            guests.beat()
            time.sleep(BEAT_S)
        guests.see_off()
        published = flow.stop()
        answers = await_answers(so_far, published, PATIENCE_S)
        time.sleep(1)
    steady.leave()
    if mode != "queue":  # where nothing is ever revoked
        assert steady.said("assigned ") > guests.visits // 2  # in every round of the group, be it nothing new
        assert steady.said(f"revoked {delivery.input_topic}/") >= 2  # for the first guest, and at its own end
        for what in ("assigned", "revoked"):
            assert sum(each.said(f"{what} {delivery.input_topic}/") for each in delivery.workers) > guests.visits
    found = faults(answers, published)
    duplicates = found.pop("duplicates", 0)
    if mode == "queue":
        found.pop("out of order", None)
    assert found == {}
    assert duplicates <= (0 if mode == "exactly_once" else MAX_DUPLICATES * published)
