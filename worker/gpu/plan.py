"""A deserialised plan: checked against its manifest, and the source of execution contexts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.errors import BatchError, EngineError
from worker.gpu.cuda_runtime import Handle
from worker.gpu.datatypes import datatype_name
from worker.gpu.flavour import TensorRt
from worker.gpu.layout import Profile, rows_at_most, tensor_bytes
from worker.gpu.logger import TrtLogger, make_logger
from worker.tensors import ModelSpec, Shape


class Plan:
    """A CUDA engine on the current device. Contexts must be gone before it goes."""

    def __init__(
        self, trt: TensorRt, path: Path, sha256: str, model: ModelSpec, *, allow_host_code: bool = False
    ) -> None:
        """Read, check the sum, deserialise, compare with the manifest.

        Args:
            trt: the TensorRT that is to run it.
            path: the plan.
            sha256: what the manifest says; checked before TensorRT sees a byte, for it does not notice flipped ones.
            model: what the manifest says of inputs and outputs; the order the pipeline knows.
            allow_host_code: let a version-compatible plan run the code it brings for the host.

        Raises:
            EngineError: damaged, foreign, or not what the manifest says; TensorRT's own reason is in the message.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise EngineError(f"cannot read the plan {path}: {error.strerror}") from error
        if (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise EngineError(
                f"{path} is damaged: sha256 {found[:12]}…, its manifest says {sha256[:12]}…; build it again"
            )
        self.model = model
        self._trt = trt.module
        self._logger = make_logger(trt.module)
        self._logger.clear()
        self._runtime = self._trt.Runtime(self._logger)
        if allow_host_code:
            self._runtime.engine_host_code_allowed = True
        self._engine: Any = self._runtime.deserialize_cuda_engine(data) if data else None
        if self._engine is None:
            raise EngineError(f"{trt.flavour} {trt.version} cannot load {path}: {self._logger.errors()}")
        self._check_tensors(path)
        self.profiles = tuple(self._profile(index) for index in range(self._engine.num_optimization_profiles))

    @property
    def activation_bytes(self) -> int:
        """Device memory of an execution besides weights, inputs and outputs; contexts that take turns share it."""
        return int(self._engine.device_memory_size_v2)

    @property
    def uncapturable(self) -> str:
        """Why this plan's executions cannot become CUDA graphs, or "" where they may."""
        streamable = getattr(self._engine, "streamable_weights_size", 0)
        if streamable and self._engine.weight_streaming_budget_v2 < streamable:
            return "the plan streams its weights"
        return ""

    def context(
        self, profile: Profile, addresses: Mapping[str, int], activation: int | None, *, stream: Handle
    ) -> Context:
        """A new execution context on one profile; two contexts with one activation buffer must not run at once.

        Args:
            profile: one of self.profiles.
            addresses: device address of every input and output.
            activation: device memory of activation_bytes, kept until the context's last execution is complete; None
                for a context that only answers questions.
            stream: what the choice of the profile is enqueued on.

        Raises:
            EngineError: TensorRT refuses (often: out of device memory); its reason is in the message.
        """
        self._logger.clear()
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(f"TensorRT gives no execution context: {self._logger.errors()}")
        if activation is not None:
            context.set_device_memory(activation, self.activation_bytes)
        if not context.set_optimization_profile_async(profile.index, int(stream)):
            raise EngineError(f"TensorRT refuses profile {profile.index}: {self._logger.errors()}")
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise EngineError(f"TensorRT refuses the address of {name!r}: {self._logger.errors()}")
        return Context(context, self.model, self._logger)

    def output_bytes(self, max_rows: int, *, stream: Handle) -> list[int]:
        """Bytes each output needs at most, over all profiles, for up to max_rows rows.

        Raises:
            EngineError: an output's size depends on the data, or it has other rows than the inputs; names it.
        """
        sizes = [0] * len(self.model.outputs)
        for profile in self.profiles:
            context = self.context(profile, {}, None, stream=stream)  # never executed, so it needs no memory
            rows = rows_at_most(profile, max_rows)
            shapes = context.set_shapes(tuple((rows, *largest[1:]) for _, _, largest in profile.shapes))
            for place, (spec, shape) in enumerate(zip(self.model.outputs, shapes, strict=True)):
                if any(length < 0 for length in shape) or not shape or shape[0] != rows:
                    raise EngineError(
                        f"output {spec.name!r} has shape {list(shape)} for {rows} rows; "
                        "the worker needs one row out for each row in, of a length known beforehand"
                    )
                sizes[place] = max(sizes[place], tensor_bytes(spec.dtype.itemsize, shape))
        return sizes

    def close(self) -> None:
        """Free the engine; its contexts are gone already."""
        self._engine = None
        self._runtime = None

    def _check_tensors(self, path: Path) -> None:
        """The engine has exactly the manifest's inputs and outputs, on the device, in plain row-major order."""
        engine, trt = self._engine, self._trt
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        listed = {spec.name: (trt.TensorIOMode.INPUT, spec) for spec in self.model.inputs}
        listed |= {spec.name: (trt.TensorIOMode.OUTPUT, spec) for spec in self.model.outputs}
        if set(names) != set(listed):
            raise EngineError(
                f"{path} has the tensors {', '.join(sorted(names))}, its manifest {', '.join(sorted(listed))}"
            )
        for name, (mode, spec) in listed.items():
            datatype = datatype_name(engine.get_tensor_dtype(name))
            if engine.get_tensor_mode(name) != mode or datatype != spec.datatype:
                raise EngineError(f"{path} has {name!r} as {datatype}, its manifest as {spec.datatype}; build it again")
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise EngineError(f"tensor {name!r} of {path} decides about shapes; the worker serves data only")
            indices = range(engine.num_optimization_profiles)
            if any(engine.get_tensor_format(name, index) != trt.TensorFormat.LINEAR for index in indices):
                raise EngineError(f"tensor {name!r} of {path} is not plain row-major; build it without direct I/O")

    def _profile(self, index: int) -> Profile:
        shapes: list[tuple[Shape, Shape, Shape]] = []
        for spec in self.model.inputs:
            fixed = tuple(self._engine.get_tensor_shape(spec.name))
            if all(length >= 0 for length in fixed):
                shapes.append((fixed, fixed, fixed))
            else:
                least, best, largest = (
                    tuple(shape) for shape in self._engine.get_tensor_profile_shape(spec.name, index)
                )
                shapes.append((least, best, largest))
        return Profile(index, tuple(shapes))


class Context:
    """One execution context. Every refusal of TensorRT becomes an exception."""

    def __init__(self, context: Any, model: ModelSpec, logger: TrtLogger) -> None:
        self._context = context
        self._model = model
        self._logger: TrtLogger = logger
        self._shapes: tuple[Shape, ...] = ()
        self._outputs: tuple[Shape, ...] = ()

    def set_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        """Set the inputs' whole shapes; returns the outputs' (-1 where they depend on the data).

        Raises:
            BatchError: not within the context's profile.
        """
        wanted = tuple(shapes)
        if wanted != self._shapes:
            self._shapes = ()
            for spec, shape in zip(self._model.inputs, wanted, strict=True):
                if not self._context.set_input_shape(spec.name, shape):
                    raise BatchError(f"TensorRT refuses shape {list(shape)} for input {spec.name!r}: {self._reason()}")
            self._outputs = tuple(tuple(self._context.get_tensor_shape(spec.name)) for spec in self._model.outputs)
            self._shapes = wanted
        return self._outputs

    def execute(self, *, stream: Handle) -> None:
        """Enqueue one execution with the shapes that are set.

        The inputs must not be written, and the outputs hold nothing, until the stream has come by.

        Raises:
            BatchError: TensorRT refuses; its reason is in the message.
        """
        if not self._context.execute_async_v3(int(stream)):
            raise BatchError(f"TensorRT cannot run the batch: {self._reason()}")

    def _reason(self) -> str:
        reason = self._logger.errors()
        self._logger.clear()
        return reason
