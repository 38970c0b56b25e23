"""What an installation gets."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_holds_what_is_read_at_run_time(tmp_path: Path) -> None:
    """Files that are no Python: they would be missed only by those who install."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    needed = {str(file.relative_to(ROOT)) for file in (ROOT / "worker").rglob("*") if file.is_file()}
    needed = {name for name in needed if "__pycache__" not in name}
    assert {"worker/page.html", "worker/py.typed", "worker/demo/digits.onnx"} <= needed
    assert needed <= packed
    assert not [name for name in packed if name.startswith("tests")]
