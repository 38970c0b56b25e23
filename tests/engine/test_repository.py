"""The repository on disk: what is written is whole, and what is not whole is never taken for it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine.conftest import H200, L4, TRT, manifest
from worker.engine.durable import write_durably
from worker.engine.gpu_key import gpu_key
from worker.engine.lock import folder_lock
from worker.engine.manifest import read_manifest
from worker.engine.repository import Entry, Repository
from worker.errors import ConfigError, EngineError

KEY = gpu_key(H200, TRT)
PLAN = b"a plan, as TensorRT wrote it"
ROOT = Path(__file__).parent.parent.parent


def put(repository: Repository, plan: bytes = PLAN) -> Entry:
    written = manifest(plan_sha256=hashlib.sha256(plan).hexdigest(), plan_bytes=len(plan))
    return repository.put(KEY, written, plan)


def test_what_is_put_is_found_whole(repository: Repository) -> None:
    """Plan and manifest lie where design says, and come back as they were."""
    there = put(repository)
    assert there.plan == repository.root / "mlp" / "1" / KEY / "model.plan"
    assert there.plan.read_bytes() == PLAN
    assert repository.entries() == [there]
    assert there.verify() == ""
    assert there.manifest is not None
    spec = there.manifest.model_spec()
    assert (spec.name, spec.version, spec.max_rows) == ("mlp", "1", 8)
    assert spec.tag == hashlib.sha256(PLAN).hexdigest()[:12]
    assert spec.inputs[0].axis_names == ("rows", "")


def test_an_absent_root_is_an_empty_repository(repository: Repository) -> None:
    """Nothing has been built yet."""
    assert repository.entries() == []
    assert repository.entry("mlp", "1", KEY) is None


def test_entries_are_found_by_model_and_version(repository: Repository) -> None:
    """By their exact names: a star is a star."""
    put(repository)
    assert len(repository.entries("mlp")) == 1
    assert len(repository.entries("mlp", "1")) == 1
    assert repository.entries("*") == []
    assert repository.entries("mlp", "2") == []


def test_a_new_plan_takes_the_place_of_the_old_one(repository: Repository) -> None:
    """And nothing is left of it."""
    put(repository)
    there = put(repository, b"a newer plan")
    assert there.verify() == ""
    assert {path.name for path in there.folder.iterdir()} == {"model.plan", "manifest.json"}
    assert [path.name for path in there.folder.parent.iterdir()] == [KEY]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("flip", "is damaged"),
        ("cut", "bytes, the manifest says"),
        ("no plan", "cannot be read"),
        ("no manifest", "is missing"),
        ("not json", "is not a manifest"),
        ("no sum", "is not a manifest: plan_sha256"),
        ("other model", "belongs to somebody version 1"),
        ("newer format", "is not a manifest: format"),
    ],
)
def test_every_damage_has_its_words(repository: Repository, damage: str, said: str) -> None:
    """verify() finds it, and list shows it where it can be seen without reading the plan."""
    there = put(repository)
    path = there.folder / "manifest.json"
    content = json.loads(path.read_text())
    if damage == "flip":
        there.plan.write_bytes(bytes([PLAN[0] ^ 1]) + PLAN[1:])
    elif damage == "cut":
        there.plan.write_bytes(PLAN[:-1])
    elif damage == "no plan":
        there.plan.unlink()
    elif damage == "no manifest":
        path.unlink()
    elif damage == "not json":
        path.write_text("{")
    elif damage == "no sum":
        del content["plan_sha256"]
        path.write_text(json.dumps(content))
    elif damage == "other model":
        path.write_text(json.dumps({**content, "model": "somebody"}))
    else:
        path.write_text(json.dumps({**content, "format": 2}))
    (damaged,) = repository.entries()
    assert said in damaged.verify()
    assert (damaged.problem == "") == (damage == "flip")


def test_keys_that_a_newer_worker_wrote_are_ignored(repository: Repository) -> None:
    """Rolling back the worker must not cost the engines."""
    path = put(repository).folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mood": "good"}))
    assert read_manifest(path).model == "mlp"


@pytest.mark.parametrize("name", ["../mlp", "a/b", ".hidden", "", ".."])
def test_names_that_are_no_folder_names_are_refused(repository: Repository, name: str) -> None:
    """They would leave the repository."""
    with pytest.raises(ConfigError, match=r"model\.name"):
        repository.entry(name, "1", KEY)


def test_a_full_disk_leaves_what_was_there(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old engine stays whole, and no half of the new one is seen."""
    put(repository)

    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(EngineError, match="No space left on device"):
        put(repository, b"a newer plan")
    monkeypatch.undo()
    (there,) = repository.entries()
    assert there.plan.read_bytes() == PLAN
    assert there.verify() == ""
    assert [path.name for path in there.folder.parent.iterdir()] == [KEY]


def test_write_durably_replaces_or_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when Ctrl-C comes while it writes."""
    path = tmp_path / "file"
    write_durably(path, b"older")
    with path.open("rb") as reader:
        write_durably(path, b"old")
        assert reader.read() == b"older"  # who is reading goes on reading what was there

    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_durably(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


KILLED_WRITER = """
import hashlib, os, sys
from pathlib import Path
from tests.engine.conftest import manifest
from worker.engine.repository import Repository
plan = os.urandom(64 << 20)
repository = Repository(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    with repository.lock("mlp", "1", sys.argv[2]):
        repository.remove_leftovers("mlp", "1", sys.argv[2])
        repository.put(sys.argv[2], manifest(plan_sha256=hashlib.sha256(plan).hexdigest(), plan_bytes=len(plan)), plan)
"""


def test_a_killed_writer_never_leaves_half_a_plan(repository: Repository) -> None:
    """kill -9 at any moment: what is there is whole, and the next builder clears away what lies beside it."""
    for pause_s in (0.05, 0.11, 0.16, 0.2, 0.25, 0.31, 0.38, 0.45):
        arguments = [sys.executable, "-c", KILLED_WRITER, str(repository.root), KEY]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(pause_s)
            process.send_signal(signal.SIGKILL)
        assert [each.verify() for each in repository.entries()] in ([""], [])
    with repository.lock("mlp", "1", KEY):
        repository.remove_leftovers("mlp", "1", KEY)
        there = put(repository)
    assert there.verify() == ""
    assert {path.name for path in there.folder.parent.iterdir()} == {KEY, f".{KEY}.lock"}


HOLDER = """
import sys
from pathlib import Path
from worker.engine.lock import folder_lock
with folder_lock(Path(sys.argv[1]), timeout_s=10):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_one_builder_at_a_time_and_a_dead_one_lets_go(tmp_path: Path) -> None:
    """The second waits and is told who builds; a kill -9 releases the lock."""
    path = tmp_path / "key.lock"
    arguments = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        told: list[str] = []
        with (
            pytest.raises(EngineError, match=f"process {process.pid} on .* has been holding"),
            folder_lock(path, timeout_s=0.3, on_wait=told.append),
        ):
            pytest.fail("two held it at once")
        assert len(told) == 1
        assert told[0].startswith(f"process {process.pid} on ")
        process.kill()
        process.wait()
        with folder_lock(path, timeout_s=5):
            pass


def test_the_key_of_another_gpu_is_another_folder(repository: Repository) -> None:
    """One repository serves a whole cluster."""
    put(repository)
    repository.put(gpu_key(L4, TRT), manifest(L4), PLAN)
    assert len(repository.entries("mlp", "1")) == 2
