"""Contestants that need packages which do not go together with the worker's: each in an environment of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache" / "bench"
INSTALL_DEADLINE_S = 600
OURS = ("msgpack", "onnxruntime")  # as they are here, so that the same code is compared


@dataclass(frozen=True)
class Peer:
    """Args:
    package: what is imported; where it is installed already, no environment is made.
    requirements: pinned; OURS come on top.
    arguments: of Python, before those of the job.
    """

    package: str
    requirements: Sequence[str]
    arguments: Sequence[str]


PEERS = {
    "quix": Peer("quixstreams", ("quixstreams==3.28.1",), ("-m", "bench.loops.quix")),
    "triton": Peer(
        "pytriton",
        ("nvidia-pytriton==0.7.0", f"confluent-kafka=={version('confluent-kafka')}"),
        ("-m", "bench.loops.triton"),
    ),
}


class NotHere(RuntimeError):
    """A peer that cannot take part: its packages cannot be installed."""


def environment() -> dict[str, str]:
    """Ours, and where this Python's library is: Triton's Python backend must load the same one."""
    found = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(path for path in found if path)}


def python(name: str) -> Path:
    """The interpreter that can run a peer; installs its packages the first time.

    Raises:
        NotHere: they cannot be installed; carries the end of pip's output.
    """
    peer = PEERS[name]
    if importlib.util.find_spec(peer.package) is not None:
        return Path(sys.executable)
    wanted = [*peer.requirements, *(f"{ours}=={version(ours)}" for ours in OURS)]
    home = CACHE / "-".join([name, f"{sys.version_info.major}.{sys.version_info.minor}"])
    done = home / "installed.txt"  # written last: an interrupted installation leaves nothing that looks complete
    told = home / "bin" / "python"
    if not done.exists() or done.read_text(encoding="utf-8").split() != wanted:
        shutil.rmtree(home, ignore_errors=True)
        try:
            _install(wanted, home, told)
        except (OSError, subprocess.SubprocessError) as error:
            said = error.stdout if isinstance(error, subprocess.CalledProcessError) else str(error)
            why = " ".join(said.splitlines()[-3:])
            raise NotHere(f"{' '.join(peer.requirements)} cannot be installed here: {why}") from error
        done.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    return told


def left_out(names: Sequence[str]) -> dict[str, str]:
    """Those of the contestants that cannot take part here, and why; the packages of the others are installed."""
    reasons = {}
    for name in dict.fromkeys(names):
        if name in PEERS:
            try:
                python(name)
            except NotHere as error:
                reasons[name] = str(error)
    return reasons


def _install(wanted: Sequence[str], home: Path, told: Path) -> None:
    """Raises:
    OSError, SubprocessError: it did not work out.
    """
    venv.create(home, system_site_packages=sys.prefix == sys.base_prefix)  # outside of one, OURS are there already
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(told), "install", "--quiet", *wanted],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_DEADLINE_S,
        check=True,
    )
