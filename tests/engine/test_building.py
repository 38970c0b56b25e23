"""Builds by the real TensorRT-RTX, whose parser and builder need no GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.gpu.onnx_models import write_datatypes, write_mlp, write_tokens
from worker.assemble_tensorrt import Machine, build_engine
from worker.engine.building import Order
from worker.engine.profiles import RowRange
from worker.engine.repository import Entry, Repository
from worker.errors import ConfigError, EngineError
from worker.gpu.builder import BuildOptions, build_plan

ROOT = Path(__file__).parent.parent.parent


def build(repository: Repository, rtx: Any, path: Path, **options: Any) -> Entry:
    forced = options.pop("is_forced", False)
    progress = options.pop("on_progress", None)
    order = Order(path, "mlp", "1", **options)
    return build_engine(repository, order, Machine(rtx, None), is_forced=forced, on_progress=progress)


def test_a_real_model_is_parsed_built_and_stored(repository: Repository, rtx: Any, mlp_onnx: Path) -> None:
    """Plan and manifest, whole, with what was asked for; and the progress went from 0 towards 1."""
    told: list[float] = []
    rows = [RowRange(1, 8, 8), RowRange(1, 256, 256)]
    there = build(repository, rtx, mlp_onnx, rows=rows, on_progress=lambda _phase, fraction: told.append(fraction))
    assert there.verify() == ""
    manifest = there.manifest
    assert manifest is not None
    assert manifest.plan_bytes > 5_000_000  # the weights are in it
    assert (manifest.flavour, manifest.gpu_name, manifest.max_rows) == ("tensorrt_rtx", None, 256)
    assert [profile["x"] for profile in manifest.recipe.profiles] == [
        ((1, 256), (8, 256), (8, 256)),
        ((1, 256), (256, 256), (256, 256)),
    ]
    assert manifest.inputs[0].axis_names == ("rows", "")
    assert manifest.build_seconds > 0
    assert told == sorted(told)
    assert 0 <= told[0] < 0.5 < told[-1] <= 1


def test_an_equal_order_is_not_built_again(repository: Repository, rtx: Any, mlp_onnx: Path, tmp_path: Path) -> None:
    """Another order, another model file, damage or --force is."""

    def stamp(**options: Any) -> int:
        return build(repository, rtx, options.pop("path", mlp_onnx), **options).plan.stat().st_mtime_ns

    first = stamp()
    assert stamp() == first
    forced = stamp(is_forced=True)
    assert forced != first
    other_rows = stamp(rows=[RowRange(1, 2, 4)])
    assert other_rows != forced
    other_file = stamp(rows=[RowRange(1, 2, 4)], path=write_mlp(tmp_path / "other.onnx", seed=1))
    assert other_file != other_rows
    (there,) = repository.entries()
    there.plan.write_bytes(there.plan.read_bytes()[:-1] + b"\0")
    assert build(repository, rtx, tmp_path / "other.onnx", rows=[RowRange(1, 2, 4)]).verify() == ""


def test_fp16_makes_the_plan_smaller_and_keeps_the_wire(repository: Repository, rtx: Any, mlp_onnx: Path) -> None:
    """Strongly typed from a converted ONNX; the manifest holds the sum of the file that was given."""
    whole = build(repository, rtx, mlp_onnx).manifest
    half = build(repository, rtx, mlp_onnx, precision="fp16").manifest
    assert whole is not None
    assert half is not None
    assert half.plan_bytes < 0.6 * whole.plan_bytes
    assert half.recipe.onnx_sha256 == whole.recipe.onnx_sha256
    assert [entry.datatype for entry in (*half.inputs, *half.outputs)] == ["FP32", "FP32"]


def test_every_datatype_that_tensorrt_has_is_built(repository: Repository, rtx: Any, tmp_path: Path) -> None:
    """And written down as the wire format calls it."""
    manifest = build(repository, rtx, write_datatypes(tmp_path / "all.onnx")).manifest
    assert manifest is not None
    kinds = ["FP32", "FP16", "BF16", "INT64", "INT32", "UINT8", "INT8", "BOOL"]
    assert [entry.datatype for entry in manifest.inputs] == kinds
    assert [entry.datatype for entry in manifest.outputs] == kinds


def test_free_axes_need_a_range_and_then_build(repository: Repository, rtx: Any, tmp_path: Path) -> None:
    """The mask takes the range of the ids: its axis has the same name."""
    path = write_tokens(tmp_path / "tokens.onnx")
    with pytest.raises(ConfigError, match="input 'ids' leaves axis 1"):
        build(repository, rtx, path)
    assert repository.entries() == []
    shapes = {"ids": ((1, 4), (8, 32), (8, 64))}
    manifest = build(repository, rtx, path, shapes=shapes).manifest
    assert manifest is not None
    assert manifest.recipe.profiles[0]["mask"] == shapes["ids"]


def test_every_parser_error_is_told(repository: Repository, rtx: Any, mlp_onnx: Path, tmp_path: Path) -> None:
    """Two broken nodes, two lines, each with node, operator, code and line; nothing is stored."""
    model = onnx.load(str(mlp_onnx))
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    for place in (0, 2):
        model.graph.node[place].op_type = f"NoSuchThing{place}"
        model.graph.node[place].domain = "nowhere"
    broken = tmp_path / "broken.onnx"
    onnx.save(model, str(broken))
    with pytest.raises(EngineError, match=r"cannot parse broken\.onnx, 2 error") as raised:
        build(repository, rtx, broken)
    text = str(raised.value)
    for place in (0, 2):
        (line,) = [line for line in text.splitlines() if f"(NoSuchThing{place})" in line]
        assert f"node {place} " in line
        assert "INVALID_NODE" in line or "UNSUPPORTED_NODE" in line
        assert ", line " in line
    assert repository.entries() == []
    assert raised.value.exit_code == 3


def test_a_failed_build_ends_with_tensorrts_reason(rtx: Any, mlp_onnx: Path) -> None:
    """Not with None: here the free axis has no profile."""
    with pytest.raises(EngineError, match=r"cannot build mlp\.onnx: .*profile"):
        build_plan(rtx, mlp_onnx, [], BuildOptions())


def test_the_real_builder_takes_the_options(rtx: Any, mlp_onnx: Path) -> None:
    """And an unknown level of hardware compatibility is the user's mistake, with those that are known."""
    profile = {"x": ((1, 256), (8, 256), (8, 256))}
    options = BuildOptions(workspace_mib=64, max_aux_streams=0, version_compatible=False)
    assert build_plan(rtx, mlp_onnx, [profile], options).datatypes == {"x": "FP32", "y": "FP32"}
    with pytest.raises(ConfigError, match="does not have; it has none"):
        build_plan(rtx, mlp_onnx, [profile], BuildOptions(hardware_compatibility="pascal"))


def test_two_builders_build_once(repository: Repository, rtx: Any, mlp_onnx: Path) -> None:
    """The second waits for the lock and finds the plan there."""
    stamps: list[int] = []
    threads = [
        threading.Thread(target=lambda: stamps.append(build(repository, rtx, mlp_onnx).plan.stat().st_mtime_ns))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stamps) == 2
    assert stamps[0] == stamps[1]


def test_what_running_a_plan_needs_is_in_the_api(rtx: Any) -> None:
    """TensorRT-RTX has the names of major 11; the code that runs plans uses no others, and no version numbers."""
    needed = {
        "Runtime": ("deserialize_cuda_engine", "engine_host_code_allowed"),
        "ICudaEngine": (
            "create_execution_context",
            "device_memory_size_v2",
            "get_tensor_format",
            "get_tensor_location",
            "get_tensor_profile_shape",
            "num_io_tensors",
            "num_optimization_profiles",
        ),
        "IExecutionContext": (
            "execute_async_v3",
            "set_device_memory",
            "set_input_shape",
            "set_optimization_profile_async",
            "set_tensor_address",
        ),
        "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
        "TensorLocation": ("DEVICE",),
        "TensorFormat": ("LINEAR",),
        "TensorIOMode": ("INPUT", "OUTPUT"),
    }
    missing = [
        f"{kind}.{name}"
        for kind, names in needed.items()
        for name in names
        if not hasattr(getattr(rtx.module, kind), name)
    ]
    assert missing == []


def write_deep(path: Path, layers: int = 1200) -> Path:
    """A model that takes seconds to build."""
    random = np.random.default_rng(0)
    names = [f"t{place}" for place in range(layers + 1)]
    nodes, weights = [], []
    for place, (before, after) in enumerate(pairwise(names)):
        weights.append(numpy_helper.from_array(random.standard_normal((16, 16)).astype(np.float32), f"w{place}"))
        nodes += [
            helper.make_node("MatMul", [before, f"w{place}"], [f"m{place}"]),
            helper.make_node("Softmax", [f"m{place}"], [after]),
        ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 16]) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "deep", [ends[0]], [ends[1]], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def worker(arguments: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "worker", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )  # fmt: skip


def test_ctrl_c_ends_a_build_and_leaves_nothing(repository: Repository, rtx: Any, tmp_path: Path) -> None:
    """Heard at the builder's next step; the repository holds nothing but the lock file."""
    path = write_deep(tmp_path / "deep.onnx")
    arguments = ["build", "--onnx", str(path), "--model", "deep", "--repository", str(repository.root)]
    with worker([*arguments, "--flavour", "tensorrt_rtx"]) as process:
        lock = repository.root / "deep" / "1"
        until_s = time.monotonic() + 30
        while not list(lock.glob(".*.lock")) and process.poll() is None and time.monotonic() < until_s:
            time.sleep(0.01)
        time.sleep(0.3)
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        told_s = time.monotonic()
        process.wait(30)
        took_s = time.monotonic() - told_s
    assert process.returncode != 0
    assert took_s < 10
    assert [each.name for each in lock.iterdir() if not each.name.endswith(".lock")] == []


def run(*arguments: str, exit_code: int = 0) -> str:
    with worker(arguments, env={**os.environ, "COLUMNS": "200"}) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == exit_code, out + err
    return out + err


def test_the_commands_build_list_verify_and_explain(repository: Repository, rtx: Any, mlp_onnx: Path) -> None:
    """As a model engineer uses them, for GPUs that are not here."""
    root = ("--repository", str(repository.root))
    built = run(
        "build", "--onnx", str(mlp_onnx), "--model", "mlp", "--flavour", "tensorrt_rtx", *root, "--profile", "1,8,32"
    )
    assert "up to 32 rows" in built
    (listed,) = json.loads(run("engines", "list", "--json", *root))
    assert listed["key"] == f"any-rtx{rtx.version}"
    assert listed["manifest"]["recipe"]["profiles"][0]["x"][2] == [32, 256]
    assert f"mlp 1 any-rtx{rtx.version}: ok" in run("engines", "verify", *root)
    here = ("--tensorrt", f"tensorrt_rtx,{rtx.version}")
    fits = run("engines", "select", "--model", "mlp", *root, "--gpu", "NVIDIA L4,8.9", *here)
    assert "built for any GPU that TensorRT-RTX supports" in fits
    fails = run("engines", "select", "--model", "mlp", *root, "--gpu", "NVIDIA H200,9.0", *here, exit_code=3)
    assert "TensorRT-RTX does not run on compute capability 9.0" in fails
    Path(listed["plan"]).write_bytes(b"damaged")
    assert "bytes, the manifest says" in run("engines", "verify", *root, exit_code=3)
    assert "no engine for mlp version 1" in run(
        "engines", "select", "--model", "mlp", *root, "--gpu", "NVIDIA L4,8.9", *here, exit_code=3
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile", "8,1,2"], "--profile is '8,1,2'"),
        (["--profile", "1,8,8", "--max-rows", "8"], "--max-rows is 8, and --profile is given, too"),
        (["--shape", "z=1x1,2x2,3x3"], "--shape names input 'z'"),
        (["--hardware-compatible", "pascal"], "Invalid value for '--hardware-compatible'"),
        (["--model", "../x"], "cannot be a folder name"),
    ],
)
def test_a_bad_order_exits_2_with_one_line(
    repository: Repository, rtx: Any, mlp_onnx: Path, arguments: list[str], said: str
) -> None:
    """Nothing is locked, parsed or built."""
    base = ["build", "--onnx", str(mlp_onnx), "--model", "mlp", "--flavour", "tensorrt_rtx"]
    told = run(*base, "--repository", str(repository.root), *arguments, exit_code=2)
    assert said in told
    assert "Traceback" not in told
    assert not repository.root.exists()
