"""Who is measured: each contestant is a command that reads one topic, writes another, and stops at SIGTERM.

raw                  the same bytes in and out, fetched as the client library does by default; raw-N: N processes
raw-quick            the bound: the same, without the library's rest after its queue was full; also with -N
pull                 the same requests in, and as many bytes out as an answer has; pull-N: N processes
worker               trt-worker run; -eos, -queue: its delivery modes; -intake-N: N intake processes
worker-no-metrics    the worker with everything taken out that only counts
careful              a loop written by hand with care: 64 records, one batched run
batch-1              the loop that one writes first: a record, a run, an answer
quix                 Quix Streams with a batching sink, in an environment of its own
triton               Triton behind a bridge, the same
ideal                no contestant: what the hardware can do with the model, without Kafka
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bench import peers
from bench.loops.job import Job
from bench.scenario import Scenario

MODES = {"": "at_least_once", "-eos": "exactly_once", "-queue": "queue"}
WORKER = re.compile(r"worker(?P<mode>-eos|-queue)?(?P<quiet>-no-metrics)?(-intake-(?P<intake>[1-9]\d*))?")
LOOP = re.compile(r"(?P<loop>raw|pull)(?P<quick>-quick)?(-(?P<processes>[1-9]\d*))?")
RAW, QUICK, IDEAL = "raw", "raw-quick", "ideal"
HAND_WRITTEN = ("careful", "batch-1")
OTHERS = (*HAND_WRITTEN, *peers.PEERS)  # what one would run in the worker's place
USUAL = (RAW, QUICK, "worker", "worker-eos", *OTHERS)


@dataclass(frozen=True)
class Subject:
    """What the contestants are to run.

    Args:
        scenario: which requests.
        model: its ONNX file.
        answer_bytes: of an answer's value, about.
        engines: engine repository; None: the model's ONNX file on the CPU.
        settings: sections over the worker's defaults.
    """

    scenario: Scenario
    model: Path
    answer_bytes: int = 0
    engines: Path | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def is_known(name: str) -> bool:
    """Whether there is such a contestant."""
    return bool(WORKER.fullmatch(name) or LOOP.fullmatch(name)) or name in {IDEAL, *OTHERS}


def is_loop(name: str) -> bool:
    """Whether its answers are the requests themselves."""
    return LOOP.fullmatch(name) is not None


def is_several(name: str) -> bool:
    """Whether its processes join the group one after the other; then only the middle of its time tells its rate."""
    told = WORKER.fullmatch(name) or LOOP.fullmatch(name)
    return told is not None and told.groupdict().get("intake", told.groupdict().get("processes")) not in (None, "1")


def command(name: str, job: Job, subject: Subject, scratch: Path) -> list[str]:
    """How to start it.

    Raises:
        RuntimeError: it cannot run here; says why.
    """
    if told := WORKER.fullmatch(name):
        return _worker(told, job, subject, scratch)
    if told := LOOP.fullmatch(name):
        cut = subject.answer_bytes if told["loop"] == "pull" else None
        own = replace(job, answer_bytes=cut, quick=bool(told["quick"]))
        return [sys.executable, "-m", "bench.loops.raw", *own.arguments(), "--processes", told["processes"] or "1"]
    if name in peers.PEERS:
        return [str(peers.python(name)), *peers.PEERS[name].arguments, *job.arguments()]
    return [sys.executable, "-m", f"bench.loops.{name.replace('-', '_')}", *job.arguments()]


def _worker(told: re.Match[str], job: Job, subject: Subject, scratch: Path) -> list[str]:
    mode, intake = MODES[told["mode"] or ""], int(told["intake"] or 1)
    path = write_settings(job, subject, scratch / f"{job.group_id}.yaml", mode=mode, intake_processes=intake)
    module = "bench.quiet_worker" if told["quiet"] else "worker"
    return [sys.executable, "-m", module, "run", "--config", str(path)]


def write_settings(
    job: Job, subject: Subject, path: Path, *, mode: str = "at_least_once", intake_processes: int = 1
) -> Path:
    """The worker's defaults, but for those of the scenario; TRT_WORKER__… variables change them, as ever."""
    scenario, engines = subject.scenario, subject.engines
    backend = {"backend": "cpu"} if engines is None else {"backend": "tensorrt", "repository": str(engines)}
    settings: dict[str, dict[str, Any]] = {
        "model": {"name": scenario.model, "version": "1", "onnx": str(job.model)},
        "engine": {**backend, "intake_processes": intake_processes},
        "kafka": {
            "bootstrap_servers": job.bootstrap_servers,
            "group_id": job.group_id,
            "input_topic": job.input_topic,
            "output_topic": job.output_topic,
        },
        "batching": {"max_rows": scenario.max_rows},
        "delivery": {"errors_to": "output", "mode": mode},
        "http": {"host": "127.0.0.1", "port": 0},
        "logging": {"format": "text"},
    }
    for section, values in subject.settings.items():
        settings[section] = {**settings.get(section, {}), **values}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path
