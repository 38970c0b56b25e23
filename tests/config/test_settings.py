"""The settings: read, kept, shown, described."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.config.settings_file import ROOT, Load, content
from worker import config


def test_the_settings_file_in_the_repository_is_good() -> None:
    settings = config.load(ROOT / "config" / "worker.yaml")
    assert settings.model.name == "digits"
    assert settings.kafka.input_topics == ("digits.requests",)


def test_the_least_that_is_enough(load: Load) -> None:
    """Everything else has a default; at_least_once is the mode."""
    settings = load()
    assert (settings.delivery.mode, settings.batching.max_rows, settings.http.port) == ("at_least_once", 64, 9090)
    assert settings.kafka.input_topics == ("in",)


def test_several_input_topics(load: Load) -> None:
    kafka = {key: value for key, value in content()["kafka"].items() if key != "input_topic"}
    assert load(
        text=yaml.safe_dump({**content(), "kafka": {**kafka, "input_topics": ["a", "b"]}})
    ).kafka.input_topics == (
        "a",
        "b",
    )


@pytest.mark.parametrize(("written", "meant"), [("off", "off"), ('"off"', "off"), ("auto", "auto"), ("[1, 8]", [1, 8])])
def test_off_is_a_word_though_yaml_reads_it_as_false(written: str, meant: Any, load: Load) -> None:
    text = yaml.safe_dump(content()) + f"engine: {{cuda_graphs: {written}}}\n"
    assert load(text=text).engine.cuda_graphs == meant


def test_errors_may_go_to_the_output_alone(load: Load) -> None:
    settings = load(kafka={"dead_letter_topic": None}, delivery={"errors_to": "output"})
    assert settings.kafka.dead_letter_topic is None


def test_what_is_shown_can_be_loaded_again(load: Load, tmp_path: Path) -> None:
    """`config show > file` is a settings file (but for the secrets)."""
    settings = load(batching={"pad": {"x": {"axis": 1, "buckets": [4, 8]}}}, kafka={"client": {"client.id": "c"}})
    path = tmp_path / "shown.yaml"
    path.write_text(yaml.safe_dump(config.show(settings)))
    assert config.load(path) == settings


def test_settings_do_not_change(load: Load) -> None:
    settings = load()
    with pytest.raises(ValidationError):
        settings.batching.max_rows = 3  # type: ignore[misc]  # that it cannot be done is the claim
    with pytest.raises(ValidationError):
        settings.http = settings.http  # type: ignore[misc]  # the same


def test_the_schema_covers_every_key(load: Load) -> None:
    """Every section and key with a description, and nothing beside them allowed."""
    schema = json.loads(json.dumps(config.schema()))
    assert set(schema["properties"]) == set(config.Settings.model_fields)
    assert schema["additionalProperties"] is False
    shown = config.show(load())
    for section, values in shown.items():
        reference = schema["properties"][section]["$ref"]
        described = schema["$defs"][reference.rsplit("/", 1)[-1]]
        assert set(described["properties"]) - {"input_topic"} == set(values)  # which stands for input_topics
        assert described["additionalProperties"] is False
        assert all(entry.get("description") for entry in described["properties"].values()), section


def test_the_schema_takes_the_settings_file_of_the_repository() -> None:
    """An editor that checks against the schema must not underline a good file."""
    schema = config.schema()
    kafka = schema["$defs"][schema["properties"]["kafka"]["$ref"].rsplit("/", 1)[-1]]
    file = yaml.safe_load((ROOT / "config" / "worker.yaml").read_text())
    assert set(file["kafka"]) <= set(kafka["properties"])
    assert set(kafka.get("required", [])) <= set(file["kafka"])
