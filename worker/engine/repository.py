"""The engine repository on disk: <root>/<model>/<version>/<gpu key>/{model.plan, manifest.json}."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from worker.engine.durable import put_folder, write_durably
from worker.engine.lock import folder_lock
from worker.engine.manifest import Manifest, read_manifest
from worker.errors import ConfigError, EngineError

PLAN = "model.plan"
MANIFEST = "manifest.json"
CHUNK_BYTES = 1 << 24
BUILD_TIMEOUT_S = 3600.0  # the largest models build for tens of minutes


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder of the repository, whether it is in order or not."""

    model: str
    version: str
    key: str
    folder: Path
    manifest: Manifest | None
    problem: str = ""  # why the plan cannot be used, found without reading it

    @property
    def plan(self) -> Path:
        return self.folder / PLAN

    def verify(self) -> str:
        """Read the whole plan and compare its sum; returns the problem, or "" when all is well."""
        if self.manifest is None or self.problem:
            return self.problem
        digest = hashlib.sha256()
        try:
            with self.plan.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            return f"cannot read {self.plan}: {error.strerror}"
        if digest.hexdigest() != self.manifest.plan_sha256:
            return (
                f"{self.plan} is damaged: its sha256 is {digest.hexdigest()[:12]}…, the manifest says "
                f"{self.manifest.plan_sha256[:12]}…; build it again"
            )
        return ""


class Repository:
    """Plans and manifests under one root; readers need no lock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self, model: str | None = None, version: str | None = None) -> list[Entry]:
        """What is there, sorted by model, version and key; the root need not exist."""
        return [
            self._entry(*folder.relative_to(self.root).parts)
            for folder in sorted(self.root.glob(f"{_pattern(model)}/{_pattern(version)}/*"))
            if folder.is_dir() and not any(part.startswith(".") for part in folder.relative_to(self.root).parts)
        ]

    def entry(self, model: str, version: str, key: str) -> Entry | None:
        """The entry of exactly this key, or None."""
        return self._entry(model, version, key) if self._folder(model, version, key).is_dir() else None

    def put(self, key: str, manifest: Manifest, plan: bytes | memoryview) -> Entry:
        """Store a plan with its manifest, in place of what the key held; the caller holds lock().

        Raises:
            EngineError: the disk refuses; nothing half-written is left.
        """
        folder = self._folder(manifest.model, manifest.version, key)
        aside = folder.with_name(f".{key}.{os.getpid()}.part")
        try:
            aside.mkdir(parents=True)
            write_durably(aside / PLAN, plan)
            write_durably(aside / MANIFEST, manifest.to_json())
            put_folder(aside, folder)
        except OSError as error:
            raise EngineError(f"cannot write the engine to {folder}: {error.strerror}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return self._entry(manifest.model, manifest.version, key)

    def lock(
        self, model: str, version: str, key: str, on_wait: Callable[[str], None] | None = None
    ) -> AbstractContextManager[None]:
        """Only one builder per folder, on every machine that shares the file system."""
        folder = self._folder(model, version, key)
        return folder_lock(folder.with_name(f".{key}.lock"), timeout_s=BUILD_TIMEOUT_S, on_wait=on_wait)

    def remove_leftovers(self, model: str, version: str, key: str) -> None:
        """Delete what a builder that was killed left beside the folder; the caller holds lock()."""
        folder = self._folder(model, version, key)
        for pattern in (f".{key}.*.part", f".{key}.*.old"):
            for leftover in folder.parent.glob(pattern):
                shutil.rmtree(leftover, ignore_errors=True)

    def timing_cache(self, key: str) -> Path:
        """Where the builder's measurements for this GPU and TensorRT are kept, for all models."""
        return self.root / f".timing-{key}.cache"

    def _folder(self, model: str, version: str, key: str) -> Path:
        for what, name in (("model.name", model), ("model.version", version), ("the GPU key", key)):
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+@ -]*", name):
                raise ConfigError(f"{what} is {name!r}, which cannot be a folder name; use letters, digits, . _ and -")
        return self.root / model / version / key

    def _entry(self, model: str, version: str, key: str) -> Entry:
        folder = self.root / model / version / key
        try:
            manifest = read_manifest(folder / MANIFEST)
        except EngineError as error:
            return Entry(model, version, key, folder, None, str(error))
        return Entry(model, version, key, folder, manifest, _mismatch(model, version, folder, manifest))


def _mismatch(model: str, version: str, folder: Path, manifest: Manifest) -> str:
    """What can be seen to be wrong without reading the plan."""
    if (manifest.model, manifest.version) != (model, version):
        return f"{folder / MANIFEST} belongs to {manifest.model} version {manifest.version}; put it where it came from"
    try:
        plan_bytes = (folder / PLAN).stat().st_size
    except OSError as error:
        return f"{folder / PLAN} cannot be read: {error.strerror}; build it again"
    if plan_bytes != manifest.plan_bytes:
        return f"{folder / PLAN} has {plan_bytes} bytes, the manifest says {manifest.plan_bytes}; build it again"
    return ""


def _pattern(name: str | None) -> str:
    """A glob that matches exactly this name, or any."""
    return "*" if name is None else re.sub(r"([*?[])", r"[\1]", name)
