"""Run the tests that need a GPU, here, and keep what came of them: CI has none."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from bench import command, machine

ROOT = Path(__file__).parent.parent
OUTCOMES = ("failure", "error", "skipped")


def main() -> int:
    """pytest's exit code; what it gave as further arguments goes to pytest."""
    options, further = command.parser("gpu_tests", __doc__).parse_known_args()
    with tempfile.TemporaryDirectory(prefix="gpu-tests-") as scratch:
        report = Path(scratch) / "report.xml"
        asked = ["-m", "gpu", *further, "tests"]
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", f"--junit-xml={report}", *asked], cwd=ROOT, check=False
        ).returncode
        content = {"tests": f"pytest {' '.join(asked)}", "exit_code": ended, "gpus": machine.gpus()}
        if report.exists():  # else pytest did not get as far as a test
            command.keep(options, "gpu_tests", "all", {**content, **told(report.read_text(encoding="utf-8"))})
    return ended


def told(report: str) -> Mapping[str, Any]:
    """What pytest's XML says: the names of all tests by outcome, with the reason where there is one."""
    found: dict[str, Any] = {"seconds": 0.0, "passed": [], **{outcome: {} for outcome in OUTCOMES}}
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314 (it is pytest's)
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        found["seconds"] = round(found["seconds"] + float(case.get("time", 0)), 1)
        outcome = next((each for each in case if each.tag in OUTCOMES), None)
        if outcome is None:
            found["passed"].append(name)
        else:
            found[outcome.tag][name] = (outcome.get("message") or "").partition("\n")[0]
    return found


if __name__ == "__main__":
    sys.exit(main())
