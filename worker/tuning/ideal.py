"""What the hardware can do with a model: ideal loops on static inputs, on the GPU or on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from worker import assemble_tensorrt
from worker.assemble_tensorrt import Machine
from worker.config import Settings
from worker.engine.manifest import Manifest
from worker.engine.repository import Entry, Repository
from worker.errors import ConfigError, EngineError
from worker.gpu.cuda_runtime import load_cuda
from worker.gpu.ideal_loop import ideal_loop
from worker.gpu.plan import Plan
from worker.gpu.seeded import seeded_rows
from worker.tensors import ModelSpec, Shape

STREAMS = (1, 2, 3, 4)

IdealRuns = Mapping[str, Callable[[float], tuple[int, float]]]  # name -> run for so many seconds: (batches, seconds)


def find_engine(settings: Settings) -> tuple[Machine, Entry, Manifest] | None:
    """The engine that these settings name; None where the CPU runs the model.

    Raises:
        EngineError: none fits.
    """
    kind = settings.engine.backend
    if kind == "cpu" or (kind == "auto" and assemble_tensorrt.why_not_here(settings.engine.device)):
        return None
    machine = assemble_tensorrt.this_machine(settings.engine.device)
    name, version = settings.model.name, settings.model.version
    choice = assemble_tensorrt.choose_engine(
        Repository(settings.engine.repository),
        name,
        version,
        machine,
        onnx=settings.model.onnx,
        allow_host_code=settings.engine.allow_host_code,
    )
    if choice.entry is None or choice.entry.manifest is None:
        raise EngineError(
            f"no engine for {name} version {version} in {settings.engine.repository}: {choice.reason}; "
            "run trt-worker build here"
        )
    return machine, choice.entry, choice.entry.manifest


def best_shapes(manifest: Manifest) -> dict[str, Shape]:
    """Input -> the row shape that the plan's first profile was built for; empty where all shapes are fixed."""
    profiles = manifest.recipe.profiles
    return {name: best[1:] for name, (_, best, _) in profiles[0].items()} if profiles else {}


@contextmanager
def open_ideal(settings: Settings, model: ModelSpec, row_shapes: Sequence[Shape], rows: int) -> Iterator[IdealRuns]:
    """Ideal loops over batches of exactly `rows` rows; freed on exit.

    Raises:
        BatchError: the engine does not take such batches.
        EngineError, GpuError: it cannot be loaded.
    """
    found = find_engine(settings)
    if found is None:
        with _on_cpu(settings, model, row_shapes, rows) as runs:
            yield runs
        return
    machine, entry, manifest = found
    if machine.device is None:
        raise EngineError("there is no GPU here")
    cuda = load_cuda()
    cuda.set_device(machine.device.ordinal)
    plan = Plan(
        machine.trt,
        entry.plan,
        manifest.plan_sha256,
        manifest.model_spec(),
        allow_host_code=settings.engine.allow_host_code,
    )
    try:
        with ideal_loop(cuda, machine.device, plan, tuple(row_shapes), rows, max(STREAMS)) as loop:
            yield {
                f"{streams} streams{' + graphs' if with_graphs else ''}": partial(
                    loop.run, streams=streams, with_graphs=with_graphs
                )
                for streams in STREAMS
                for with_graphs in ((False, True) if loop.has_graphs else (False,))
            }
    finally:
        plan.close()


@contextmanager
def _on_cpu(settings: Settings, model: ModelSpec, row_shapes: Sequence[Shape], rows: int) -> Iterator[IdealRuns]:
    from worker.cpu.ideal_loop import IdealLoop
    from worker.cpu.onnx_session import usable_cores

    if settings.model.onnx is None:
        raise ConfigError("model.onnx is missing; the cpu backend runs the ONNX file itself")
    arrays = seeded_rows(model, row_shapes, rows, seed=1)
    at_once = sorted({1, min(usable_cores(), max(STREAMS)), min(usable_cores(), settings.engine.lanes)})
    yield {f"{runs} at a time": IdealLoop(settings.model.onnx, arrays, runs).run for runs in at_once}
