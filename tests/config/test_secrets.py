"""Passwords and keys stay inside."""

from __future__ import annotations

import json
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
