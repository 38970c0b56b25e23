"""One setting at one rate through the real pipeline, on a scripted backend and on ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from tests.pipeline_rig import ECHO
from tests.scripted_backend import Answer, ScriptedBackend, always
from worker.config import Settings
from worker.demo.digits import MODEL
from worker.errors import ConfigError
from worker.protocols import Backend
from worker.tuning.backends import Backends
from worker.tuning.measurement import Measurement, Setting
from worker.tuning.payload import Payload, seeded_payload
from worker.tuning.session import Interrupted
from worker.tuning.trial import run_trial, settings_with

SLOW_S = 0.004  # a batch, on the scripted backend


def settings() -> Settings:
    kafka = {"bootstrap_servers": "b:1", "group_id": "g", "input_topics": ["i"], "output_topic": "o"}
    return Settings(
        _env_prefix="NONE__",
        model={"name": "digits", "onnx": MODEL},
        engine={"backend": "cpu"},
        kafka={**kafka, "dead_letter_topic": "d"},
    )


@pytest.fixture
def slow() -> ScriptedBackend:
    """Two lanes, batches of 4 rows: 2,000 rows a second at the very most."""
    return ScriptedBackend(ECHO, always(Answer(SLOW_S)), lanes=2, max_rows=8)


@pytest.fixture
def digits() -> Iterator[Backend]:
    with Backends(settings(), 64) as backends:
        yield backends.get(Setting(64, 1.0, 2))


def trial(backend: Backend, setting: Setting, rate: float | None, seconds: float = 0.3) -> Measurement:
    payload = seeded_payload(backend.model, settings(), 1, {})
    return run_trial(settings(), backend, payload, setting, rate, seconds, patience_s=0.2, go_on=lambda: None)


def test_a_run_at_a_rate_tells_latencies_stages_and_batches(digits: Backend) -> None:
    run = trial(digits, Setting(16, 1.0, 2), 500)
    assert run.answered > 50
    assert 0 < run.latency_ms["p50"] <= run.latency_ms["p99"] <= run.latency_ms["max"] < math.inf
    assert {"wait", "decode", "gather", "compute", "encode", "publish"} == set(run.stage_ms)
    assert 1 <= run.batch_rows <= 16
    assert run.fill_ratio == pytest.approx(run.batch_rows / 16, rel=0.01)
    assert digits.busy_lanes == 0


def test_as_fast_as_it_goes_fills_the_batches(digits: Backend) -> None:
    run = trial(digits, Setting(16, 1.0, 2), None)
    assert run.rate is None
    assert run.answered_per_s > 0
    assert run.batch_rows > 12


def test_a_rate_that_cannot_be_kept_ends_early_and_says_so(slow: ScriptedBackend) -> None:
    """And leaves the lanes as it found them."""
    run = trial(slow, Setting(4, 1.0, 2), 20_000, seconds=30)
    assert not run.is_sustained
    assert run.seconds < 10
    assert run.p99_ms > 100
    assert slow.busy_lanes == 0


def test_the_delay_is_in_the_latency(slow: ScriptedBackend) -> None:
    """A lone request waits for company, and then for its batch."""
    patient = trial(slow, Setting(8, 30.0, 2), 40, seconds=1.0)
    assert patient.stage_ms["wait"] > 10
    assert patient.latency_ms["p50"] > 15


def test_ctrl_c_leaves_the_lanes_free(slow: ScriptedBackend) -> None:
    turns = 0

    def go_on() -> None:
        nonlocal turns
        turns += 1
        if turns > 20:
            raise Interrupted

    payload = seeded_payload(slow.model, settings(), 1, {})
    with pytest.raises(Interrupted):
        run_trial(settings(), slow, payload, Setting(4, 1.0, 2), None, 30, patience_s=1, go_on=go_on)
    assert slow.busy_lanes == 0


def test_requests_that_the_worker_refuses_end_it(digits: Backend) -> None:
    with pytest.raises(ConfigError, match="the worker refuses such a request"):
        run_trial(
            settings(),
            digits,
            Payload((b"nothing",), 1, (), is_seeded=False),
            Setting(4, 1.0, 2),
            None,
            0.1,
            patience_s=1,
            go_on=lambda: None,
        )


def test_only_what_is_tuned_is_replaced() -> None:
    before = settings()
    after = settings_with(before, Setting(7, 0.5, 4, (1, 7)))
    assert after.batching.model_dump() == {**before.batching.model_dump(), "max_rows": 7, "max_delay_ms": 0.5}
    assert after.engine.model_dump() == {**before.engine.model_dump(), "lanes": 4, "cuda_graphs": [1, 7]}
    assert after.kafka == before.kafka
