"""One process of real Apache Kafka."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests import kafka_jars

STOP_DEADLINE_S = 20.0


class KafkaNode:
    """One Kafka process, broker and controller in one; can be stopped, killed and started again on the same data."""

    def __init__(self, node_id: int, directory: Path, ports: Mapping[str, int], jvm: Sequence[str]) -> None:
        self.node_id = node_id
        self.ports = dict(ports)  # listener name -> port
        self.log = directory / "server.log"
        self._properties = directory / "server.properties"
        self._jvm = list(jvm)
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def format(self, cluster_id: str, properties: Mapping[str, str]) -> None:
        """Write the properties file and prepare the data folder, once."""
        self._properties.parent.mkdir(parents=True)
        lines = [f"{key}={value}" for key, value in properties.items()]
        self._properties.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = self._java("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(self._properties))
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"Kafka's storage could not be formatted:\n{done.stdout[-4000:]}")

    def launch(self) -> None:
        """Start the process and return at once."""
        if self.pid is not None:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._properties)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests; they stop Kafka themselves
            )
        # Ends Kafka when this process ends in whatever way: its stdin is a pipe that only we hold open.
        self._reaper = subprocess.Popen(
            ["sh", "-c", 'cat >/dev/null; kill -KILL "$0" 2>/dev/null', str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def await_ports(self, deadline_s: float) -> None:
        """Wait until our own process (no stranger) listens on every port; deadline_s is on the monotonic clock."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        wanted = set(self.ports.values())
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"Kafka node {self.node_id} ended with {self._process.returncode}:\n{self.log_tail()}"
                )
            with contextlib.suppress(psutil.Error):
                mine = {
                    entry.laddr.port for entry in process.net_connections("tcp") if entry.status == psutil.CONN_LISTEN
                }
                if wanted <= mine:
                    return
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"Kafka node {self.node_id} does not listen on {wanted}:\n{self.log_tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut down in order (SIGTERM): leaderships move, logs are flushed. Kills it after 20 s."""
        self.signal(signal.SIGTERM)
        self.await_end(time.monotonic() + STOP_DEADLINE_S)

    def kill(self) -> None:
        """End at once (SIGKILL), as a crash would."""
        self.signal(signal.SIGKILL)
        self.await_end(time.monotonic() + STOP_DEADLINE_S)

    def signal(self, which: signal.Signals) -> None:
        """Send a signal, if it runs. SIGSTOP makes a stalled machine: connections stay open, nothing answers."""
        if self._process is not None:
            self._process.send_signal(which)

    def await_end(self, deadline_s: float) -> None:
        """Wait until the process has ended; kill it at deadline_s of the monotonic clock."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)  # a stopped process does not see other signals
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reaper is not None:
            self._reaper.kill()
            self._reaper.communicate()
            self._reaper = None

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the server's log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _java(self, *arguments: str) -> list[str]:
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return ["java", *self._jvm, quiet, "-cp", f"{kafka_jars.fetched()}/*", *arguments]
