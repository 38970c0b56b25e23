"""Passwords and keys stay inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.config.settings_file import Load, fault
from worker import config

WORDS_OF_SECRETS = ("hunter2", "s3cret")

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


# Secrets in files.


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_bytes(b" hunter2\tx\n")
    return file


@pytest.mark.parametrize("section", ["client", "consumer", "producer"])
def test_a_value_can_be_in_a_file(section: str, load: Load, secret_file: Path) -> None:
    """Every character counts, but for one line break at the end, which editors and `echo` add."""
    settings = load(kafka={section: {"sasl.password": {"file": str(secret_file)}, "sasl.username": "u"}})
    assert getattr(settings.kafka, section) == {"sasl.password": " hunter2\tx", "sasl.username": "u"}
    assert "hunter2" not in json.dumps(config.show(settings))


def test_the_environment_can_name_the_file(load: Load, secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a variable of its own, and within JSON; it wins over the settings file."""
    in_file = {"sasl.password": "another", "sasl.username": "u"}
    monkeypatch.setenv("TRT_WORKER__KAFKA__CLIENT__SASL_PASSWORD__FILE", str(secret_file))
    assert load(kafka={"client": in_file}).kafka.client == {"sasl.password": " hunter2\tx", "sasl.username": "u"}
    monkeypatch.delenv("TRT_WORKER__KAFKA__CLIENT__SASL_PASSWORD__FILE")
    monkeypatch.setenv("TRT_WORKER__KAFKA__CLIENT", json.dumps({"sasl.password": {"file": str(secret_file)}}))
    assert load().kafka.client == {"sasl.password": " hunter2\tx"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"file": "/nowhere/password"}, "sasl.password cannot be read from /nowhere/password: No such file"),
        ({"file": "/"}, "sasl.password cannot be read from /: Is a directory"),
        ({"file": 7}, "sasl.password: file must be the path"),
        ({"file": "BINARY"}, "sasl.password: file must be the path of a text file"),
        ({"path": "hunter2"}, "kafka.client.sasl.password"),
        ({"file": "hunter2", "and": "more"}, "kafka.client.sasl.password"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(value: dict[str, Any], words: str, load: Load, secret_file: Path) -> None:
    secret_file.write_bytes(b"\xffhunter2")
    if value.get("file") == "BINARY":
        value = {"file": str(secret_file)}
    message = fault(load, kafka={"client": {"sasl.password": value}})
    assert words in message
    assert "hunter2" not in message


def test_keys_of_every_login_are_taken(load: Load) -> None:
    """Nothing here knows better than librdkafka which of them belong together."""
    client = {
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": "u",
        "sasl.oauthbearer.client.secret": "s3cret",
        "sasl.oauthbearer.scope": "kafka",
        "sasl.oauthbearer.token.endpoint.url": "https://login.example.com/token",
        "ssl.ca.location": "/etc/kafka/ca.pem",
    }
    settings = load(kafka={"client": client})
    assert settings.kafka.client == client
