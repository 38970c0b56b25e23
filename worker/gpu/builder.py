"""ONNX -> plan with TensorRT's builder; one code path for majors 10 and 11 and for TensorRT-RTX."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.errors import ConfigError, EngineError
from worker.gpu.datatypes import datatype_name
from worker.gpu.flavour import RTX, TensorRt
from worker.gpu.logger import log, make_logger
from worker.gpu.progress import OnProgress, make_monitor
from worker.tensors import Shape

POLL_S = 0.1  # how soon Ctrl-C is heard


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A plan in memory."""

    plan: bytes
    timing_cache: bytes  # empty where the flavour keeps none
    datatypes: Mapping[str, str]  # of the plan's inputs and outputs


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What the builder is told besides the model."""

    workspace_mib: int | None = None  # None: as much as the GPU has
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    max_aux_streams: int | None = None


def build_plan(
    trt: TensorRt,
    onnx: Path,
    profiles: Sequence[Mapping[str, tuple[Shape, Shape, Shape]]],
    options: BuildOptions,
    timing_cache: bytes = b"",
    *,
    on_progress: OnProgress = lambda _phase, _fraction: None,
    prepare_thread: Callable[[], None] = lambda: None,
) -> BuiltPlan:
    """Parse and build; seconds to minutes. Ctrl-C ends it at the builder's next step.

    Args:
        trt: from load_tensorrt().
        onnx: the model; its external weights lie beside it.
        profiles: per profile, per input: least, best and largest shape; empty: all shapes are fixed.
        options: see there.
        timing_cache: of an earlier build on the same GPU.
        on_progress: called from the builder's thread with (phase, fraction).
        prepare_thread: called first on the builder's thread; makes the right GPU current.

    Raises:
        ConfigError: an option this TensorRT does not have.
        EngineError: not parsed (every parser error is in the message) or not built (TensorRT's reason is).
    """
    if not trt.can_build:
        raise EngineError(f"{trt.flavour} {trt.version} only runs plans; build with the full TensorRT or TensorRT-RTX")
    should_stop = threading.Event()

    def work() -> BuiltPlan:
        prepare_thread()
        return _build(trt, onnx, profiles, options, timing_cache, make_monitor(trt.module, on_progress, should_stop))

    # A thread of its own: an exception raised inside a callback of the builder would have to pass through C++.
    with ThreadPoolExecutor(1, thread_name_prefix="build") as pool:
        future = pool.submit(work)
        try:
            return _wait(future)
        except BaseException:
            should_stop.set()
            raise


def _wait(future: Future[BuiltPlan]) -> BuiltPlan:
    while True:
        try:
            return future.result(POLL_S)
        except NotYet:
            if future.done():
                raise


def _build(
    trt: TensorRt,
    onnx: Path,
    profiles: Sequence[Mapping[str, tuple[Shape, Shape, Shape]]],
    options: BuildOptions,
    timing_cache: bytes,
    monitor: Any,
) -> BuiltPlan:
    module = trt.module
    logger = make_logger(module)
    logger.clear()
    try:
        builder = module.Builder(logger)
    except TypeError as error:  # what the bindings make of a null pointer
        raise EngineError(f"TensorRT's builder does not start: {logger.errors()}") from error
    network = builder.create_network(_network_flags(module))
    parser = module.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        raise EngineError(_parser_errors(onnx, parser))
    config = builder.create_builder_config()
    config.progress_monitor = monitor
    _set_options(module, config, options)
    for shapes in profiles:
        _add_profile(builder, config, shapes)
    cache = _attach_cache(trt, config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT cannot build {onnx.name}: {logger.errors()}")
    tensors = [network.get_input(place) for place in range(network.num_inputs)]
    tensors += [network.get_output(place) for place in range(network.num_outputs)]
    return BuiltPlan(
        plan=bytes(plan),
        timing_cache=bytes(cache.serialize()) if cache is not None else b"",
        datatypes={tensor.name: datatype_name(tensor.dtype) for tensor in tensors},
    )


def _network_flags(module: Any) -> int:
    """Strongly typed, which newer versions know only; explicit batch needs no asking since major 10."""
    flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(onnx: Path, parser: Any) -> str:
    lines = []
    for place in range(parser.num_errors):
        error = parser.get_error(place)
        where = f"node {error.node()}"
        if hasattr(error, "node_name"):
            where += f" {error.node_name()!r} ({error.node_operator()})"
        text = " ".join(error.desc().split())
        lines.append(f"{where}: {error.code().name}: {text} [{Path(error.file()).name}, line {error.line()}]")
    return "\n  ".join([f"TensorRT cannot parse {onnx.name}, {len(lines)} error(s):", *lines])


def _set_options(module: Any, config: Any, options: BuildOptions) -> None:
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.hardware_compatibility != "none":
        level = getattr(module.HardwareCompatibilityLevel, options.hardware_compatibility.upper(), None)
        if level is None:
            known = ", ".join(name.lower() for name in module.HardwareCompatibilityLevel.__members__)
            raise ConfigError(
                f"--hardware-compatible is {options.hardware_compatibility}, which TensorRT {module.__version__} "
                f"does not have; it has {known}"
            )
        config.hardware_compatibility_level = level
    if options.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams


def _add_profile(builder: Any, config: Any, shapes: Mapping[str, tuple[Shape, Shape, Shape]]) -> None:
    profile = builder.create_optimization_profile()
    for name, (least, best, largest) in shapes.items():
        try:
            profile.set_shape(name, least, best, largest)
        except ValueError as error:
            raise EngineError(
                f"TensorRT refuses the range {least}, {best}, {largest} for input {name!r}: {error}"
            ) from error
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"TensorRT refuses the profile {dict(shapes)}; MIN, OPT and MAX must cover every free axis")


def _attach_cache(trt: TensorRt, config: Any, known: bytes) -> Any:
    """Start from what earlier builds measured; an unusable cache is replaced by an empty one."""
    if trt.flavour == RTX:
        return None  # measures nothing at build time
    for data in (known, b""):
        try:
            cache = config.create_timing_cache(data)
        except (RuntimeError, TypeError):
            cache = None
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        log.warning("the timing cache does not fit this GPU or TensorRT; starting with an empty one")
    return None
