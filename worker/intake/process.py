"""One intake process, as the engine process sees it: started, asked, told to stop, found dead."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from worker.intake.memory import SeatMemory

log = logging.getLogger(__name__)

MODULE = "worker.assemble_intake"  # what runs in it


class IntakeProcess:
    """A running process, from construction on. Its link carries JSON lines: commands there, news back."""

    def __init__(self, memory: SeatMemory, hello: str) -> None:
        """Args:
        memory: its seats.
        hello: what it must know before it can start, packed.
        """
        self.started_s = time.monotonic()
        self.channel, its_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._link, its_link = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        descriptors = (its_channel.fileno(), its_link.fileno(), memory.fd)
        with its_channel, its_link:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # with -P: our own search path, exactly
                process_group=0,  # a terminal's Ctrl-C is for the parent, which then tells us all to stop
            )
        self.is_serving = False  # it is in touch with Kafka, and may have taken records in
        self.is_drained = False  # stopped, and waits for leave()
        self.is_calm = False  # its partitions hold nothing that must be run with care
        self.fatal: tuple[int, str] | None = None  # exit code and message of an error that no restart mends
        self.report: Mapping[str, Any] | None = None  # the last one
        self.reported_s = 0.0
        self._asked = 0
        self._answered = 0
        self._news = threading.Condition()
        self._tell({"hello": hello})
        self._thread = threading.Thread(target=self._read, name=f"link-{self.pid}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._popen.poll()

    def ask(self) -> int:
        """Ask for a report; returns its number, for await_report(). One question at a time is on its way."""
        with self._news:
            if self._asked == self._answered:
                self._asked += 1
                self._tell({"ask": self._asked})
            return self._asked

    def await_report(self, number: int, timeout_s: float) -> bool:
        """Whether that report has come, after waiting so long for it."""
        with self._news:
            return self._news.wait_for(lambda: self._answered >= number or self.exit_code is not None, timeout_s)

    def stop(self) -> None:
        """Ask it to drain; it stays in the group until leave()."""
        self._tell({"stop": True})

    def leave(self) -> None:
        """Let one that has drained leave the group and end."""
        self._tell({"leave": True})

    def kill(self) -> None:
        """End it where it stands; its partitions move when the group misses it."""
        self._popen.kill()

    def close(self) -> None:
        """Take in the last news of a process that has ended, and forget it."""
        self._popen.wait()
        self._thread.join()  # its end of the link is closed: all that it said is read
        self._link.close()

    def _tell(self, command: Mapping[str, Any]) -> None:
        with suppress(OSError):  # it has ended; whoever looks at exit_code finds out
            self._link.sendall(json.dumps(command).encode() + b"\n")

    def _read(self) -> None:
        with self._link.makefile("rb") as lines, suppress(OSError):
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # it died in the middle of a word
                self._note(json.loads(line))
        with self._news:
            self._answered = self._asked  # there will be no more
            self._news.notify_all()

    def _note(self, news: Mapping[str, Any]) -> None:
        with self._news:
            if "number" in news:
                if "report" in news:
                    self.report, self.reported_s = news["report"], time.monotonic()
                self._answered = news["number"]
                self._news.notify_all()
            elif "fatal" in news:
                self.fatal = (news["fatal"], news["text"])
            elif "serving" in news:
                self.is_serving = True
            elif "drained" in news:
                self.is_drained = True
            elif "calm" in news:
                self.is_calm = True
