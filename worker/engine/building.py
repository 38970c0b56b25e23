"""ONNX -> plan + manifest in the repository; one builder per folder, and nothing half-written."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from worker.engine.durable import write_durably
from worker.engine.gpu_key import RTX, Gpu, Runtime, gpu_key
from worker.engine.manifest import HardwareCompatibility, Manifest, Precision, Recipe, TensorEntry
from worker.engine.onnx_model import OnnxModel, read_onnx
from worker.engine.precision import write_fp16
from worker.engine.profiles import Profile, RowRange, make_profiles
from worker.engine.repository import Entry, Repository
from worker.errors import EngineError
from worker.tensors import TensorSpec

log = logging.getLogger(__name__)

DISTRIBUTION = "tensorrt-kafka-worker"


class BuiltPlan(Protocol):
    """What a plan builder gives back."""

    @property
    def plan(self) -> bytes | memoryview: ...

    @property
    def timing_cache(self) -> bytes:
        """Measurements for the next build; empty where the flavour keeps none."""

    @property
    def datatypes(self) -> Mapping[str, str]:
        """Name -> datatype of the plan's inputs and outputs."""


class MakePlan(Protocol):
    """TensorRT's builder, as gpu.builder has it."""

    def __call__(self, onnx: Path, profiles: Sequence[Profile], recipe: Recipe, timing_cache: bytes) -> BuiltPlan:
        """Raises:
        EngineError: the model cannot be parsed or built; says why.
        """


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built."""

    onnx: Path
    model: str
    version: str
    precision: Precision = "as-is"
    rows: Sequence[RowRange] = ()  # one profile each; empty: one default profile
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    workspace_mib: int | None = None
    max_aux_streams: int | None = None

    def recipe(self, model: OnnxModel) -> Recipe:
        return Recipe(
            onnx_sha256=model.sha256,
            precision=self.precision,
            profiles=make_profiles(model.inputs, self.rows, self.shapes or {}),
            hardware_compatibility=self.hardware_compatibility,
            version_compatible=self.version_compatible,
            workspace_mib=self.workspace_mib,
            max_aux_streams=self.max_aux_streams,
        )


def build(
    repository: Repository,
    order: Order,
    gpu: Gpu | None,
    runtime: Runtime,
    make_plan: MakePlan,
    *,
    is_forced: bool = False,
    on_wait: Callable[[str], None] | None = None,
) -> Entry:
    """Build what is ordered for this GPU, unless the repository holds exactly that already.

    Args:
        repository: where the plan goes.
        order: what to build.
        gpu: the GPU it is for; None where the flavour builds without one.
        runtime: the TensorRT that builds.
        make_plan: its builder.
        is_forced: build also when an equal plan is there.
        on_wait: called with the holder's name while another process builds the same.

    Raises:
        ConfigError: the order does not fit the model.
        EngineError: the model cannot be read, converted or built, or the disk refuses lock or plan.
    """
    model = read_onnx(order.onnx)
    recipe = order.recipe(model)
    target = None if runtime.makes == RTX else gpu  # TensorRT-RTX compiles for the GPU when it loads the plan
    key = gpu_key(target, runtime)
    with repository.lock(order.model, order.version, key, on_wait):
        there = repository.entry(order.model, order.version, key)
        is_equal = there is not None and there.manifest is not None and there.manifest.recipe == recipe
        if there is not None and is_equal and not is_forced and not there.verify():
            return there
        repository.remove_leftovers(order.model, order.version, key)
        started_s = time.monotonic()
        built = _make(repository, order, key, recipe, make_plan)
        manifest = Manifest(
            model=order.model,
            version=order.version,
            plan_sha256=hashlib.sha256(built.plan).hexdigest(),
            plan_bytes=len(built.plan),
            flavour="tensorrt_rtx" if runtime.makes == RTX else "tensorrt",
            tensorrt_version=runtime.version,
            gpu_name=target.name if target else None,
            compute_capability=target.compute_capability if target else None,
            inputs=tuple(_entry(spec, built.datatypes) for spec in model.inputs),
            outputs=tuple(_entry(spec, built.datatypes) for spec in model.outputs),
            recipe=recipe,
            build_seconds=round(time.monotonic() - started_s, 3),
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
            tool_version=_tool_version(),
        )
        return repository.put(key, manifest, built.plan)


def _make(repository: Repository, order: Order, key: str, recipe: Recipe, make_plan: MakePlan) -> BuiltPlan:
    cache = repository.timing_cache(key)
    known = _read_cache(cache)
    with ExitStack() as stack:
        built = make_plan(_model_to_build(order, stack), recipe.profiles, recipe, known)
    if built.timing_cache and built.timing_cache != known:
        try:
            write_durably(cache, built.timing_cache)
        except OSError as error:  # the plan is good without it
            log.warning("cannot keep the timing cache %s: %s; the next build measures anew", cache, error.strerror)
    return built


def _model_to_build(order: Order, stack: ExitStack) -> Path:
    """The model in the precision that was ordered; what was converted is deleted with the stack."""
    if order.precision == "as-is":
        return order.onnx
    try:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trt-worker-"))
        onnx = Path(folder) / "fp16.onnx"
        write_fp16(order.onnx, onnx)
    except OSError as error:
        raise EngineError(f"cannot write {order.onnx} as FP16: {error}; make room there, or set TMPDIR") from error
    return onnx


def _read_cache(path: Path) -> bytes:
    """What earlier builds measured; none where it cannot be read, for it only saves time."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        log.warning("cannot read the timing cache %s: %s; this build measures anew", path, error.strerror)
        return b""


def _entry(spec: TensorSpec, datatypes: Mapping[str, str]) -> TensorEntry:
    built_as = datatypes.get(spec.name)
    if built_as != spec.datatype:
        raise EngineError(
            f"the ONNX file has {spec.name!r} as {spec.datatype}, TensorRT as {built_as or 'nothing'}; "
            "cast it inside the model"
        )
    return TensorEntry(name=spec.name, datatype=spec.datatype, shape=spec.shape, axis_names=spec.axis_names)


def _tool_version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"  # run from a checkout that is not installed
