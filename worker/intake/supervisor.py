"""Keeps the intake processes running, from the first start to the last drain."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker.deadline import Deadline
from worker.errors import ConfigError, EngineError, FatalError, GpuError, KafkaRefused
from worker.health import Heartbeat
from worker.intake.memory import SeatMemory
from worker.intake.process import IntakeProcess
from worker.intake.server import Client, EngineServer
from worker.last_words import hung
from worker.merging import Family, add_up, counted

log = logging.getLogger(__name__)

IDLE_S = 0.1  # between looks at the processes
LEAVING_S = 15.0  # above the drain: the last commit, and leaving the group
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
FORGIVEN_AFTER_S = 60.0  # a process that ran for so long starts again at once
FATAL: Mapping[int, type[FatalError]] = {each.exit_code: each for each in (ConfigError, EngineError, KafkaRefused)}


@dataclass
class Post:
    """One of the N places that an intake process may fill."""

    index: int
    memory: SeatMemory
    hello: str  # packed
    process: IntakeProcess | None = None
    client: Client | None = None
    restarts: int = -1
    backoff_s: float = FIRST_BACKOFF_S
    due_s: float = 0.0  # when to start one, where there is none
    past: list[Family] = field(default_factory=list)  # what those that have ended had counted
    past_settled: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # process and past change together


class Supervisor:
    """The engine process's loop. One thread runs it; stop() may be called from anywhere.

    The first process starts alone and has all partitions, until it is calm: what a process that died before may have
    left to be run with care (kafka/caution.py) must have the engine for itself, or the innocent would be blamed for
    what ran beside them.
    """

    def __init__(
        self,
        server: EngineServer,
        posts: Sequence[Post],
        heartbeat: Heartbeat,
        *,
        drain_timeout_s: float,
        lane_timeout_s: float,
    ) -> None:
        """Args:
        server: runs their batches.
        posts: in the order of their index; none filled yet.
        heartbeat: of this loop.
        drain_timeout_s: what they have to drain, after stop().
        lane_timeout_s: for the error of a batch that one of them waited for in vain.
        """
        self._server = server
        self.posts = posts
        self._heartbeat = heartbeat
        self._drain_timeout_s = drain_timeout_s
        self._lane_timeout_s = lane_timeout_s
        self._is_stopping = False
        self._deadline: Deadline | None = None
        self._look_s = 0.0

    def run(self) -> None:
        """Turn until stop(), then until all have drained and left.

        Raises:
            FatalError: the engine is unusable, or an intake process met what no restart mends.
        """
        while self._deadline is None or any(post.process is not None for post in self.posts):
            self._heartbeat.beat()
            self._server.step(IDLE_S)
            now_s = time.monotonic()
            if now_s >= self._look_s:
                self._look_s = now_s + IDLE_S
                self._look(now_s)

    def stop(self) -> None:
        """Take no more in; run() drains and returns. Safe in a signal handler."""
        self._is_stopping = True

    @property
    def is_stopping(self) -> bool:
        """Whether stop() was called."""
        return self._is_stopping

    def close(self) -> None:
        """Hang up on those that still run: they leave the group, and have so long for it before they are killed."""
        self._server.close()
        deadline = Deadline(LEAVING_S)
        for post in self.posts:
            if post.process is not None:
                while post.process.exit_code is None and not deadline.is_over:
                    time.sleep(0.02)
                post.process.kill()
                post.process.close()
                post.process = None

    def _look(self, now_s: float) -> None:
        for post in self.posts:
            if post.process is not None and post.process.exit_code is not None:
                self._bury(post, now_s)
        if self._is_stopping:
            self._part()
            return
        for post in self.posts:
            if post.process is not None and post.process.is_drained:
                post.process.leave()  # somebody else has stopped it
        for post in self.posts:
            if post.process is None and now_s >= post.due_s and self._server.is_clear(post.index):
                self._fill(post)
            if post.index == 0 and not self._is_calm(post):
                break  # the others wait

    def _fill(self, post: Post) -> None:
        post.restarts += 1
        post.process = IntakeProcess(post.memory, post.hello)
        post.client = self._server.add(post.index, post.process.channel, post.memory)
        log.info("intake process %d started, pid %d", post.index, post.process.pid)

    def _is_calm(self, post: Post) -> bool:
        if any(other.process is not None for other in self.posts if other is not post):
            return True  # the others are at work already
        return post.process is not None and post.process.is_calm

    def _bury(self, post: Post, now_s: float) -> None:
        """Take back the seats of a process that has ended, and see what its end means for the service.

        Raises:
            FatalError: it means the end.
        """
        process = post.process
        if process is None or post.client is None:
            return
        self._server.drop(post.client)
        process.close()
        with post.lock:
            post.process = None
            if process.report is not None:  # counters never go back
                post.past = add_up([post.past, counted(process.report["metrics"])])
                post.past_settled += process.report["status"]["records"]["settled"]
        if process.fatal is not None:
            code, text = process.fatal
            if code == GpuError.exit_code:  # only a batch that does not come back
                raise hung(self._lane_timeout_s)
            raise FATAL.get(code, FatalError)(text)
        if self._is_stopping:
            return
        if now_s - process.started_s > FORGIVEN_AFTER_S:
            post.backoff_s = FIRST_BACKOFF_S
        post.due_s = now_s + post.backoff_s
        log.error(
            "intake process %d (pid %d) %s; another one starts in %g s",
            post.index, process.pid, _words(process.exit_code or 0), post.backoff_s,
        )  # fmt: skip
        post.backoff_s = min(2 * post.backoff_s, LONGEST_BACKOFF_S)

    def _part(self) -> None:
        there = [post.process for post in self.posts if post.process is not None]
        if self._deadline is None:
            self._deadline = Deadline(self._drain_timeout_s + LEAVING_S)
            for process in there:
                if process.is_serving:
                    process.stop()
                else:
                    process.kill()  # it has taken nothing in
        elif self._deadline.is_over:
            for process in there:
                log.error("an intake process (pid %d) did not end in time and is killed", process.pid)
                process.kill()
        elif all(process.is_drained for process in there):
            # Together: who leaves makes the others join anew, and while one joins, it can neither commit nor leave,
            # so that the group would miss it only when its session times out.
            for process in there:
                process.leave()


def _words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by {signal.Signals(-code).name}"
