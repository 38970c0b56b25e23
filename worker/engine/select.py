"""Which plan a GPU gets, and why: exact, same compute capability, hardware-compatible, version-compatible, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from worker.engine.gpu_key import LEAN, RTX, Gpu, Runtime
from worker.engine.manifest import Manifest
from worker.engine.repository import Entry

RTX_CAPABILITIES = ("8.0", "8.6", "8.9")  # and all of 12.x; TensorRT-RTX runs on no other


class Fit(IntEnum):
    """How well a plan fits; lower is better."""

    EXACT = 0
    SAME_COMPUTE_CAPABILITY = 1
    HARDWARE_COMPATIBLE = 2
    VERSION_COMPATIBLE = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about one entry."""

    entry: Entry
    fit: Fit | None  # None: refused
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan to run, if any, and the verdict on every plan that was looked at, best first."""

    entry: Entry | None
    verdicts: tuple[Verdict, ...]

    @property
    def reason(self) -> str:
        """Why this plan, or why none."""
        if self.entry is not None:
            return self.verdicts[0].reason
        return "; ".join(f"{verdict.entry.key}: {verdict.reason}" for verdict in self.verdicts) or "no plan is there"


def choose(
    entries: Sequence[Entry],
    gpu: Gpu,
    runtime: Runtime,
    *,
    onnx_sha256: str | None = None,
    allow_host_code: bool = False,
) -> Choice:
    """Rank the entries for this GPU; reads nothing from disk and needs no GPU.

    Args:
        entries: of one model and version.
        gpu: the GPU that is to run the plan.
        runtime: the TensorRT that is to run it.
        onnx_sha256: of the model the service is configured with; None: any will do.
        allow_host_code: accept version-compatible plans of another TensorRT (they carry code that runs on the host).
    """
    verdicts = [_judge(entry, gpu, runtime, onnx_sha256, allow_host_code) for entry in entries]
    verdicts.sort(key=_rank)
    best = verdicts[0] if verdicts and verdicts[0].fit is not None else None
    return Choice(best.entry if best else None, tuple(verdicts))


def choose_verified(
    entries: Sequence[Entry],
    gpu: Gpu,
    runtime: Runtime,
    *,
    onnx_sha256: str | None = None,
    allow_host_code: bool = False,
) -> Choice:
    """Like choose(), but reads the chosen plan and passes over one whose sum is wrong."""
    entries = list(entries)
    while True:
        choice = choose(entries, gpu, runtime, onnx_sha256=onnx_sha256, allow_host_code=allow_host_code)
        problem = choice.entry.verify() if choice.entry is not None else ""
        if choice.entry is None or not problem:
            return choice
        entries[entries.index(choice.entry)] = replace(choice.entry, problem=problem)


def _rank(verdict: Verdict) -> tuple[int, list[int], str]:
    """Better fits first; among equals the newer TensorRT, then the name, so that the choice never varies."""
    fit = len(Fit) if verdict.fit is None else int(verdict.fit)
    manifest = verdict.entry.manifest
    numbers = [-int(part) for part in manifest.tensorrt_version.split(".") if part.isdigit()] if manifest else []
    return fit, numbers, verdict.entry.key


def _judge(entry: Entry, gpu: Gpu, runtime: Runtime, onnx_sha256: str | None, allow_host_code: bool) -> Verdict:
    manifest = entry.manifest
    if manifest is None or entry.problem:
        return Verdict(entry, None, entry.problem)
    if onnx_sha256 is not None and manifest.recipe.onnx_sha256 != onnx_sha256:
        sums = f"sha256 {manifest.recipe.onnx_sha256[:12]}…, model.onnx has {onnx_sha256[:12]}…"
        return Verdict(entry, None, f"built from another ONNX file ({sums})")
    if manifest.flavour != runtime.makes:
        return Verdict(entry, None, f"built by {manifest.flavour}, and {runtime.flavour} cannot run that")
    hardware, why_hardware = _judge_hardware(manifest, gpu)
    version, why_version = _judge_version(manifest, runtime, allow_host_code)
    if hardware is None or version is None:
        return Verdict(
            entry,
            None,
            "; ".join(why for fit, why in ((hardware, why_hardware), (version, why_version)) if fit is None),
        )
    return Verdict(entry, max(hardware, version), f"{why_hardware}; {why_version}")


def _judge_hardware(manifest: Manifest, gpu: Gpu) -> tuple[Fit | None, str]:
    built_for, here = manifest.compute_capability, gpu.compute_capability
    if manifest.flavour == RTX and here not in RTX_CAPABILITIES and not here.startswith("12."):
        return None, f"TensorRT-RTX does not run on compute capability {here} ({gpu.name})"
    if built_for is None:
        return Fit.HARDWARE_COMPATIBLE, "built for any GPU that TensorRT-RTX supports"
    if built_for == here and manifest.gpu_name == gpu.name:
        return Fit.EXACT, f"built for exactly this GPU ({gpu.name})"
    if built_for == here:
        return (
            Fit.SAME_COMPUTE_CAPABILITY,
            f"built on {manifest.gpu_name}, which has compute capability {here} too",
        )
    if manifest.recipe.hardware_compatibility == "ampere_plus" and int(here.split(".")[0]) >= 8:
        return Fit.HARDWARE_COMPATIBLE, f"built on {manifest.gpu_name} as hardware-compatible (ampere_plus)"
    return None, f"built for compute capability {built_for} ({manifest.gpu_name}), this GPU has {here}"


def _judge_version(manifest: Manifest, runtime: Runtime, allow_host_code: bool) -> tuple[Fit | None, str]:
    built_by, here = manifest.tensorrt_version, runtime.version
    if built_by == here and runtime.flavour != LEAN:
        return Fit.EXACT, f"by this TensorRT ({here})"
    is_compatible = manifest.recipe.version_compatible
    what = f"by TensorRT {built_by}" + (f", here is {here}" if built_by != here else ", here is the lean runtime")
    if not is_compatible:
        return None, f"{what}, and the plan is not version-compatible"
    if not allow_host_code:
        return None, f"{what}; the plan is version-compatible, which needs engine.allow_host_code: true"
    return Fit.VERSION_COMPATIBLE, f"{what}, version-compatible"
