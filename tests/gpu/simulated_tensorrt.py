"""A TensorRT that runs on the host: a plan is a function of arrays, executed on the simulated CUDA runtime."""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.gpu.simulated_cuda import SimulatedCuda
from worker.tensors import DATATYPES

TRT_NAMES = {"FP32": "FLOAT", "FP16": "HALF", "BF16": "BF16", "INT64": "INT64", "INT32": "INT32", "UINT8": "UINT8"}

Function = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


class SimulatedPlan:
    """What deserialising a plan gives: tensors, profiles, and the function it computes."""

    def __init__(
        self,
        inputs: Mapping[str, tuple[str, tuple[int, ...]]],
        outputs: Mapping[str, tuple[str, tuple[int, ...]]],
        profiles: list[Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]],
        function: Function,
        *,
        activation_bytes: int = 1024,
    ) -> None:
        self.inputs = inputs  # name -> (datatype, shape)
        self.outputs = outputs
        self.profiles = profiles
        self.function = function
        self.activation_bytes = activation_bytes
        self.refuses = False  # execute_async_v3 returns False
        self.graph_answer: Function | None = None  # a bug: what is captured computes this instead
        self.contexts = 0
        self.most_contexts = 1 << 30  # more find no memory
        self.is_too_large = False  # its weights find no memory
        self.streams_weights = False


def simulated_tensorrt(cuda: SimulatedCuda, plan: SimulatedPlan) -> Any:
    """A module with as much of TensorRT's API as running a plan takes."""

    class Severity:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        pass

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class Context:
        def __init__(self) -> None:
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.addresses: dict[str, int] = {}
            self.profile = -1
            self.has_memory = False
            plan.contexts += 1

        def __del__(self) -> None:
            plan.contexts -= 1

        def set_device_memory(self, address: int, size: int) -> None:
            self.has_memory = address % 256 == 0 and size >= plan.activation_bytes

        def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
            self.profile = profile
            return True

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return address % 256 == 0

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            least, _, largest = plan.profiles[self.profile][name]
            self.shapes[name] = tuple(shape)
            return all(a <= b <= c for a, b, c in zip(least, shape, largest, strict=True))

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            arrays = {key: np.zeros(self.shapes[key], DATATYPES[kind]) for key, (kind, _) in plan.inputs.items()}
            return plan.function(arrays)[name].shape

        def execute_async_v3(self, stream: int) -> bool:
            if plan.refuses or not self.has_memory or set(self.addresses) != {*plan.inputs, *plan.outputs}:
                return False
            shapes = dict(self.shapes)
            function = plan.function
            if stream in cuda.capturing and plan.graph_answer is not None:
                function = plan.graph_answer

            def work() -> None:
                arrays = {
                    name: _array(self.addresses[name], kind, shapes[name]).copy()
                    for name, (kind, _) in plan.inputs.items()
                }
                for name, array in function(arrays).items():
                    _array(self.addresses[name], plan.outputs[name][0], array.shape)[...] = array

            cuda.enqueue(stream, work)
            return True

    class Engine:
        num_optimization_profiles = len(plan.profiles)
        device_memory_size_v2 = plan.activation_bytes
        num_io_tensors = len(plan.inputs) + len(plan.outputs)
        streamable_weights_size = 4096
        weight_streaming_budget_v2 = 1024 if plan.streams_weights else 4096

        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def get_tensor_name(self, place: int) -> str:
            return [*plan.inputs, *plan.outputs][place]

        def get_tensor_mode(self, name: str) -> str:
            return "input" if name in plan.inputs else "output"

        def get_tensor_dtype(self, name: str) -> Any:
            return types.SimpleNamespace(name=TRT_NAMES[{**plan.inputs, **plan.outputs}[name][0]])

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return {**plan.inputs, **plan.outputs}[name][1]

        def get_tensor_location(self, name: str) -> str:
            return "device"

        def get_tensor_format(self, name: str, profile: int) -> str:
            return "linear"

        def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
            return plan.profiles[profile][name]

        def create_execution_context(self, strategy: str) -> Context | None:
            assert strategy == "user managed"
            if plan.contexts < plan.most_contexts:
                return Context()
            self._logger.log(Severity.ERROR, "simulated: Cuda Runtime (out of memory)")
            return None

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            if data.startswith(b"plan") and not plan.is_too_large:
                return Engine(self._logger)
            reason = "simulated: OutOfMemory (Requested size was 9 bytes.)"
            self._logger.log(Severity.ERROR, reason if plan.is_too_large else "simulated: not a plan")
            return None

    module = types.ModuleType("simulated_tensorrt")
    module.__dict__.update(
        ILogger=ILogger,
        Runtime=Runtime,
        TensorIOMode=types.SimpleNamespace(INPUT="input", OUTPUT="output"),
        TensorLocation=types.SimpleNamespace(DEVICE="device"),
        TensorFormat=types.SimpleNamespace(LINEAR="linear"),
        ExecutionContextAllocationStrategy=types.SimpleNamespace(USER_MANAGED="user managed"),
    )
    return module


def _array(address: int, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    dtype = DATATYPES[datatype]
    size = int(np.prod(shape)) * dtype.itemsize
    block = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(block).view(dtype).reshape(shape)
