"""`trt-worker demo` as a newcomer runs it: a process, an exit code, and what it prints."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.kafka_server import KafkaCluster
from worker.demo.digits import MODEL

DEMO = [sys.executable, "-m", "worker", "demo"]
PATIENCE_S = 60
# Serves another model than the demo's own, and otherwise is `trt-worker demo`.
SERVE = """
import functools, pathlib, sys
from worker import cli
from worker.demo import showcase
showcase.run_demo = functools.partial(showcase.run_demo, model=pathlib.Path(sys.argv.pop(1)))
cli.main()
"""


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, **(environment or {})},
    )


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A demo that is killed if it outlives the block."""
    process = subprocess.Popen([*DEMO, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if re.search(pattern, line):
            return seen
    raise AssertionError(f"{pattern!r} was never printed:\n{seen}\n{process.stderr.read() if process.stderr else ''}")


def test_every_answer_comes_once_and_right_in_ten_seconds() -> None:
    start_s = time.monotonic()
    done = run()
    took_s = time.monotonic() - start_s
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2,000 handwritten digits" in done.stdout
    assert re.search(r"answers +2,000 · 0 missing · 0 duplicates · 0 dead letters", done.stdout)
    assert re.search(r"right +2,000 equal a direct run \(ONNX Runtime [\d.]+\) · 0 wrong", done.stdout)
    shares = re.search(r"accuracy +([\d.]+)% true labels · direct run ([\d.]+)%", done.stdout)
    assert shares is not None
    assert shares[1] == shares[2]
    assert float(shares[1]) > 97
    assert "every answer came, once, and right" in done.stdout
    assert "demo --keep-running" in done.stdout
    assert done.stderr == ""
    assert took_s < 10


def test_the_rate_is_kept() -> None:
    done = run("--requests", "300", "--rate", "150")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"throughput +(\d+) requests a second", done.stdout)
    assert found is not None
    assert 100 < int(found[1]) < 160
    assert re.search(r"\d+ of 300 answered, \d+/s, p50 [\d.]+ ms", done.stdout)


def test_the_environments_settings_are_for_the_users_service() -> None:
    done = run("--requests", "10", environment={"TRT_WORKER__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    assert done.returncode == 0, done.stdout + done.stderr


def test_on_a_terminal_it_draws_and_leaves_the_summary() -> None:
    """The picture of progress is gone at the end; cursor and summary are there."""
    leader, follower = pty.openpty()
    with contextlib.closing(os.fdopen(leader, "rb", buffering=0)) as screen:
        process = subprocess.Popen(
            [*DEMO, "--requests", "500", "--rate", "500"],
            stdout=follower,
            stderr=follower,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"},
        )
        os.close(follower)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal reports EIO when the process has gone
            while part := screen.read(65536):
                shown += part
        assert process.wait(PATIENCE_S) == 0
    text = shown.decode()
    assert "▀▀" in text
    assert "of 500" in text
    assert "every answer came, once, and right" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is shown again
    assert "Traceback" not in text


def test_keep_running_serves_http_until_ctrl_c() -> None:
    with running("--requests", "200", "--keep-running") as process:
        seen = read_until(process, "Ctrl-C ends it")
        assert "every answer came, once, and right" in seen
        found = re.search(r"http://127\.0\.0\.1:\d+/metrics", seen)
        assert found is not None

        def results_published() -> float:
            with urllib.request.urlopen(found[0], timeout=10) as answer:
                page = answer.read().decode()
            return float(re.findall(r"^trt_worker_results_published_total (\S+)", page, re.MULTILINE)[0])

        first = results_published()
        assert first >= 200
        due_s = time.monotonic() + 20
        while results_published() <= first:  # traffic goes on
            assert time.monotonic() < due_s
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, errors
        assert errors == "stopped\n"


@pytest.mark.parametrize("line", ["opening Kafka", "starting the worker", "handwritten digits", r"\d+ answered|\d+ of"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_time_ends_it_without_a_traceback(line: str, number: signal.Signals) -> None:
    with running("--rate", "100") as process:
        read_until(process, line)
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 128 + number, errors
        assert errors == "stopped\n"


def test_ctrl_c_twice_is_as_clean() -> None:
    with running("--rate", "100") as process:
        read_until(process, "of 2,000")
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, errors
        assert errors == "stopped\n"


def test_a_model_with_one_changed_number_fails_the_demo(tmp_path: Path) -> None:
    """Answers are compared with a direct run, so even a deviation that changes no label is found."""
    model = onnx.load(MODEL)
    bias = next(constant for constant in model.graph.initializer if constant.name == "bias_2")
    numbers = numpy_helper.to_array(bias).copy()
    numbers[3] += np.float32(0.01)
    bias.CopyFrom(numpy_helper.from_array(numbers, "bias_2"))
    tampered = tmp_path / "tampered.onnx"
    onnx.save(model, tampered)
    done = serve(tampered)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "not every answer came, once, and right" in done.stdout
    assert "probabilities off by" in done.stdout
    assert re.search(r"answers +400 · 0 missing · 0 duplicates", done.stdout)
    assert "How to go on" not in done.stdout
    untouched = serve(MODEL)
    assert untouched.returncode == 0, untouched.stdout + untouched.stderr


def serve(model: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SERVE, str(model), "demo", "--requests", "400"]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_model_that_cannot_be_served_is_one_line_and_its_exit_code(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    done = serve(broken)
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert "broken.onnx" in done.stderr


def test_an_unreachable_broker_is_one_line_and_exit_4(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("--bootstrap-servers", "127.0.0.1:1")
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:1" in done.stderr
    assert "--bootstrap-servers" in done.stderr


@pytest.mark.parametrize("arguments", [("--requests", "0"), ("--rate", "0"), ("--requests", "many")])
def test_bad_usage_is_exit_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2


@pytest.mark.broker
class TestOnRealKafka:
    def test_it_passes_and_leaves_nothing_behind(self, kafka: KafkaCluster) -> None:
        before = names(kafka)
        done = run("--bootstrap-servers", kafka.bootstrap_servers, "--requests", "3000")
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"answers +3,000 · 0 missing · 0 duplicates", done.stdout)
        assert kafka.bootstrap_servers in done.stdout
        assert names(kafka) == before

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted_it_deletes_its_topics_too(self, kafka: KafkaCluster, number: signal.Signals) -> None:
        before = names(kafka)
        with running("--bootstrap-servers", kafka.bootstrap_servers, "--rate", "200") as process:
            read_until(process, r"\d+ of 2,000")
            assert names(kafka) != before
            process.send_signal(number)
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 128 + number, errors
        assert errors == "stopped\n"
        assert names(kafka) == before


def names(kafka: KafkaCluster) -> set[str]:
    """Topics and groups of the cluster."""
    topics = {name for name in kafka.admin.list_topics(timeout=10).topics if not name.startswith("__")}
    groups = kafka.admin.list_consumer_groups(request_timeout=10).result().valid
    return topics | {group.group_id for group in groups}
