"""The import rules of the package: imports point down, folders ignore each other, each vendor has one home."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "worker"

# Every place and its height. An import points to a lower height, or stays inside its own place.
HEIGHTS = {
    "__main__": 9,
    "cli": 8,
    "commands": 7,
    "demo": 6,
    "tuning": 6,
    "assemble": 5,
    "assemble_intake": 5,
    "assemble_member": 4,
    "assemble_tensorrt": 3,
    "observe": 3,
    "pipeline": 2,
    "protocols": 2,
    "batching": 1,
    "client": 1,
    "codec": 1,
    "cpu": 1,
    "engine": 1,
    "gpu": 1,
    "intake": 1,
    "kafka": 1,
    "config": 0,
    "deadline": 0,
    "errors": 0,
    "health": 0,
    "lane_states": 0,
    "last_words": 0,
    "logs": 0,
    "merging": 0,
    "metrics": 0,
    "page": 0,
    "recent": 0,
    "records": 0,
    "sections": 0,
    "tensors": 0,
    "": 0,  # worker/__init__.py
}
SIDEWAYS = {0: True, 2: True}  # leaves may import leaves; the pipeline is written against protocols

TENSORRT = frozenset({"tensorrt", "tensorrt_bindings", "tensorrt_lean", "tensorrt_rtx", "tensorrt_rtx_bindings"})

# Every third-party package and the places that may import it.
HOMES: dict[str, frozenset[str]] = {
    "confluent_kafka": frozenset({"kafka", "client", "demo", "tuning"}),
    "cuda": frozenset({"gpu"}),
    "ml_dtypes": frozenset({"tensors"}),
    "google": frozenset({"engine", "cpu"}),  # protobuf's DecodeError, which onnx raises
    "msgpack": frozenset({"client"}),
    "msgspec": frozenset({"codec", "kafka", "records"}),
    "numpy": frozenset(HEIGHTS),
    "onnx": frozenset({"engine", "cpu", "demo"}),
    "onnxconverter_common": frozenset({"engine"}),
    "onnxruntime": frozenset({"cpu", "demo"}),
    "prometheus_client": frozenset({"metrics", "merging", "health"}),
    "pydantic": frozenset({"config", "sections", "engine"}),  # settings, and manifests beside the plans
    "pydantic_settings": frozenset({"config"}),
    "rich": frozenset({"cli", "commands", "demo", "tuning"}),
    "sklearn": frozenset({"demo"}),
    "typer": frozenset({"cli", "commands"}),
    "yaml": frozenset({"config", "commands"}),
    **dict.fromkeys(TENSORRT, frozenset({"gpu"})),
}

# What producers install is small: the client sees these leaves and nothing else of ours.
CLIENT_SEES = frozenset({"client", "errors", "tensors", ""})


def violations(root: Path) -> list[str]:
    """Every broken rule as "file:line: what", for the package in `root`."""
    found: list[str] = []
    tensorrt_points: dict[Path, int] = {}
    for file in sorted((root / PACKAGE).rglob("*.py")):
        place = file.relative_to(root / PACKAGE).parts[0].removesuffix(".py")
        place = "" if place == "__init__" else place
        for line, imported in _imports(file):
            where = f"{file.relative_to(root)}:{line}"
            if fault := _fault(place, imported):
                found.append(f"{where}: {fault}")
            elif imported.split(".")[0] in TENSORRT:
                tensorrt_points.setdefault(file, line)
    if len(tensorrt_points) > 1:
        places = ", ".join(f"{file.relative_to(root)}:{line}" for file, line in tensorrt_points.items())
        found.append(f"{places}: TensorRT is imported in {len(tensorrt_points)} files; one alone chooses the flavour")
    return found


def _imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything a file imports, also inside functions and by import_module("…")."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name) for name in names)
            case ast.ImportFrom(module=module, names=names, level=0) if module is not None:
                if module == PACKAGE:  # `from worker import kafka` imports worker.kafka
                    yield from ((node.lineno, f"{module}.{name.name}") for name in names)
                else:
                    yield node.lineno, module
            case ast.ImportFrom():
                yield node.lineno, "."
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(value=str(name)), *_]
            ):
                if called in {"import_module", "__import__", "find_spec"}:
                    yield node.lineno, name


def _fault(place: str, imported: str) -> str | None:
    """What is wrong with an import from a place of the package; None where nothing is."""
    vendor, *rest = imported.split(".")
    if imported == ".":
        return "relative import; write the whole name"
    if place not in HEIGHTS:
        return f"{place} has no height; give it one in {Path(__file__).name}"
    if vendor == PACKAGE:
        return _fault_of_ours(place, rest[0] if rest and rest[0] in HEIGHTS else "")
    if vendor in sys.stdlib_module_names:
        return None
    if vendor not in HOMES:
        return f"{vendor} has no home; give it one in {Path(__file__).name}"
    if place not in HOMES[vendor]:
        return f"{place or PACKAGE} imports {vendor}, whose home is {', '.join(sorted(HOMES[vendor]))}"
    return None


def _fault_of_ours(place: str, target: str) -> str | None:
    mine, its = HEIGHTS[place], HEIGHTS[target]
    if place == "client" and target not in CLIENT_SEES:
        return f"client imports {target}, which producers do not install"
    if place == target or its < mine or (its == mine and SIDEWAYS.get(mine)):
        return None
    return f"{place or PACKAGE} imports {target}, which is {'above' if its > mine else 'beside'} it"


def test_imports_point_down() -> None:
    """The whole package keeps the rules."""
    found = violations(ROOT)
    assert not found, "\n" + "\n".join(found)


def test_every_file_is_seen() -> None:
    """The check looks at the package, not at an empty folder."""
    assert {"config.py", "errors.py", "tensors.py"} <= {file.name for file in (ROOT / PACKAGE).rglob("*.py")}


@pytest.mark.parametrize(
    ("file", "code", "fault"),
    [
        ("kafka/consumer.py", "from worker.pipeline import Pipeline", "1: kafka imports pipeline, which is above it"),
        (
            "kafka/consumer.py",
            "import os\nfrom worker.codec.decode import decode",
            "2: kafka imports codec, which is beside it",
        ),
        ("codec/decode.py", "from worker import kafka", "1: codec imports kafka, which is beside it"),
        (
            "codec/decode.py",
            "def later():\n    import worker.kafka.ledger",
            "2: codec imports kafka, which is beside it",
        ),
        ("errors.py", "from worker.codec import wire", "1: errors imports codec, which is above it"),
        ("pipeline.py", "from worker.assemble import build", "1: pipeline imports assemble, which is above it"),
        ("__init__.py", "from worker.cli import main", "1: worker imports cli, which is above it"),
        ("demo/show.py", "from worker.commands import run", "1: demo imports commands, which is above it"),
        (
            "client/wire.py",
            "from worker.config import load",
            "1: client imports config, which producers do not install",
        ),
        ("codec/decode.py", "from . import wire", "1: relative import; write the whole name"),
        ("codec/decode.py", "from .wire import Request", "1: relative import; write the whole name"),
        ("pipeline.py", "from confluent_kafka import Consumer", "1: pipeline imports confluent_kafka, whose home is"),
        ("engine/build.py", "import tensorrt as trt", "1: engine imports tensorrt, whose home is gpu"),
        (
            "engine/build.py",
            "import importlib\nimportlib.import_module('tensorrt')",
            "2: engine imports tensorrt, whose home",
        ),
        ("cpu/lane.py", "import cuda.bindings.runtime", "1: cpu imports cuda, whose home is gpu"),
        ("pipeline.py", "import onnxruntime", "1: pipeline imports onnxruntime, whose home is"),
        ("metrics.py", "import requests", "1: requests has no home; give it one"),
        ("queue/lane.py", "import os", "1: queue has no height; give it one"),
    ],
)
def test_a_planted_violation_is_named(tmp_path: Path, file: str, code: str, fault: str) -> None:
    """Each rule, broken once in a small package, is reported with file and line."""
    _plant(tmp_path, file, code)
    found = violations(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(f"{PACKAGE}/{file}:{fault}")


def test_a_second_tensorrt_import_point_is_named(tmp_path: Path) -> None:
    """Which flavour of TensorRT runs is decided in one file."""
    _plant(tmp_path, "gpu/tensorrt_import.py", "import tensorrt\nimport tensorrt_lean")
    assert violations(tmp_path) == []
    _plant(tmp_path, "gpu/lane.py", "import os\nimport tensorrt")
    found = violations(tmp_path)
    assert len(found) == 1
    assert "worker/gpu/lane.py:2, worker/gpu/tensorrt_import.py:1: TensorRT is imported in 2 files" in found[0]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("__main__.py", "from worker.cli import main"),
        ("cli.py", "import typer\nfrom worker.commands import run"),
        ("commands/run.py", "from worker.assemble import build\nfrom worker import config"),
        ("assemble.py", "import worker.kafka.consumer\nfrom worker import __version__"),
        ("pipeline.py", "from worker.protocols import Lane\nfrom worker.batching.split import split"),
        ("kafka/consumer.py", "import confluent_kafka\nfrom worker.kafka.ledger import Ledger\nimport json"),
        ("records.py", "from worker.tensors import Shape"),
    ],
)
def test_an_allowed_import_is_not_named(tmp_path: Path, file: str, code: str) -> None:
    """The rules are no wider than they are written."""
    _plant(tmp_path, file, code)
    assert violations(tmp_path) == []


def _plant(root: Path, file: str, code: str) -> None:
    path = root / PACKAGE / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
