"""Build, list, select and refuse engines with the real TensorRT on a real GPU."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.gpu_fixtures import Bench, assert_near, manifest_of, payload, run
from tests.gpu.onnx_models import write_mlp
from worker.assemble_tensorrt import choose_engine
from worker.engine.gpu_key import gpu_key
from worker.engine.repository import Entry, Repository
from worker.errors import EngineError
from worker.gpu.plan import Plan

pytestmark = pytest.mark.gpu


@pytest.fixture
def mlp(bench: Bench) -> Entry:
    return bench.build(bench.onnx("mlp", write_mlp), (1, 8, 8), (1, 256, 256))


@pytest.fixture
def copied(mlp: Entry, tmp_path: Path) -> Entry:
    """The MLP's engine in a repository of this test's own, to be damaged."""
    shutil.copytree(mlp.folder, tmp_path / "mlp" / "1" / mlp.key)
    (entry,) = Repository(tmp_path).entries()
    return entry


def test_an_engine_is_built_listed_and_chosen_for_exactly_this_gpu(bench: Bench, mlp: Entry) -> None:
    """The key names GPU and TensorRT, the manifest is whole, and a second build finds it there."""
    assert bench.machine.gpu is not None
    assert mlp.key == gpu_key(bench.machine.gpu, bench.machine.runtime)
    assert mlp.verify() == ""
    assert mlp.key in {entry.key for entry in bench.repository.entries("mlp", "1")}
    manifest = manifest_of(mlp)
    assert manifest.compute_capability == bench.machine.gpu.compute_capability
    assert [(entry.name, entry.datatype, entry.shape) for entry in manifest.inputs] == [("x", "FP32", (-1, 256))]
    choice = choose_engine(
        bench.repository, "mlp", "1", bench.machine, onnx=bench.folder / "mlp.onnx", allow_host_code=False
    )
    assert choice.entry is not None
    assert choice.entry.folder == mlp.folder
    assert choice.reason.startswith("built for exactly this GPU")
    before = mlp.plan.stat().st_mtime_ns
    assert bench.build(bench.folder / "mlp.onnx", (1, 8, 8), (1, 256, 256)).plan.stat().st_mtime_ns == before


def test_the_timing_cache_is_kept_and_used(bench: Bench, mlp: Entry) -> None:
    """It lies beside the models, under the GPU's key."""
    cache = bench.repository.timing_cache(mlp.key)
    assert cache.stat().st_size > 100


def choose(bench: Bench, entry: Entry, onnx: Path | None = None) -> Any:
    root = entry.folder.parent.parent.parent
    return choose_engine(Repository(root), "mlp", "1", bench.machine, onnx=onnx, allow_host_code=False)


def edit(entry: Entry, **changes: Any) -> None:
    path = entry.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"compute_capability": "8.6", "gpu_name": "NVIDIA A10"}, "built for compute capability 8.6"),
        ({"tensorrt_version": "10.5.0"}, "by TensorRT 10.5.0, here is"),
        ({"flavour": "tensorrt_rtx"}, "built by tensorrt_rtx"),
    ],
)
def test_what_the_manifest_rules_out_is_refused(
    bench: Bench, copied: Entry, changes: dict[str, Any], reason: str
) -> None:
    """Wrong GPU, wrong TensorRT, wrong flavour: not chosen, with the reason."""
    edit(copied, **changes)
    choice = choose(bench, copied)
    assert choice.entry is None
    assert reason in choice.reason


def test_a_damaged_repository_is_refused(bench: Bench, copied: Entry, tmp_path: Path) -> None:
    """A flipped bit, a short file, no manifest, another ONNX: never chosen."""
    whole = copied.plan.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    copied.plan.write_bytes(flipped)
    assert "is damaged" in choose(bench, copied).reason
    copied.plan.write_bytes(whole[: len(whole) // 2])
    assert "bytes, the manifest says" in choose(bench, copied).reason
    copied.plan.write_bytes(whole)
    assert choose(bench, copied).entry is not None
    other = write_mlp(tmp_path / "other.onnx", seed=1)
    assert "built from another ONNX file" in choose(bench, copied, other).reason
    (copied.folder / "manifest.json").unlink()
    assert "manifest.json is missing" in choose(bench, copied).reason


@pytest.mark.parametrize("damage", ["flipped", "truncated", "foreign", "empty", "no file"])
def test_a_bad_plan_is_never_loaded(bench: Bench, copied: Entry, damage: str) -> None:
    """Also when the manifest was made to agree with it: TensorRT's own reason is told, and nothing crashes."""
    whole = copied.plan.read_bytes()
    manifest = manifest_of(copied)
    sha256 = manifest.plan_sha256
    if damage == "flipped":
        copied.plan.write_bytes(whole[:-1000] + bytes([whole[-1000] ^ 1]) + whole[-999:])
    elif damage == "no file":
        copied.plan.unlink()
    else:
        data = {"truncated": whole[: len(whole) // 2], "foreign": b"not a plan" * 999, "empty": b""}[damage]
        copied.plan.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
    with pytest.raises(EngineError) as raised:
        Plan(bench.machine.trt, copied.plan, sha256, manifest.model_spec())
    assert raised.value.exit_code == 3
    assert {"flipped": "is damaged", "no file": "cannot read"}.get(damage, "cannot load") in str(raised.value)


def test_a_manifest_of_another_model_is_refused(bench: Bench, copied: Entry) -> None:
    """Names and datatypes are compared with the plan's own before anything runs."""
    manifest = manifest_of(copied)
    spec = manifest.model_spec()
    wrong = manifest.model_copy(update={"outputs": (manifest.outputs[0].model_copy(update={"name": "z"}),)})
    with pytest.raises(EngineError, match="has the tensors x, y, its manifest x, z"):
        Plan(bench.machine.trt, copied.plan, manifest.plan_sha256, wrong.model_spec())
    wrong = manifest.model_copy(update={"inputs": (manifest.inputs[0].model_copy(update={"datatype": "FP16"}),)})
    with pytest.raises(EngineError, match="'x' as FP32, its manifest as FP16"):
        Plan(bench.machine.trt, copied.plan, manifest.plan_sha256, wrong.model_spec())
    Plan(bench.machine.trt, copied.plan, manifest.plan_sha256, spec).close()


def test_a_broken_model_names_every_parser_error(bench: Bench, tmp_path: Path) -> None:
    """Node, operator, code and line of each, exit 3."""
    import onnx
    from onnx import helper

    model = onnx.load(str(bench.onnx("mlp", write_mlp)))
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    model.graph.node[0].op_type, model.graph.node[0].domain = "NoSuchThing", "nowhere"
    broken = tmp_path / "broken.onnx"
    onnx.save(model, str(broken))
    with pytest.raises(EngineError, match=r"node 0 .*NoSuchThing.*line \d+") as raised:
        bench.build(broken)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize("kind", ["hardware", "version"])
def test_compatible_engines_run(bench: Bench, kind: str) -> None:
    """They build and answer; one that carries code for the host only where that is allowed."""
    onnx = bench.onnx(f"mlp_{kind}", write_mlp)
    options: dict[str, Any] = (
        {"hardware_compatibility": "ampere_plus"} if kind == "hardware" else {"version_compatible": True}
    )
    try:
        entry = bench.build(onnx, (1, 8, 8), **options)
    except EngineError as error:
        if kind == "version" and "lean" in str(error):
            pytest.skip("this TensorRT came without its lean runtime, which such plans carry")
        raise
    assert bench.choose(onnx.stem) is not None
    session = bench.session(onnx)
    if kind == "version":
        with pytest.raises(EngineError, match="cannot load"), bench.open(entry):
            pass
    with bench.open(entry, allow_host_code=kind == "version", reference=session.run) as backend:
        arrays = payload(backend, ((256,),), 8, 1)
        assert_near(run(backend, arrays), session.run(arrays), 5e-3)
