"""What the hardware can do with the scenario's model, without Kafka: the ideal loop of `trt-worker bench`."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

from bench import contestants
from bench.contestants import IDEAL, Subject
from bench.loops.job import Job
from bench.one_round import Figures

SECONDS = "0.5"  # of each way to run it


def run(subject: Subject, scratch: Path, deadline_s: float) -> Figures:
    """The best of all ways, as records.

    Raises:
        RuntimeError: it did not end with 0; carries the end of its output.
        TimeoutError: it took too long.
    """
    mark = uuid.uuid4().hex[:8]
    job = Job("localhost:9092", mark, "requests", "answers", subject.model)  # of Kafka, nothing is used
    settings = contestants.write_settings(job, subject, scratch / f"{mark}.yaml")
    told = scratch / f"{mark}.json"
    rows = ["--rows", str(subject.scenario.max_rows), "--rows-per-request", str(subject.scenario.rows)]
    how = ["--rounds", "1", "--seconds", SECONDS, "--json", str(told)]
    command = [sys.executable, "-m", "worker", "bench", "--config", str(settings), *rows, *how]
    try:
        ended = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"the ideal loop took more than {deadline_s:g} s") from error
    if ended.returncode != 0:
        raise RuntimeError(f"trt-worker bench ended with {ended.returncode}:\n{ended.stdout[-2000:]}")
    rates = json.loads(told.read_text(encoding="utf-8"))["ideal_rows_per_s"]
    records_per_s = max(rates.values()) / subject.scenario.rows
    return Figures(IDEAL, records_per_s, records_per_s, 0.0, 0.0, 0, 0, 0, 0)
