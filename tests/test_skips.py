"""Where there is no Java, tests on real Kafka are skipped, and one line says why; in CI they fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ON_KAFKA = "tests/system/test_commands.py"  # two tests
NO_JAVA = "real Kafka needs Java 17 or newer, and there is no java"


def run_tests(path: Path, **variables: str) -> tuple[int, list[str]]:
    """Exit code and lines of these tests where nothing else is installed than what is in a folder."""
    ours = ("CI", "PATH", "PYTEST_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", ON_KAFKA],
        cwd=ROOT,
        env={**inherited, "PATH": str(path), **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_without_java_they_are_skipped_with_one_reason(tmp_path: Path) -> None:
    code, said = run_tests(tmp_path)
    assert code == 0, said
    (reason,) = [line for line in said if line.startswith("SKIPPED")]
    assert reason.startswith("SKIPPED [2]")
    assert reason.endswith(NO_JAVA)
    assert said[-1].startswith("2 skipped")


def test_an_old_java_is_none(tmp_path: Path) -> None:
    """And the reason tells which one it is."""
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    code, said = run_tests(tmp_path)
    assert code == 0, said
    (reason,) = [line for line in said if line.startswith("SKIPPED")]
    assert reason.endswith("java here is 11")


def test_in_ci_a_missing_java_is_a_failure(tmp_path: Path) -> None:
    """A green run there has seen real Kafka."""
    code, said = run_tests(tmp_path, CI="true")
    assert code == 1, said
    assert not [line for line in said if line.startswith("SKIPPED")]
    assert [line for line in said if f"{NO_JAVA}; with CI=true that is a failure" in line]
    assert "2 errors" in said[-1]
