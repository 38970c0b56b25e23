"""What a plan is built for: a GPU and a TensorRT, and the folder name made of both."""

from __future__ import annotations

import re
from dataclasses import dataclass

RTX = "tensorrt_rtx"
LEAN = "tensorrt_lean"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as far as the choice of a plan goes."""

    name: str  # as the driver gives it: "NVIDIA H200"
    compute_capability: str  # "9.0"

    def __str__(self) -> str:
        return f"{self.name}, compute capability {self.compute_capability}"


@dataclass(frozen=True, slots=True)
class Runtime:
    """The TensorRT that is to run (or build) a plan."""

    flavour: str  # tensorrt, tensorrt_lean or tensorrt_rtx
    version: str  # major.minor.patch

    @property
    def makes(self) -> str:
        """The flavour written into the manifests of its plans; a lean runtime runs those of the full one."""
        return RTX if self.flavour == RTX else "tensorrt"

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"


def gpu_key(gpu: Gpu | None, runtime: Runtime) -> str:
    """Folder name of a plan, e.g. sm90-nvidia-h200-trt10.6.0; `any-…` for one built for no GPU in particular."""
    suffix = f"{'rtx' if runtime.makes == RTX else 'trt'}{runtime.version}"
    if gpu is None:
        return f"any-{suffix}"
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    return f"sm{gpu.compute_capability.replace('.', '')}-{slug}-{suffix}"
