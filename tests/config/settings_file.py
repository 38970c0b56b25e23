"""A settings file as a test likes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker import config
from worker.errors import ConfigError

ROOT = Path(__file__).parents[2]


def content(**sections: Any) -> dict[str, Any]:
    """The least that is enough, and what the test adds; a section of None is left out."""
    least: dict[str, Any] = {
        "model": {"name": "digits"},
        "kafka": {
            "bootstrap_servers": "broker:9092",
            "group_id": "g",
            "input_topic": "in",
            "output_topic": "out",
            "dead_letter_topic": "dead",
        },
    }
    for section, values in sections.items():
        if values is None:
            least.pop(section)
        elif isinstance(values, dict):
            least[section] = {**least.get(section, {}), **values}
        else:
            least[section] = values
    return least


Load = Callable[..., config.Settings]


def fault(load: Load, where: str = "worker.yaml", **sections: Any) -> str:
    """What the user is told: one line, with the file in it (where it is to blame)."""
    with pytest.raises(ConfigError) as caught:
        load(**sections)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    assert where in message
    return message
