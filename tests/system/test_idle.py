"""A worker that has nothing to do."""

from __future__ import annotations

import time

from tests.system.conftest import PARTITIONS, Site
from tests.system.traffic import publish, request

IDLE_S = 30.0
MAX_SHARE = 0.02  # of one core


def test_an_idle_worker_costs_next_to_nothing(site: Site) -> None:
    """CPU seconds over half a minute without records, after it has had some."""
    publish(site.servers, site.input_topic, (request(number) for number in range(1000)), PARTITIONS)
    worker = site.worker().start().await_ready()
    site.reader().read(until=1000, timeout_s=60, quiet_s=2)
    before = worker.process.cpu_times()
    time.sleep(IDLE_S)
    after = worker.process.cpu_times()
    share = (after.user + after.system - before.user - before.system) / IDLE_S
    assert share < MAX_SHARE, f"{share:.1%} of a core"
    assert worker.terminate() == 0
