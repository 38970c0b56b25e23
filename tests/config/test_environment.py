"""Settings from variables, over those in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.config.settings_file import Load, content, fault
from worker import config


def test_without_a_file_the_environment_says_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for section, values in content().items():
        for key, value in values.items():
            monkeypatch.setenv(f"TRT_WORKER__{section}__{key}".upper(), value)
    settings = config.load(None)
    assert (settings.model.name, settings.kafka.input_topics) == ("digits", ("in",))


def test_the_environment_overrides_the_file(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_WORKER__BATCHING__MAX_ROWS", "7")
    monkeypatch.setenv("TRT_WORKER__MODEL__VERSION", "9")
    settings = load(batching={"max_rows": 32, "max_delay_ms": 1})
    assert (settings.batching.max_rows, settings.batching.max_delay_ms) == (7, 1)
    assert (settings.model.name, settings.model.version) == ("digits", "9")


def test_overrides_win_over_the_file_and_lose_to_the_environment(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(batching={"max_rows": 32})
    path = tmp_path / "worker.yaml"
    assert config.load(path, {"batching": {"max_rows": 16}}).batching.max_rows == 16
    monkeypatch.setenv("TRT_WORKER__BATCHING__MAX_ROWS", "7")
    assert config.load(path, {"batching": {"max_rows": 16}}).batching.max_rows == 7


def test_client_keys_get_their_dots_back(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell lets a variable's name carry dots."""
    monkeypatch.setenv("TRT_WORKER__KAFKA__CLIENT__SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("TRT_WORKER__KAFKA__CONSUMER__GROUP_PROTOCOL", "consumer")
    settings = load(kafka={"client": {"sasl.password": "from the file", "sasl.username": "u"}})
    assert settings.kafka.client == {"sasl.password": "hunter2", "sasl.username": "u"}
    assert settings.kafka.consumer == {"group.protocol": "consumer"}


@pytest.mark.parametrize("name", ["INPUT_TOPIC", "INPUT_TOPICS"])
@pytest.mark.parametrize("key", ["input_topic", "input_topics"])
def test_the_environment_overrides_the_topic_however_the_file_names_it(
    name: str, key: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TRT_WORKER__KAFKA__{name}", "other")
    kafka = {name: value for name, value in content()["kafka"].items() if name != "input_topic"}
    text = yaml.safe_dump({**content(), "kafka": {**kafka, key: "in" if key == "input_topic" else ["in"]}})
    assert load(text=text).kafka.input_topics == ("other",)


def test_several_topics_come_from_the_environment_with_commas(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_WORKER__KAFKA__INPUT_TOPICS", "a, b")
    kafka = {key: value for key, value in content()["kafka"].items() if key != "input_topic"}
    assert load(text=yaml.safe_dump({**content(), "kafka": kafka})).kafka.input_topics == ("a", "b")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("BATCHING__MAX_ROWS", "many", ["batching.max_rows", "many"]),
        ("BATCHING__MAX_ROW", "7", ["batching.max_row", "max_rows"]),
        ("BATCHNG__MAX_ROWS", "7", ["batchng", "batching"]),
        ("BATCHING", "7", ["batching"]),
        ("BATCHING__PAD__X__BUCKETS", "sixteen", ["batching.pad"]),
        ("KAFKA__CLIENT", "{broken", ["kafka.client"]),
    ],
)
def test_a_bad_variable_is_one_line_too(
    name: str, value: str, words: list[str], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names the setting; never a traceback, never silence."""
    monkeypatch.setenv(f"TRT_WORKER__{name}", value)
    message = fault(load, where="")
    for word in words:
        assert word.lower() in message.lower()


def test_numbers_and_names_of_devices_come_from_the_environment(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinal is a number there too; a UUID is text."""
    for text, meant in (("1", 1), ("GPU-1234", "GPU-1234")):
        monkeypatch.setenv("TRT_WORKER__ENGINE__DEVICE", text)
        assert load().engine.device == meant


def test_lists_and_mappings_come_from_the_environment_as_json(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_WORKER__BATCHING__PAD", '{"Ids": {"axis": 1, "buckets": [4, 8]}}')
    monkeypatch.setenv("TRT_WORKER__ENGINE__CUDA_GRAPHS", "[1, 8]")
    monkeypatch.setenv("TRT_WORKER__KAFKA__CLIENT", '{"client.id": "c"}')
    settings = load()
    assert settings.batching.pad["Ids"].buckets == (4, 8)
    assert settings.engine.cuda_graphs == [1, 8]
    assert settings.kafka.client == {"client.id": "c"}


def test_log_level_keeps_its_underscore(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka's only key that has one."""
    monkeypatch.setenv("TRT_WORKER__KAFKA__CLIENT__LOG_LEVEL", "7")
    assert set(load(kafka={"producer": {"log_level": 6}}).kafka.client) == {"log_level"}
    assert load(kafka={"producer": {"log_level": 6}}).kafka.producer == {"log_level": 6}
