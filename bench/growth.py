"""What a process holds over time, and whether that grows."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import psutil

ALLOWED_SHARE = 0.03
ALLOWED_RSS_MIB = 8.0
ALLOWED_COUNT = 2
FEWEST = 20  # samples, from which anything can be said


@dataclass(frozen=True)
class Holding:
    """At one moment; of a process and its children."""

    at_s: float
    rss_mib: float
    threads: int
    files: int
    gpu_mib: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def look(process: psutil.Process, at_s: float) -> Holding:
    """What it holds now.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    rss, threads, files = process.memory_info().rss, process.num_threads(), process.num_fds()
    pids = {process.pid}
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            rss += child.memory_info().rss
            threads += child.num_threads()
            files += child.num_fds()
            pids.add(child.pid)
    return Holding(round(at_s, 1), round(rss / 2**20, 2), threads, files, _gpu_mib(pids))


def faults(held: Sequence[Holding]) -> list[str]:
    """What has grown, in words: the last quarter beside the second one, for the first one warms up.

    Raises:
        ValueError: there are too few samples.
    """
    if len(held) < FEWEST:
        raise ValueError(f"{len(held)} samples say nothing of growth, {FEWEST} would")
    quarter = len(held) // 4
    before, after = held[quarter : 2 * quarter], held[-quarter:]
    found = []
    for name, least in (
        ("rss_mib", ALLOWED_RSS_MIB),
        ("gpu_mib", ALLOWED_RSS_MIB),
        ("threads", ALLOWED_COUNT),
        ("files", ALLOWED_COUNT),
    ):
        was, now = (median(getattr(each, name) for each in part) for part in (before, after))
        allowed = max(least, was * ALLOWED_SHARE if name.endswith("mib") else 0.0)
        if now - was > allowed:
            found.append(f"{name} grew from {was:g} to {now:g}; {allowed:g} more would be chance")
    return found


def _gpu_mib(pids: set[int]) -> float:
    query = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
        rows = [line.split(",") for line in lines]
        known = [float(used) for pid, used in rows if used.strip().isdecimal() and int(pid) in pids]
        if known:
            return sum(known)
        # pids of another namespace: all that is in use on the GPU
        ours = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        whole = ("nvidia-smi", f"--id={ours}", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
        return float(subprocess.run(whole, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0])
    return 0.0
