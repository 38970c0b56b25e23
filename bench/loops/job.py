"""What a loop is told: where to read, where to write, when to stop."""

from __future__ import annotations

import argparse
import signal
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType


@dataclass
class Job:
    """The command line of a loop, and whether it should go on."""

    bootstrap_servers: str
    group_id: str
    input_topic: str
    output_topic: str
    model: Path
    answer_bytes: int | None = None  # raw: cut to this
    processes: int = 1
    quick: bool = False  # raw: without the client library's rest after a full queue
    is_running: bool = field(default=True)

    def arguments(self) -> list[str]:
        """The command line that makes this job, but for its processes: each of them gets the rest."""
        told = {
            "--bootstrap-servers": self.bootstrap_servers,
            "--group-id": self.group_id,
            "--input-topic": self.input_topic,
            "--output-topic": self.output_topic,
            "--model": str(self.model),
        }
        if self.answer_bytes is not None:
            told["--answer-bytes"] = str(self.answer_bytes)
        return [part for pair in told.items() for part in pair] + ["--quick"] * self.quick

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.is_running = False


def from_command_line() -> Job:
    """Read the arguments and let SIGTERM end the loop."""
    parser = argparse.ArgumentParser()
    for name in ("bootstrap-servers", "group-id", "input-topic", "output-topic"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--answer-bytes", type=int)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    job = Job(**vars(parser.parse_args()))
    signal.signal(signal.SIGTERM, job.stop)
    return job
