"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from worker import __version__
from worker.protocols import Backend


def machine_facts(backend: Backend) -> dict[str, Any]:
    """The machine and what runs the model, for people who compare figures."""
    told = {key: value for key, value in backend.describe().items() if value and key != "reason"}
    facts: dict[str, Any] = {"cpu": _cpu(), "cpu_cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    if told.get("gpu") not in {None, "cpu"}:
        facts["driver"] = driver_version()
    return {
        **told,
        **facts,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.release()}",
        "worker": __version__,
    }


def driver_version() -> str:
    """The NVIDIA driver's own version, which CUDA does not tell."""
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.splitlines()[0].strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
