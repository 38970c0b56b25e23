"""Is the worker alive, is it ready, what is it doing: one HTTP port, read-only."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from worker import page
from worker.errors import ConfigError
from worker.sections import HttpSettings

log = logging.getLogger(__name__)

ENGINE_CHECK = "engine loaded, self-test passed"
DRAINING_CHECK = "not draining"  # the page knows it by this name
BACKLOG = 128  # connections that wait to be accepted; probes must get through a crowd

Answer = tuple[int, str, bytes]  # (status, content type, body)


class Heartbeat:
    """When the loop last turned; written by the loop, read by the HTTP threads."""

    def __init__(self) -> None:
        self._last_s: float | None = None

    def beat(self) -> None:
        self._last_s = time.monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the loop last turned; 0 before it turned at all: loading an engine may take minutes."""
        return 0.0 if self._last_s is None else time.monotonic() - self._last_s


class Health:
    """What the endpoints answer."""

    def __init__(self, settings: HttpSettings, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._stalled_after_s = settings.stalled_after_s
        self.checks: dict[str, Callable[[], bool]] = {  # name -> whether it holds; all of them make the worker ready
            ENGINE_CHECK: lambda: False  # until the service is put together
        }
        self.status: Callable[[], Mapping[str, Any]] = dict
        self.metrics: Callable[[], bytes] = bytes

    def answer(self, path: str) -> Answer:
        """The answer to a GET of this path."""
        match path.partition("?")[0]:
            case "/":
                return 200, "text/html; charset=utf-8", page.HTML
            case "/metrics":
                return 200, CONTENT_TYPE_LATEST, self.metrics()
            case "/healthz":
                return _verdict({f"the loop turned {self._heartbeat.age_s:.1f} s ago": self._is_alive})
            case "/readyz":
                return _verdict(self._checked())
            case "/status":
                checks = self._checked()
                told = {"is_alive": self._is_alive, "is_ready": all(checks.values()), "checks": checks}
                return 200, "application/json", json.dumps({**told, **self.status()}, indent=1).encode()
            case _:
                return 404, "text/plain; charset=utf-8", b"/ /metrics /healthz /readyz /status\n"

    @property
    def _is_alive(self) -> bool:
        return self._heartbeat.age_s < self._stalled_after_s

    @property
    def is_ready(self) -> bool:
        """What /readyz says."""
        return all(self._checked().values())

    def _checked(self) -> dict[str, bool]:
        checks = dict(self.checks)  # a part that starts may add its own meanwhile
        return {name: _holds(check) for name, check in checks.items()}


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:  # an answer that says "not ready" is worth more than none
        log.exception("a readiness check failed")
        return False


def _verdict(checks: Mapping[str, bool]) -> Answer:
    lines = "".join(f"{'ok' if holds else 'FAILED'}: {name}\n" for name, holds in checks.items())
    return 200 if all(checks.values()) else 503, "text/plain; charset=utf-8", lines.encode()


class Server(ThreadingHTTPServer):
    request_queue_size = BACKLOG
    daemon_threads = True


class HealthServer:
    """Serves a Health on its own threads, from construction to close()."""

    def __init__(self, settings: HttpSettings, health: Health) -> None:
        """Raises:
        ConfigError: the address cannot be listened on.
        """

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # seconds; a silent client must not keep a thread
            server_version, sys_version = "trt-worker", ""

            def do_GET(self) -> None:  # the name that http.server calls
                status, content_type, body = health.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                for name, value in page.HEADERS.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815  # the name that http.server calls

            def log_message(self, format: str, *args: Any) -> None:
                """Probes come every few seconds; the log is for other things."""

        try:
            self._server = Server((settings.host, settings.port), Handler)
        except OSError as error:
            raise ConfigError(
                f"http.port is {settings.port}: cannot listen on {settings.host}:{settings.port} ({error.strerror}); "
                "choose another port, or 0 for any free one"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # not every system knows this of a socket that listens
            self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which else looks up twice a second
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
