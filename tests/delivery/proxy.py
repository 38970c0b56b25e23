"""A TCP proxy between clients and a Kafka node: delays, cuts, and connections that stay open and say nothing.

It can be aimed: the next request of a kind (a commit, say) is what the fault hits, or all of them while it lasts.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

HALF_OPEN_S = 4.0  # how long a connection that was struck `silent` stays open


class Strike(NamedTuple):
    """A fault for the next request of a kind."""

    request: int  # the Kafka protocol's API key
    how: str  # before: cut, the node never sees it · after: cut, the answer is lost · silent: half-open, then cut


class Link:
    """One client's connection and ours to the node."""

    def __init__(self, client: socket.socket, node: socket.socket) -> None:
        self.ends = {client: node, node: client}
        self.client = client
        self.held: list[tuple[float, socket.socket, bytes]] = []  # due, where to, what
        self.silent_until_s = 0.0  # then it is cut
        self._head = b""
        self._left = 0  # bytes of the present request that are still to come

    def requests(self, data: bytes) -> Iterator[int]:
        """API keys of the requests that begin in what the client sends."""
        while data:
            if self._left:
                skipped = min(self._left, len(data))
                self._left -= skipped
                data = data[skipped:]
                continue
            missing = 6 - len(self._head)  # four bytes of length, two of the key
            self._head += data[:missing]
            data = data[missing:]
            if len(self._head) == 6:
                self._left = int.from_bytes(self._head[:4]) - 2
                yield int.from_bytes(self._head[4:])
                self._head = b""

    def close(self) -> None:
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.close()


class Proxy:
    """Listens on a port of 127.0.0.1 and passes everything on to another; a context manager."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self._target = port, target
        self.delay_s = 0.0
        self.is_silent = False  # connections stay open, nothing gets through, nothing is lost
        self.strikes: deque[Strike] = deque()  # one after the other
        self.struck: list[Strike] = []
        self.barred: frozenset[int] = frozenset()  # requests that cut their connection, and never reach the node
        self.met_bar = 0  # how many did
        self._listener = socket.create_server(("127.0.0.1", port))
        self._links: list[Link] = []
        self._lock = threading.Lock()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Break every connection; what was on its way is gone."""
        with self._lock:
            for link in self._links:
                link.close()
            self._links.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        self._thread.join(5)
        self.cut()
        self._listener.close()

    def _run(self) -> None:
        while not self._is_over:
            with self._lock:
                self._turn()
            time.sleep(0)

    def _turn(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            if not self.is_silent:
                for link in self._links:
                    for end in () if link.silent_until_s else link.ends:
                        selector.register(end, selectors.EVENT_READ, link)
            for key, _ in selector.select(0.002):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data, key.fileobj)  # type: ignore[arg-type]  # we register sockets only
        if not self.is_silent:
            now_s = time.monotonic()
            for link in list(self._links):
                if link.silent_until_s:
                    if now_s > link.silent_until_s:
                        self._drop(link)
                    continue
                while link.held and link.held[0][0] <= now_s:
                    _, where, data = link.held.pop(0)
                    try:
                        where.sendall(data)
                    except OSError:
                        self._drop(link)
                        break

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            node = socket.create_connection(("127.0.0.1", self._target), 1)
        except OSError:
            client.close()
            return
        for end in (client, node):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.append(Link(client, node))

    def _read(self, link: Link, end: socket.socket) -> None:
        if link not in self._links:
            return
        try:
            data = end.recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            self._drop(link)
            return
        link.held.append((time.monotonic() + self.delay_s, link.ends[end], data))
        if end is link.client:
            for request in link.requests(data):
                if request in self.barred:
                    self.met_bar += 1
                    self._drop(link)
                    return
                if self.strikes and request == self.strikes[0].request:
                    self._strike(link, self.strikes.popleft())

    def _strike(self, link: Link, strike: Strike) -> None:
        self.struck.append(strike)
        if strike.how == "silent":
            link.silent_until_s = time.monotonic() + HALF_OPEN_S
            return
        if strike.how == "after":
            with contextlib.suppress(OSError):
                for _, where, data in link.held:
                    where.sendall(data)
        self._drop(link)

    def _drop(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)
        link.close()
