"""README, the changelog and docs/ as text, code blocks and prose."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DELIVERY, OPERATING, TUNING, WIRE_FORMAT = (
    ROOT / "docs" / f"{name}.md" for name in ("delivery", "operating", "tuning", "wire-format")
)
PAGES = (README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
SETTINGS_FILE = ROOT / "config" / "worker.yaml"


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)


def section(page: Path, heading: str) -> str:
    """What stands under a heading of the second level."""
    return text(page).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
