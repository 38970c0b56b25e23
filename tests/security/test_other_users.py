"""Those who send requests and those who look after dead letters have users of their own, with rights of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import yaml

from tests.security.conftest import PARTITIONS, Guard
from tests.security.guarded_kafka import PASSWORD
from tests.system.traffic import COLUMNS, publish

pytestmark = pytest.mark.broker

SEND, LIST = "who sends requests: trt-worker send, worker.client, programs of your own", "trt-worker dlq list"
REPLAY = "trt-worker dlq replay, too"


def trt_worker(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert "Traceback" not in done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    return done


def config_of(guard: Guard, user: str, **kafka: Any) -> str:
    """A settings file with this user's login."""
    file = guard.directory / f"{user}.yaml"
    settings = guard.settings(client=guard.kafka.login(sasl_username=user), **kafka)
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(file)


def test_clients_and_operators_need_only_what_the_page_gives_them(guard: Guard) -> None:
    """send, dlq list, dlq replay; and without the rights, one line and exit code 4."""
    guard.kafka.allow(guard.needed("every mode"))
    guard.worker(guard.settings()).await_ready()
    client, operator = config_of(guard, "digits-client"), config_of(guard, "digits-operator")
    row = guard.directory / "row.npy"
    np.save(row, np.full((1, COLUMNS), 7, np.float32))

    send = ("send", str(row), "--input", "x", "--json", "--config", client)
    refused = trt_worker(*send, "--timeout-s", "5")
    assert (refused.returncode, refused.stderr.count("\n")) == (4, 1)
    assert f"digits.requests-{guard.mark}" in refused.stderr
    guard.kafka.allow(guard.needed(SEND))
    answered = trt_worker(*send)
    assert answered.returncode == 0, answered.stderr
    assert json.loads(answered.stdout)["outputs"]["y"] == [[7.0] * COLUMNS]

    publish(guard.kafka.cluster.bootstrap_servers, guard.topics[0], [b"junk"], PARTITIONS)
    letters = ("dlq", "list", "--json", "--config", operator)
    refused = trt_worker(*letters)
    assert (refused.returncode, refused.stderr.splitlines()[-1].count("dead-letters")) == (4, 2), refused.stderr
    assert f"grant Read on digits.dead-letters-{guard.mark}" in refused.stderr
    (group,) = [right for right in guard.needed(LIST) if "group" in str(right)]
    guard.kafka.allow(guard.needed(LIST) - {group})
    refused = trt_worker(*letters)
    assert (refused.returncode, f"{guard.group}-dlq-replay" in refused.stderr) == (4, True), refused.stderr
    guard.kafka.allow([group])
    listed = trt_worker(*letters)
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout)["code"] == "malformed"

    replay = ("dlq", "replay", "--config", operator)
    refused = trt_worker(*replay)
    assert refused.returncode == 4, refused.stderr
    guard.kafka.allow(guard.needed(REPLAY))
    replayed = trt_worker(*replay)
    assert (replayed.returncode, replayed.stdout) == (0, "1 sent back, 0 skipped\n"), replayed.stderr
