"""The choice of a plan for made-up GPUs: the order of preference, and a reason for everything."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.conftest import H100, H200, L4, ONNX_SHA256, T4, TRT, entry, manifest
from worker.engine.gpu_key import Gpu, Runtime, gpu_key
from worker.engine.repository import Entry, Repository
from worker.engine.select import Fit, choose, choose_verified

NEWER = Runtime("tensorrt", "10.15.1")
RTX_RUNTIME = Runtime("tensorrt_rtx", "1.7.1")
LEAN = Runtime("tensorrt_lean", "10.6.0")


def fit(one: Entry, gpu: Gpu = H200, runtime: Runtime = TRT, *, allow_host_code: bool = False) -> Fit | None:
    return choose([one], gpu, runtime, allow_host_code=allow_host_code).verdicts[0].fit


def reason(one: Entry, gpu: Gpu = H200, runtime: Runtime = TRT, onnx_sha256: str | None = None) -> str:
    return choose([one], gpu, runtime, onnx_sha256=onnx_sha256).verdicts[0].reason


def test_the_order_is_exact_then_capability_then_hardware_then_version() -> None:
    """Each is taken only when the better ones are not there, whatever the order on disk."""
    ranked = [
        entry(H200),
        entry(H100),
        entry(L4, recipe={"hardware_compatibility": "ampere_plus"}),
        entry(H200, NEWER, recipe={"version_compatible": True}),
    ]
    for left in range(len(ranked)):
        choice = choose(ranked[: left - 1 : -1] if left else ranked[::-1], H200, TRT, allow_host_code=True)
        assert choice.entry is ranked[left]
        assert choice.verdicts[0].fit == Fit(left)
        assert [verdict.entry for verdict in choice.verdicts] == ranked[left:]


def test_nothing_fits_an_empty_repository() -> None:
    """And the reason says that it is empty."""
    choice = choose([], H200, TRT)
    assert choice.entry is None
    assert choice.reason == "no plan is there"


@pytest.mark.parametrize(
    ("one", "gpu", "runtime", "said"),
    [
        (entry(L4), H200, TRT, "built for compute capability 8.9 (NVIDIA L4), this GPU has 9.0"),
        (entry(L4, recipe={"hardware_compatibility": "ampere_plus"}), T4, TRT, "this GPU has 7.5"),
        (entry(L4, recipe={"hardware_compatibility": "same_compute_capability"}), H200, TRT, "this GPU has 9.0"),
        (entry(H200, NEWER), H200, TRT, "by TensorRT 10.15.1, here is 10.6.0, and the plan is not version-compatible"),
        (entry(H200), H200, LEAN, "here is the lean runtime, and the plan is not version-compatible"),
        (entry(None, RTX_RUNTIME), L4, TRT, "built by tensorrt_rtx, and tensorrt cannot run that"),
        (
            entry(None, RTX_RUNTIME),
            H200,
            RTX_RUNTIME,
            "TensorRT-RTX does not run on compute capability 9.0 (NVIDIA H200)",
        ),
        (entry(L4), L4, RTX_RUNTIME, "built by tensorrt, and tensorrt_rtx cannot run that"),
    ],
)
def test_what_cannot_run_is_refused_with_its_reason(one: Entry, gpu: Gpu, runtime: Runtime, said: str) -> None:
    """Wrong GPU, wrong TensorRT, wrong flavour."""
    assert fit(one, gpu, runtime) is None
    assert said in reason(one, gpu, runtime)


def test_both_faults_are_told() -> None:
    """Another GPU and another version: one line has both."""
    said = reason(entry(L4, NEWER))
    assert "compute capability 8.9" in said
    assert "by TensorRT 10.15.1" in said


def test_a_plan_of_another_model_file_is_refused() -> None:
    """Its answers would be another model's."""
    assert fit(entry()) == Fit.EXACT
    assert "built from another ONNX file" in reason(entry(), onnx_sha256="c" * 64)
    assert "built for exactly this GPU" in reason(entry(), onnx_sha256=ONNX_SHA256)


def test_host_code_needs_permission() -> None:
    """A version-compatible plan carries code that runs on the host."""
    one = entry(H200, NEWER, recipe={"version_compatible": True})
    assert fit(one) is None
    assert "engine.allow_host_code: true" in reason(one)
    assert fit(one, allow_host_code=True) == Fit.VERSION_COMPATIBLE


def test_among_equals_the_newest_tensorrt_wins() -> None:
    """By number, not by letter: 10.15 is newer than 10.9."""
    versions = [Runtime("tensorrt", version) for version in ("10.9.0", "10.15.1", "10.8.0")]
    plans = [entry(H200, runtime, recipe={"version_compatible": True}) for runtime in versions]
    choice = choose(plans, H200, TRT, allow_host_code=True)
    assert choice.entry is plans[1]


def test_an_rtx_plan_runs_on_any_gpu_that_rtx_supports() -> None:
    """It is compiled for the GPU when it is loaded."""
    one = entry(None, RTX_RUNTIME)
    for capability in ("8.6", "8.9", "12.0"):
        assert fit(one, Gpu("some GPU", capability), RTX_RUNTIME) == Fit.HARDWARE_COMPATIBLE


def test_a_damaged_plan_is_passed_over(repository: Repository) -> None:
    """choose_verified() reads the plan it chose; a wrong sum gives the next best its turn."""
    data = b"plan"
    for gpu, content in ((H200, b"pla\x00"), (H100, data)):
        written = manifest(gpu, plan_sha256=hashlib.sha256(data).hexdigest())
        repository.put(gpu_key(gpu, TRT), written, data)
        (repository.root / "mlp" / "1" / gpu_key(gpu, TRT) / "model.plan").write_bytes(content)
    choice = choose_verified(repository.entries("mlp", "1"), H200, TRT)
    assert choice.entry is not None
    assert choice.entry.key == gpu_key(H100, TRT)
    assert "is damaged" in choice.verdicts[-1].reason
    Path(choice.entry.plan).write_bytes(b"plax")
    assert choose_verified(repository.entries("mlp", "1"), H200, TRT).entry is None


def test_an_entry_with_a_problem_is_never_chosen() -> None:
    """Whatever its manifest says."""
    choice = choose([replace(entry(), problem="manifest.json is missing")], H200, TRT)
    assert choice.entry is None
    assert choice.reason.endswith("manifest.json is missing")


@pytest.mark.parametrize(
    ("gpu", "runtime", "key"),
    [
        (H200, TRT, "sm90-nvidia-h200-trt10.6.0"),
        (H100, NEWER, "sm90-nvidia-h100-80gb-hbm3-trt10.15.1"),
        (Gpu("NVIDIA B200", "10.0"), TRT, "sm100-nvidia-b200-trt10.6.0"),
        (None, RTX_RUNTIME, "any-rtx1.7.1"),
    ],
)
def test_the_key_names_gpu_and_tensorrt(gpu: Gpu | None, runtime: Runtime, key: str) -> None:
    """It is the folder's name, so it is a contract."""
    assert gpu_key(gpu, runtime) == key
