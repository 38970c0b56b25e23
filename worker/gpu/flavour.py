"""The one import point of TensorRT, whichever flavour is installed."""

from __future__ import annotations

import functools
import importlib
from typing import Any, NamedTuple

from worker.errors import EngineError

FULL, LEAN, RTX = "tensorrt", "tensorrt_lean", "tensorrt_rtx"

MODULES = (  # in order of preference; the bindings are what PyPI has without NVIDIA's own index
    ("tensorrt", FULL),
    ("tensorrt_bindings", FULL),
    ("tensorrt_lean", LEAN),
    ("tensorrt_lean_bindings", LEAN),
    ("tensorrt_rtx", RTX),
    ("tensorrt_rtx_bindings", RTX),
)


class TensorRt(NamedTuple):
    """An imported TensorRT."""

    module: Any
    flavour: str  # FULL, LEAN or RTX
    version: str  # major.minor.patch

    @property
    def can_build(self) -> bool:
        return hasattr(self.module, "Builder") and hasattr(self.module, "OnnxParser")


@functools.cache
def load_tensorrt(flavour: str | None = None) -> TensorRt:
    """Import TensorRT.

    Args:
        flavour: only this one; None: the first that is installed.

    Raises:
        EngineError: none is installed, or its libraries cannot be loaded; says which were tried.
    """
    faults: list[str] = []
    for name, kind in MODULES:
        if flavour not in (None, kind):
            continue
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                continue
            faults.append(f"{name}: {error}")
        except (ImportError, OSError, RuntimeError) as error:  # libnvinfer not on the library path, most of the time
            faults.append(f"{name}: {error}")
        else:
            return TensorRt(module, kind, _three_numbers(module.__version__))
    wanted = flavour or "TensorRT"
    why = "; ".join(faults) if faults else "not installed"
    raise EngineError(f"{wanted} cannot be used ({why}); install the extra `gpu` or `rtx`, or set engine.backend: cpu")


def _three_numbers(version: str) -> str:
    """10.13.3.9.post1 -> 10.13.3: packages of one release differ behind that, its plans do not."""
    numbers = [part for part in version.split(".") if part.isdigit()]
    return ".".join(numbers[:3])
