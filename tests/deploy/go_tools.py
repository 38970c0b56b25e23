"""The programs that judge the manifests, built once from the versions and sums of tools/go.mod and tools/go.sum."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCE = Path(__file__).parent / "tools"
CACHE = Path(__file__).parent.parent.parent / ".cache" / "deploy"
NAMES = {"kustomize": "kustomize", "kubeconform": "kubeconform", "kube-score": "kube-score"} | {
    "compose": "cmd",  # what Go calls compose-go's program, after its folder
    "pod-security": "tools",  # ours, after its module
}
BUILD_DEADLINE_S = 900
LEAST_GO = (1, 24)  # knows `tool` in go.mod


def missing() -> str | None:
    """Why the tools cannot be had here, in one line; None where they can. Only "not installed" counts."""
    if folder().is_dir():
        return None
    reason = go_missing()
    return None if reason is None else f"kustomize, kubeconform and kube-score: {reason}"


def go_missing() -> str | None:
    """Why Go programs cannot be built here; None where they can."""
    if shutil.which("go") is None:
        return "needs Go, and there is no go"
    said = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=False, cwd="/").stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < LEAST_GO:
        return f"needs Go 1.24 or newer, go here is {said.strip() or 'unknown'}"
    return None


@functools.cache
def folder() -> Path:
    """Where this version's programs are, or will be."""
    sums = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(SOURCE.iterdir()))).hexdigest()
    return CACHE / f"tools-{sums[:12]}"


def built() -> Path:
    """The folder of the programs; builds them the first time, in a minute or two.

    Raises:
        RuntimeError: Go failed; carries the end of its output.
    """
    programs = folder()
    if programs.is_dir():
        return programs
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        target = Path(scratch, "bin")
        environment = {**os.environ, "GOBIN": str(target), "GOFLAGS": "-mod=readonly"}
        _go(["install", "tool", "."], SOURCE, environment)
        try:
            target.rename(programs)  # at once: an interrupted build leaves nothing that looks complete
        except OSError:
            if not programs.is_dir():  # else another process was faster
                raise
    return programs


def module(path: str, version: str, sums: str) -> Path:
    """The unpacked source of a Go module, for the files in it.

    Raises:
        RuntimeError: it cannot be had, or is not what `sums` says.
    """
    said = json.loads(_go(["mod", "download", "-json", f"{path}@{version}"], Path("/"), os.environ))
    if said["Sum"] != sums:
        raise RuntimeError(f"{path}@{version} is {said['Sum']}, expected {sums}")
    return Path(said["Dir"])


def run(name: str, arguments: Sequence[str], said: str = "", folder: Path | None = None) -> tuple[int, str, str]:
    """Run one of NAMES with `said` on its standard input; (exit code, standard output, standard error)."""
    command = [str(built() / NAMES[name]), *arguments]
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=False, timeout=60, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def _go(arguments: Sequence[str], where: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["go", *arguments],
        capture_output=True,
        text=True,
        timeout=BUILD_DEADLINE_S,
        check=False,
        cwd=where,
        env=environment,
    )
    if done.returncode != 0:
        raise RuntimeError(f"go {' '.join(arguments)} failed:\n" + "\n".join(done.stderr.splitlines()[-20:]))
    return done.stdout
