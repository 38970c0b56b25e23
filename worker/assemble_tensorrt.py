"""Where engine/ and gpu/ meet: this machine's TensorRT, the plan for its GPU, and the backend that runs it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from worker.config import Settings
from worker.engine.building import BuiltPlan, Order, build
from worker.engine.gpu_key import Gpu, Runtime
from worker.engine.manifest import Recipe
from worker.engine.onnx_model import read_onnx
from worker.engine.profiles import Profile, full_batches, shapes_of_buckets
from worker.engine.repository import Entry, Repository
from worker.engine.select import Choice, Fit, choose_verified
from worker.errors import ConfigError, EngineError, GpuError
from worker.gpu.backend import TensorRtBackend
from worker.gpu.builder import BuildOptions, build_plan
from worker.gpu.cuda_runtime import load_cuda
from worker.gpu.device import Device, find_device
from worker.gpu.flavour import RTX, TensorRt, load_tensorrt
from worker.gpu.loading import open_tensorrt_backend
from worker.gpu.progress import OnProgress
from worker.gpu.self_test import Reference

log = logging.getLogger(__name__)

FP16_TOLERANCE = 0.05  # of an output's largest value, for a plan that computes in FP16


@dataclass(frozen=True, slots=True)
class Machine:
    """The TensorRT of this process and the GPU it is to use."""

    trt: TensorRt
    device: Device | None  # None: no GPU here; TensorRT-RTX builds without one

    @property
    def runtime(self) -> Runtime:
        return Runtime(self.trt.flavour, self.trt.version)

    @property
    def gpu(self) -> Gpu | None:
        return Gpu(self.device.name, self.device.compute_capability) if self.device else None


def this_machine(device: int | str, flavour: str | None = None, *, needs_gpu: bool = True) -> Machine:
    """Find TensorRT and the GPU.

    Args:
        device: ordinal or UUID.
        flavour: only this TensorRT; None: the first that is installed.
        needs_gpu: False: TensorRT-RTX may do without one.

    Raises:
        EngineError: TensorRT or cuda-python is not installed.
        GpuError: no driver, or no GPU.
        ConfigError: GPUs, but not this one.
    """
    trt = load_tensorrt(flavour)
    try:
        return Machine(trt, find_device(device))
    except (GpuError, EngineError):
        if needs_gpu or trt.flavour != RTX:
            raise
        return Machine(trt, None)


def why_not_here(device: int | str) -> str:
    """Why engine.backend: auto does not mean tensorrt on this machine; empty where it does."""
    try:
        find_device(device)  # first, for without a GPU there is no need to load TensorRT's libraries
        load_tensorrt()
    except (GpuError, EngineError) as error:
        log.info("no TensorRT here: %s", error)
        return str(error)
    return ""


def choose_engine(
    repository: Repository, model: str, version: str, machine: Machine, *, onnx: Path | None, allow_host_code: bool
) -> Choice:
    """The best plan for this machine's GPU, verified; logs the verdict on each.

    Raises:
        EngineError: model.onnx cannot be read.
    """
    gpu = _gpu_of(machine)
    choice = choose_verified(
        repository.entries(model, version),
        gpu,
        machine.runtime,
        onnx_sha256=read_onnx(onnx).sha256 if onnx is not None else None,
        allow_host_code=allow_host_code,
    )
    for verdict in choice.verdicts:
        outcome = "refused" if verdict.fit is None else "passed over"
        if verdict.entry is choice.entry:
            outcome = "chosen"
        log.info("engine %s: %s: %s", verdict.entry.key, outcome, verdict.reason)
    return choice


def build_engine(
    repository: Repository,
    order: Order,
    machine: Machine,
    *,
    is_forced: bool = False,
    on_progress: OnProgress | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Entry:
    """Build what is ordered on this machine, for its GPU; see engine.building.build."""

    def make_plan(onnx: Path, profiles: Sequence[Profile], recipe: Recipe, timing_cache: bytes) -> BuiltPlan:
        options = BuildOptions(
            workspace_mib=recipe.workspace_mib,
            hardware_compatibility=recipe.hardware_compatibility,
            version_compatible=recipe.version_compatible,
            max_aux_streams=recipe.max_aux_streams,
        )
        device = machine.device
        return build_plan(
            machine.trt,
            onnx,
            profiles,
            options,
            timing_cache,
            on_progress=on_progress or (lambda _phase, _fraction: None),
            prepare_thread=partial(load_cuda().set_device, device.ordinal) if device else lambda: None,
        )

    return build(repository, order, machine.gpu, machine.runtime, make_plan, is_forced=is_forced, on_wait=on_wait)


@contextmanager
def open_backend(settings: Settings, reference: Reference | None = None) -> Iterator[TensorRtBackend]:
    """The plan that the settings name, chosen (or built) for this GPU, proved, and freed on exit.

    Args:
        settings: sections model, engine and batching are used.
        reference: the same model run by ONNX Runtime, for the self-test; None: only graphs against plain runs.

    Raises:
        EngineError: no plan fits, and none may be built; lists what is there and what this GPU is.
        GpuError: the GPU failed, or has too little memory for so many lanes.
        ConfigError: no such GPU, or a build was asked for without model.onnx.
    """
    machine = this_machine(settings.engine.device)
    entry, fit, reason = _engine_for(settings, machine)
    manifest = entry.manifest
    if manifest is None or machine.device is None:
        raise EngineError(f"{entry.folder} holds no engine: {entry.problem}")
    with open_tensorrt_backend(
        machine.trt,
        machine.device,
        entry.plan,
        manifest.plan_sha256,
        manifest.model_spec(),
        lanes=settings.engine.lanes,
        cuda_graphs=settings.engine.cuda_graphs,
        max_rows=settings.batching.max_rows,
        max_bytes=settings.batching.max_bytes,
        buckets=_buckets(settings),
        reference=reference,
        tolerance=FP16_TOLERANCE if manifest.recipe.precision == "fp16" else None,
        allow_host_code=settings.engine.allow_host_code,
        copies_in_graphs=settings.engine.intake_processes == 1,
        fit=fit.name.lower(),
        reason=reason,
    ) as backend:
        yield backend


def _engine_for(settings: Settings, machine: Machine) -> tuple[Entry, Fit, str]:
    repository = Repository(settings.engine.repository)
    model, version, onnx = settings.model.name, settings.model.version, settings.model.onnx
    choice = choose_engine(
        repository, model, version, machine, onnx=onnx, allow_host_code=settings.engine.allow_host_code
    )
    if choice.entry is not None and (fit := choice.verdicts[0].fit) is not None:
        return choice.entry, fit, choice.reason
    if not settings.engine.build_if_missing:
        raise EngineError(
            f"no engine for {model} version {version} in {repository.root} fits {_gpu_of(machine)} "
            f"with {machine.runtime}: "
            f"{choice.reason}; run trt-worker build here, or set engine.build_if_missing: true"
        )
    if onnx is None:
        raise ConfigError("engine.build_if_missing is true, which needs model.onnx; name the ONNX file")
    log.info("building an engine for %s (%s)", _gpu_of(machine), choice.reason)
    entry = build_engine(
        repository,
        _order(settings, onnx),
        machine,
        on_progress=_log_progress(),
        on_wait=lambda holder: log.info("%s is building this engine; waiting for it", holder),
    )
    return entry, Fit.EXACT, "built now for exactly this GPU"


def _order(settings: Settings, onnx: Path) -> Order:
    """One profile for full batches of this service, over its padding buckets."""
    inputs = read_onnx(onnx).inputs
    return Order(
        onnx,
        settings.model.name,
        settings.model.version,
        rows=full_batches(inputs, settings.batching.max_rows),
        shapes=shapes_of_buckets(inputs, _buckets(settings)),
    )


def _buckets(settings: Settings) -> Mapping[str, tuple[int, Sequence[int]]]:
    return {name: (pad.axis, pad.buckets) for name, pad in settings.batching.pad.items()}


def _gpu_of(machine: Machine) -> Gpu:
    if machine.gpu is None:
        raise GpuError("no GPU here")
    return machine.gpu


def _log_progress() -> OnProgress:
    """A line in the log at every tenth of the build."""
    told = 0

    def report(phase: str, fraction: float) -> None:
        nonlocal told
        if int(fraction * 10) > told:
            told = int(fraction * 10)
            log.info("building: %d %% (%s)", told * 10, phase)

    return report
