"""The HTTP port, asked the way Kubernetes and Prometheus ask it."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from worker.errors import ConfigError
from worker.health import Health, HealthServer, Heartbeat
from worker.sections import HttpSettings

Ask = Callable[..., tuple[int, dict[str, str], bytes]]
STALLED_AFTER_S = 0.3


@pytest.fixture(scope="module")
def heartbeat() -> Heartbeat:
    return Heartbeat()


@pytest.fixture(scope="module")
def server(heartbeat: Heartbeat) -> Iterator[tuple[HealthServer, Health]]:
    """One server for all tests."""
    health = Health(HttpSettings(stalled_after_s=STALLED_AFTER_S), heartbeat)
    server = HealthServer(HttpSettings(host="127.0.0.1", port=0), health)
    yield server, health
    server.close()


@pytest.fixture
def port(server: tuple[HealthServer, Health]) -> int:
    return server[0].port


@pytest.fixture
def health(server: tuple[HealthServer, Health], heartbeat: Heartbeat) -> Health:
    """As it is when the worker has just started."""
    heartbeat.beat()
    health = server[1]
    fresh = Health(HttpSettings(), heartbeat)
    health.checks, health.status, health.metrics = fresh.checks, fresh.status, fresh.metrics
    return health


@pytest.fixture
def ask(port: int, health: Health) -> Ask:
    def ask(path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    return ask


def test_the_worker_is_alive_while_its_loop_turns(ask: Ask, heartbeat: Heartbeat) -> None:
    heartbeat.beat()
    status, _, body = ask("/healthz")
    assert status == 200
    assert body.startswith(b"ok")


def test_a_loop_that_stalls_is_not_alive_and_recovers(ask: Ask, heartbeat: Heartbeat) -> None:
    """503 once the loop has not turned for stalled_after_s: Kubernetes then restarts the pod."""
    heartbeat.beat()
    time.sleep(STALLED_AFTER_S + 0.05)
    status, _, body = ask("/healthz")
    assert status == 503
    assert b"FAILED" in body
    heartbeat.beat()
    assert ask("/healthz")[0] == 200


def test_a_worker_that_is_still_loading_is_alive() -> None:
    """Loading an engine may take minutes; a restart would only make it start again."""
    health = Health(HttpSettings(stalled_after_s=0.05), Heartbeat())
    time.sleep(0.1)
    assert health.answer("/healthz")[0] == 200


def test_ready_means_every_check_holds(ask: Ask, health: Health) -> None:
    """The body names each check, and those that failed."""
    is_up = True
    health.checks = {"engine loaded": lambda: True, "broker reached": lambda: is_up}
    assert ask("/readyz")[0] == 200
    is_up = False
    status, _, body = ask("/readyz")
    assert status == 503
    assert body.splitlines() == [b"ok: engine loaded", b"FAILED: broker reached"]
    is_up = True
    assert ask("/readyz")[0] == 200


def test_readiness_does_not_depend_on_the_loop(ask: Ask, health: Health) -> None:
    """Alive and ready are two questions."""
    health.checks = {"engine loaded": lambda: True}
    time.sleep(STALLED_AFTER_S + 0.05)
    assert ask("/readyz")[0] == 200


def test_a_worker_that_is_still_loading_is_not_ready(ask: Ask) -> None:
    """The port opens before the engine is loaded; until somebody says what to check, nothing was checked."""
    assert ask("/readyz")[0] == 503


def test_status_is_json(ask: Ask, health: Health) -> None:
    health.status = lambda: {"version": "1", "lag": 3, "partitions": ["a/0"]}
    status, headers, body = ask("/status")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    told = json.loads(body)
    assert {name: told[name] for name in ("version", "lag", "partitions")} == health.status()


def test_status_tells_what_the_probes_tell(ask: Ask, health: Health, heartbeat: Heartbeat) -> None:
    """So that who looks at the page needs no other address."""
    health.checks = {"engine loaded": lambda: True, "broker reached": lambda: False}
    told = json.loads(ask("/status")[2])
    assert (told["is_alive"], told["is_ready"]) == (True, False)
    assert told["checks"] == {"engine loaded": True, "broker reached": False}
    health.checks = {"engine loaded": lambda: True}
    assert json.loads(ask("/status")[2])["is_ready"] is True
    time.sleep(STALLED_AFTER_S + 0.05)
    assert json.loads(ask("/status")[2])["is_alive"] is False


def test_metrics_are_prometheus_text(ask: Ask, health: Health) -> None:
    health.metrics = lambda: b"# HELP a b\n"
    status, headers, body = ask("/metrics")
    assert (status, body) == (200, b"# HELP a b\n")
    assert headers["Content-Type"].startswith("text/plain; version=")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/status"])
def test_a_query_string_does_not_matter(path: str, ask: Ask, health: Health) -> None:
    """Prometheus adds parameters to what it scrapes."""
    health.checks = {"engine loaded": lambda: True}
    assert ask(f"{path}?verbose=1")[0] == ask(path)[0] == 200


def test_the_page_is_one_file_that_may_run_nothing_else(ask: Ask) -> None:
    """A browser is told by its hash which script and which style it may run, and to load nothing from anywhere."""
    status, headers, body = ask("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert policy.pop("connect-src") == "'self'"
    assert policy.pop("img-src") == "data:"
    for element in ("script", "style"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy.pop(f"{element}-src") == f"'sha256-{digest}'"
    assert set(policy.values()) == {"'none'"}
    others = body.decode().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http://", "https://"):
        assert word not in others, f"the page uses {word}"


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/readyz", "/status", "/nothing"])
def test_no_answer_is_taken_for_something_else(path: str, ask: Ask) -> None:
    """Browsers neither guess a type, nor keep, nor frame what this port answers; it does not tell its software."""
    headers = ask(path)[1]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Server"].strip() == "trt-worker"


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/healthz/x", "/page.html", "/%2e%2e/etc/passwd"])
def test_other_paths_are_not_found_and_the_right_ones_named(path: str, ask: Ask) -> None:
    status, _, body = ask(path)
    assert status == 404
    for known in (b"/metrics", b"/healthz", b"/readyz", b"/status"):
        assert known in body


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/status", "/nothing"])
def test_head_is_get_without_its_body(path: str, ask: Ask, port: int) -> None:
    """Some load balancers ask so. Read from the socket: a client's library would not look at a body."""
    status, _, body = ask(path)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.0\r\n\r\n".encode())
        head, _, rest = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert rest == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_port_is_read_only(method: str, ask: Ask) -> None:
    assert ask("/status", method)[0] in (405, 501)


def test_a_silent_client_does_not_block_the_others(ask: Ask, port: int) -> None:
    """A probe must get its answer while somebody holds connections open."""
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    try:
        assert ask("/healthz")[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_many_ask_at_once(ask: Ask) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert {status for status, _, _ in pool.map(ask, ["/healthz"] * 40)} <= {200, 503}


def test_a_port_that_is_taken_is_a_setting_to_change(port: int, health: Health) -> None:
    with pytest.raises(ConfigError, match=f"http.port is {port}") as caught:
        HealthServer(HttpSettings(host="127.0.0.1", port=port), health)
    assert "another port" in str(caught.value)


def test_an_address_that_does_not_exist_is_a_setting_to_change(health: Health) -> None:
    with pytest.raises(ConfigError, match="http"):
        HealthServer(HttpSettings(host="no-such-host.invalid", port=0), health)


def test_a_probe_gets_through_a_crowd(health: Health) -> None:
    """More connections at once than the usual five that wait: none is turned away, however slowly they are accepted."""
    server = HealthServer(HttpSettings(host="127.0.0.1", port=0), health)
    accept = server._server.get_request

    def accept_slowly() -> Any:
        time.sleep(0.005)
        return accept()

    server._server.get_request = accept_slowly  # type: ignore[method-assign]
    with ExitStack() as crowd:
        for _ in range(60):
            connection = crowd.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", server.port))
        start_s = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as probe:
            probe.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert probe.recv(100).startswith(b"HTTP/1.0 ")
        assert time.monotonic() - start_s < 0.9, "it was dropped, and came again after a second"
    server.close()


def test_closing_is_quick_and_frees_the_port(health: Health) -> None:
    """Every part of a second here comes off the grace period."""
    first = HealthServer(HttpSettings(host="127.0.0.1", port=0), health)
    time.sleep(0.05)
    start_s = time.monotonic()
    first.close()
    assert time.monotonic() - start_s < 0.2
    second = HealthServer(HttpSettings(host="127.0.0.1", port=first.port), health)
    second.close()


def test_a_check_that_raises_counts_as_failed(ask: Ask, health: Health) -> None:
    """An endpoint that answers nothing tells nobody why."""

    def broken() -> bool:
        raise RuntimeError("the client is closed")

    health.checks = {"broker reached": broken}
    status, _, body = ask("/readyz")
    assert status == 503
    assert b"FAILED: broker reached" in body
