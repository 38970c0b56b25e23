"""Who is measured: each contestant is a command that reads one topic, writes another, and stops at SIGTERM."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from bench.loops.job import Job

Command = Callable[[Job, Path], list[str]]


def loop(name: str) -> Command:
    """One of bench/loops."""

    def command(job: Job, _scratch: Path) -> list[str]:
        arguments = {
            "--bootstrap-servers": job.bootstrap_servers,
            "--group-id": job.group_id,
            "--input-topic": job.input_topic,
            "--output-topic": job.output_topic,
            "--model": str(job.model),
        }
        return [sys.executable, "-m", f"bench.loops.{name}", *(part for pair in arguments.items() for part in pair)]

    return command


def exactly_once(job: Job, scratch: Path) -> list[str]:
    """The worker in its delivery mode exactly_once."""
    return worker(job, scratch, mode="exactly_once")


def worker(job: Job, scratch: Path, mode: str = "at_least_once") -> list[str]:
    """`trt-worker run` with default settings; TRT_WORKER__… variables change them, as ever."""
    settings = {
        "model": {"name": "pass-through", "version": "1", "onnx": str(job.model)},
        "engine": {"backend": "cpu"},
        "kafka": {
            "bootstrap_servers": job.bootstrap_servers,
            "group_id": job.group_id,
            "input_topic": job.input_topic,
            "output_topic": job.output_topic,
        },
        "delivery": {"errors_to": "output", "mode": mode},
        "http": {"host": "127.0.0.1", "port": 0},
        "logging": {"format": "text"},
    }
    path = scratch / "worker.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return [sys.executable, "-m", "worker", "run", "--config", str(path)]


RAW = "raw"
CONTESTANTS: dict[str, Command] = {
    RAW: loop("raw"),
    "worker": worker,
    "worker-eos": exactly_once,
    "careful": loop("careful"),
}
