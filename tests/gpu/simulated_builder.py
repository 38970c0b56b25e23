"""TensorRT's builder as far as the worker drives it: it notes what it is told, and builds nothing."""

from __future__ import annotations

import enum
import types
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

TRT_NAMES = {TensorProto.FLOAT: "FLOAT", TensorProto.INT64: "INT64"}


class Level(enum.Enum):
    NONE, AMPERE_PLUS, SAME_COMPUTE_CAPABILITY = range(3)


class Flag(enum.Enum):
    VERSION_COMPATIBLE = 0


class Pool(enum.Enum):
    WORKSPACE = 0


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, least: Any, best: Any, largest: Any) -> None:
        self.shapes[name] = (least, best, largest)


class TimingCache:
    """Bytes that grow with every build."""

    def __init__(self, known: bytes) -> None:
        self.known = known

    def serialize(self) -> bytes:
        return self.known + b"measured;"


class Config:
    """What one build was told."""

    def __init__(self) -> None:
        self.limits: dict[Pool, int] = {}
        self.flags: set[Flag] = set()
        self.hardware_compatibility_level = Level.NONE
        self.max_aux_streams = -1  # TensorRT's own choice
        self.progress_monitor: Any = None
        self.profiles: list[Profile] = []
        self.caches: list[bytes] = []  # that were offered
        self.cache: TimingCache | None = None

    def set_memory_pool_limit(self, pool: Pool, size: int) -> None:
        self.limits[pool] = size

    def set_flag(self, flag: Flag) -> None:
        self.flags.add(flag)

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, known: bytes) -> TimingCache:
        self.caches.append(known)
        return TimingCache(known)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.known.startswith(b"foreign") and not ignore_mismatch:
            return False
        self.cache = cache
        return True


class Network:
    def __init__(self) -> None:
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, place: int) -> Any:
        return self.inputs[place]

    def get_output(self, place: int) -> Any:
        return self.outputs[place]


class OnnxParser:
    def __init__(self, network: Network, logger: Any) -> None:
        self._network = network

    def parse_from_file(self, path: str) -> bool:
        graph = onnx.load(str(Path(path)), load_external_data=False).graph
        self._network.inputs = [_tensor(info) for info in graph.input]
        self._network.outputs = [_tensor(info) for info in graph.output]
        return True


def _tensor(info: Any) -> Any:
    kind = types.SimpleNamespace(name=TRT_NAMES[info.type.tensor_type.elem_type])
    return types.SimpleNamespace(name=info.name, dtype=kind)


def simulated_builder() -> tuple[Any, list[Config]]:
    """(module, what each of its builds is told)."""
    configs: list[Config] = []

    class ILogger:
        Severity = types.SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

    class Builder:
        def __init__(self, logger: Any) -> None:
            pass

        def create_network(self, flags: int) -> Network:
            return Network()

        def create_builder_config(self) -> Config:
            configs.append(Config())
            return configs[-1]

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes:
            return b"plan"

    module = types.ModuleType("simulated_builder")
    module.__dict__.update(
        ILogger=ILogger,
        IProgressMonitor=type("IProgressMonitor", (), {}),
        NetworkDefinitionCreationFlag=types.SimpleNamespace(STRONGLY_TYPED=1),
        HardwareCompatibilityLevel=Level,
        BuilderFlag=Flag,
        MemoryPoolType=Pool,
        Builder=Builder,
        OnnxParser=OnnxParser,
    )
    return module, configs
