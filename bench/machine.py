"""Where it was measured."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import confluent_kafka
import psutil

from tests.kafka_jars import KAFKA_VERSION
from worker.errors import EngineError
from worker.gpu.flavour import load_tensorrt

PACKAGES = ("confluent-kafka", "onnxruntime", "msgspec", "msgpack", "numpy")


@functools.cache
def facts() -> dict[str, str | int | float]:
    """Processor, memory and the versions that matter."""
    facts: dict[str, str | int | float] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(os.getloadavg()[0], 1),  # at the start
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        "java": _java(),
        "librdkafka": confluent_kafka.libversion()[0],
    }
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            facts[package] = version(package)
    if found := gpus():
        facts["gpu"] = found[0]
        with contextlib.suppress(EngineError):
            trt = load_tensorrt()
            facts["tensorrt"] = f"{trt.flavour} {trt.version}"
    return facts


def gpus() -> list[str]:
    """Name and driver of each GPU."""
    query = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        return [line.strip() for line in found.stdout.splitlines()]
    return []


def _java() -> str:
    with contextlib.suppress(OSError):
        said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr.splitlines()
        return said[0] if said else "unknown"
    return "none"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
