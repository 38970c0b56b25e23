"""Tools that are built once, and honest skips where they cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.deploy import go_tools, schemas


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder of kustomize, kubeconform and the others."""
    reason = go_tools.missing()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; with CI=true that is a failure", pytrace=False)
    if reason is not None:
        pytest.skip(reason)
    return go_tools.built()


@pytest.fixture(scope="session")
def schema_folder(tools: Path) -> Path:
    """Strict JSON schemas of every kind that an overlay may use."""
    return schemas.made()
