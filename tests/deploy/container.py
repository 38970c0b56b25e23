"""Images built with buildah and run without an engine: a chroot on a read-only root, in namespaces of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil

from tests.deploy import go_tools
from tests.deploy.manifests import ROOT

PROGRAMS = ("buildah", "debootstrap", "unshare", "chroot")
SUITE = "bookworm"
BASE = "localhost/python-base:local"
MACHINE = ("/etc/ssl/certs", "/etc/pip.conf")  # certificates and settings that pip needs on this machine
DEADLINE_S = 900
PIP = (  # of the real base, in the places where that has it: no image may keep it
    "usr/local/bin/pip3",
    "usr/local/lib/python3.13/ensurepip/__init__.py",
    "usr/local/lib/python3.13/site-packages/pip/__init__.py",
    "usr/local/lib/python3.13/site-packages/pip-26.0.dist-info/METADATA",
)


def missing() -> str | None:
    """Why no image can be built here, in one line; None where one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"images are built and run with {', '.join(PROGRAMS)}, and there is no {', '.join(absent)}"
    return None if os.geteuid() == 0 else "debootstrap and mounts need root"


class Builder:
    """buildah with a storage of its own."""

    def __init__(self, directory: Path) -> None:
        self._roots: dict[str, str] = {}  # nobody writes to them, so one for each image will do
        self._storage = [
            "--storage-driver",
            "vfs",
            "--root",
            str(directory / "root"),
            "--runroot",
            str(directory / "run"),
        ]

    def build(self, target: str) -> str:
        """Build a target of the Dockerfile on a base of Debian's own Python; returns its name."""
        self._make_base()
        name = f"localhost/trt-worker:{target}"
        machine = [word for path in MACHINE if Path(path).exists() for word in ("--volume", f"{path}:{path}:ro")]
        self._buildah(
            *("build", "--isolation", "chroot", "--network", "host", "--format", "docker", "--pull=never", *machine),
            *("--build-arg", f"PYTHON_IMAGE={BASE}", "--target", target, "--tag", name, str(ROOT)),
        )
        return name

    def config(self, image: str) -> dict[str, Any]:
        """What the image says about how it is run."""
        found: dict[str, Any] = json.loads(self._buildah("inspect", "--type", "image", image))["Docker"]["config"]
        return found

    def start(self, image: str, arguments: list[str], variables: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Run the arguments as the image's user, as process 1, on a read-only root; only its volumes are writable."""
        config = self.config(image)
        root = self._root(image)
        told = [*config["Env"], *(f"{name}={value}" for name, value in (variables or {}).items())]
        command = [
            "chroot",
            f"--userspec={config['User']}",
            root,
            "env",
            "-i",
            "-C",
            config["WorkingDir"],
            *told,
            *arguments,
        ]
        steps = [
            f"mount --bind {root} {root}",
            f"mount -o remount,bind,ro {root}",
            *(f"mount -t tmpfs -o mode=1777 tmpfs {root}{volume}" for volume in config["Volumes"]),
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"exec {shlex.join(command)}",
        ]
        return subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", "\n".join(steps)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> None:
        """Kill what start() started, if it is still there: the child is process 1 in there, and all die with it.

        Killing unshare is not enough: the signal that --kill-child asks for is forgotten when chroot changes the user.
        """
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children():
                child.kill()
        process.communicate()

    def run(self, image: str, arguments: list[str], variables: dict[str, str] | None = None) -> tuple[int, str]:
        """As start(); waits for the end: exit code and what was said."""
        process = self.start(image, arguments, variables)
        said, _ = process.communicate(timeout=DEADLINE_S)
        return process.returncode, said

    def _root(self, image: str) -> str:
        if image not in self._roots:
            self._roots[image] = self._buildah("mount", self._buildah("from", image).strip()).strip()
        return self._roots[image]

    def _make_base(self) -> None:
        """A stand-in for the base of the Dockerfile, which is in a registry: Debian's Python, and traces of a pip."""
        root = go_tools.CACHE / f"debian-{SUITE}"
        if not root.is_dir():
            unfinished = root.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            packages = "ca-certificates,python3,python3-venv"
            subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={packages}", SUITE, str(unfinished)],
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=DEADLINE_S,
            )
            unfinished.rename(root)
        container = self._buildah("from", "scratch").strip()
        mounted = self._buildah("mount", container).strip()
        subprocess.run(["cp", "--archive", f"{root}/.", mounted], check=True)  # devices and owners included
        for name in PIP:
            Path(mounted, name).parent.mkdir(parents=True, exist_ok=True)
            Path(mounted, name).touch()
        self._buildah("umount", container)
        self._buildah("commit", "--quiet", "--format", "docker", container, BASE)
        self._buildah("rm", container)

    def _buildah(self, *arguments: str) -> str:
        done = subprocess.run(
            ["buildah", *self._storage, *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE_S
        )
        if done.returncode != 0:
            raise RuntimeError(f"buildah {arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout
