"""The settings: read, overridden, checked, shown."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from worker import config
from worker.errors import ConfigError

ROOT = Path(__file__).parent.parent
WORDS_OF_SECRETS = ("hunter2", "s3cret")


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(config.ENV_PREFIX):
            monkeypatch.delenv(name)


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


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(*, text: str | None = None, **sections: Any) -> config.Settings:
        path = tmp_path / "worker.yaml"
        path.write_text(text if text is not None else yaml.safe_dump(content(**sections)), encoding="utf-8")
        return config.load(path)

    return write_and_load


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


def test_the_settings_file_in_the_repository_is_good() -> None:
    settings = config.load(ROOT / "config" / "worker.yaml")
    assert settings.model.name == "digits"
    assert settings.kafka.input_topics == ("digits.requests",)


def test_the_least_that_is_enough(load: Load) -> None:
    """Everything else has a default; at_least_once is the mode."""
    settings = load()
    assert (settings.delivery.mode, settings.batching.max_rows, settings.http.port) == ("at_least_once", 64, 9090)
    assert settings.kafka.input_topics == ("in",)


def test_an_empty_section_means_its_defaults(load: Load) -> None:
    """`batching:` with nothing behind it is null in YAML."""
    assert load(text=yaml.safe_dump(content()) + "batching:\n").batching.max_rows == 64


def test_several_input_topics(load: Load) -> None:
    kafka = {key: value for key, value in content()["kafka"].items() if key != "input_topic"}
    assert load(
        text=yaml.safe_dump({**content(), "kafka": {**kafka, "input_topics": ["a", "b"]}})
    ).kafka.input_topics == (
        "a",
        "b",
    )


def test_without_a_file_the_environment_says_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for section, values in content().items():
        for key, value in values.items():
            monkeypatch.setenv(f"TRT_WORKER__{section}__{key}".upper(), value)
    settings = config.load(None)
    assert (settings.model.name, settings.kafka.input_topics) == ("digits", ("in",))


# the environment


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


# faults


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"batching": {"max_row": 3}}, ["batching.max_row", "did you mean max_rows"]),
        ({"batchin": {"max_rows": 3}}, ["batchin", "did you mean batching"]),
        ({"http": {"zebra": 3}}, ["http.zebra", "known here", "port"]),
        ({"batching": {"pad": {"x": {"axis": 1, "bucket": [4]}}}}, ["batching.pad.x", "bucket"]),
        ({"batching": {"max_rows": "many"}}, ["batching.max_rows", "'many'", "integer"]),
        ({"batching": {"max_rows": 0}}, ["batching.max_rows", "0", "greater than or equal to 1"]),
        ({"batching": {"max_rows": 1.5}}, ["batching.max_rows", "1.5"]),
        ({"batching": 7}, ["batching", "7"]),
        ({"batching": [1]}, ["batching", "[1]"]),
        ({"batching": {"max_delay_ms": -1}}, ["batching.max_delay_ms", "-1", "greater than or equal to 0"]),
        ({"batching": {"max_delay_ms": float("nan")}}, ["batching.max_delay_ms", "nan"]),
        ({"batching": {"pad": {"x": {"axis": 0, "buckets": [4]}}}}, ["batching.pad.x.axis", "0"]),
        ({"batching": {"pad": {"x": {"axis": 1, "buckets": [8, 4]}}}}, ["batching.pad.x.buckets", "ascending", "8"]),
        ({"batching": {"pad": {"x": {"axis": 1, "buckets": []}}}}, ["batching.pad.x.buckets"]),
        ({"batching": {"pad": {"x": {"axis": 1}}}}, ["batching.pad.x.buckets", "missing"]),
        ({"delivery": {"mode": "twice"}}, ["delivery.mode", "'twice'", "at_least_once", "exactly_once", "queue"]),
        ({"delivery": {"drain_timeout_s": 0}}, ["delivery.drain_timeout_s", "0"]),
        ({"engine": {"lanes": 99}}, ["engine.lanes", "99", "16"]),
        ({"engine": {"cuda_graphs": "sometimes"}}, ["engine.cuda_graphs", "sometimes", "auto", "off"]),
        ({"http": {"port": 70_000}}, ["http.port", "70000", "65535"]),
        ({"logging": {"level": "loud"}}, ["logging.level", "loud", "debug"]),
        ({"model": None}, ["model", "missing", "TRT_WORKER__MODEL"]),
        ({"model": {"name": ""}}, ["model.name", "''"]),
        ({"model": {"name": 7}}, ["model.name", "7", "string"]),
        ({"model": {"version": 1}}, ["model.version", "1", "string"]),
        ({"kafka": {"group_id": None}}, ["kafka.group_id", "None"]),
        ({"kafka": {"input_topic": ["a", "b"]}}, ["kafka.input_topic"]),
        ({"kafka": {"input_topics": ["a"]}}, ["input_topic", "input_topics", "not both"]),
        (
            {"kafka": {"client": {"bootstrap.servers": "x"}}},
            ["kafka.client", "bootstrap.servers", "kafka.bootstrap_servers"],
        ),
        (
            {"kafka": {"consumer": {"enable.auto.commit": True}}},
            ["kafka.consumer", "enable.auto.commit", "delivery.mode"],
        ),
        ({"kafka": {"producer": {"transactional_id": "x"}}}, ["transactional.id", "delivery.transactional_id"]),
        ({"kafka": {"client": {"log_level": [7]}}}, ["kafka.client", "log"]),
    ],
)
def test_a_fault_names_the_key_the_value_and_the_remedy(sections: dict[str, Any], words: list[str], load: Load) -> None:
    message = fault(load, **sections)
    for word in words:
        assert word in message


def test_a_missing_key_says_how_to_set_it(load: Load) -> None:
    kafka = {key: value for key, value in content()["kafka"].items() if key != "group_id"}
    message = fault(load, text=yaml.safe_dump({**content(), "kafka": kafka}))
    assert "kafka.group_id is missing" in message
    assert "TRT_WORKER__KAFKA__GROUP_ID" in message


def test_all_faults_are_told_at_once(load: Load) -> None:
    message = fault(load, batching={"max_row": 3, "max_bytes": 1}, http={"port": -1})
    for key in ("batching.max_row ", "batching.max_bytes", "http.port"):
        assert key in message


@pytest.mark.parametrize(("written", "meant"), [("off", "off"), ('"off"', "off"), ("auto", "auto"), ("[1, 8]", [1, 8])])
def test_off_is_a_word_though_yaml_reads_it_as_false(written: str, meant: Any, load: Load) -> None:
    text = yaml.safe_dump(content()) + f"engine: {{cuda_graphs: {written}}}\n"
    assert load(text=text).engine.cuda_graphs == meant


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


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"kafka": {"dead_letter_topic": None}}, ["delivery.errors_to", "kafka.dead_letter_topic", "output"]),
        ({"kafka": {"output_topic": "in"}}, ["kafka.input_topics", "in", "loop"]),
        ({"kafka": {"dead_letter_topic": "in"}}, ["kafka.input_topics", "in", "loop"]),
        ({"limits": {"max_rows_per_request": 65}}, ["limits.max_rows_per_request", "65", "64", "batching.max_rows"]),
    ],
)
def test_sections_that_contradict_each_other_are_refused(
    sections: dict[str, Any], words: list[str], load: Load
) -> None:
    message = fault(load, **sections)
    for word in words:
        assert word in message


def test_errors_may_go_to_the_output_alone(load: Load) -> None:
    settings = load(kafka={"dead_letter_topic": None}, delivery={"errors_to": "output"})
    assert settings.kafka.dead_letter_topic is None


@pytest.mark.parametrize(
    "text", ["a: [", "\tx: 1", "- model", "just text", "7", "1: 2", "model: !!python/object:os.system {}"]
)
def test_what_is_no_settings_file_is_said_to_be_none(text: str, load: Load) -> None:
    fault(load, text=text)


def test_an_empty_file_lacks_everything(load: Load) -> None:
    assert "model is missing" in fault(load, text="")


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "worker.yaml"
    path.write_bytes(b"\xff\xfe\x00model: 1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.load(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read") as caught:
            config.load(path)
        assert str(path) in str(caught.value)


# secrets

SECRETS = {
    "sasl.password": "hunter2",
    "ssl.key.password": "hunter2",
    "ssl.keystore.password": "hunter2",
    "ssl.key.pem": "s3cret",
    "sasl.oauthbearer.client.secret": "s3cret",
    "sasl.oauthbearer.config": "principal=u token=s3cret",
    "sasl.oauthbearer.assertion.private.key.passphrase": "s3cret",
    "sasl.oauthbearer.assertion.private.key.pem": "s3cret",
}


@pytest.mark.parametrize("section", ["client", "consumer", "producer"])
def test_secrets_are_never_shown(section: str, load: Load) -> None:
    shown = config.show(load(kafka={section: {**SECRETS, "sasl.username": "u", "client.id": "c"}}))
    text = json.dumps(shown)
    assert not any(secret in text for secret in WORDS_OF_SECRETS)
    assert shown["kafka"][section]["sasl.username"] == "u"
    assert set(shown["kafka"][section]) == {*SECRETS, "sasl.username", "client.id"}


@pytest.mark.parametrize(
    "client",
    [
        {"sasl.password": ["hunter2"]},
        {"sasl_password": {"is": "hunter2"}},
        {"ssl.key.pem": None, "sasl.oauthbearer.client.secret": ["s3cret"]},
        "sasl.password=hunter2",
        '{"sasl.password": "hunter2"',
        ["sasl.password", "hunter2"],
        {"sasl.password": "hunter2", "group.id": "x"},
    ],
)
def test_secrets_are_never_in_an_error(client: Any, load: Load) -> None:
    """Not in the message; logs are read by many."""
    message = fault(load, kafka={"client": client})
    assert "kafka.client" in message
    assert not any(secret in message for secret in WORDS_OF_SECRETS)


def test_secrets_are_not_told_with_a_fault_elsewhere(load: Load) -> None:
    message = fault(load, kafka={"client": {"sasl.password": "hunter2"}, "zebra": 1, "output_topic": 7})
    assert "hunter2" not in message


def test_what_is_shown_can_be_loaded_again(load: Load, tmp_path: Path) -> None:
    """`config show > file` is a settings file (but for the secrets)."""
    settings = load(batching={"pad": {"x": {"axis": 1, "buckets": [4, 8]}}}, kafka={"client": {"client.id": "c"}})
    path = tmp_path / "shown.yaml"
    path.write_text(yaml.safe_dump(config.show(settings)))
    assert config.load(path) == settings


# the object


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
