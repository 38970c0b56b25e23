"""Settings files of the test's own, and no settings in the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.config.settings_file import Load, content
from worker import config


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(config.ENV_PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(*, text: str | None = None, **sections: Any) -> config.Settings:
        path = tmp_path / "worker.yaml"
        path.write_text(text if text is not None else yaml.safe_dump(content(**sections)), encoding="utf-8")
        return config.load(path)

    return write_and_load
