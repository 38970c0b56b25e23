"""Who may come in: every way to log in that docs/security.md shows, and one clear line for each that fails."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.security.certificates import Authority
from tests.security.conftest import PARTITIONS, Guard, Rights
from tests.security.guarded_kafka import PASSWORD, USER, GuardedKafka
from tests.security.last_words import last_words
from tests.system.traffic import Reader, publish, request
from tests.system.worker_process import WorkerProcess
from worker import config

pytestmark = pytest.mark.broker

NO_LOGIN = {"sasl_mechanism": None, "sasl_username": None, "sasl_password": None}
KEY_PASSWORD = "s3cret"
SECRETS = (PASSWORD, KEY_PASSWORD, "aHVudGVy", "AGRpZ2l0cy13b3JrZXIA")  # and in base 64, as SASL sends them

Client = dict[str, Any]


def password_file(directory: Path) -> dict[str, str]:
    """A value of kafka.client that is in a file."""
    file = directory / "password"
    file.write_text(f"{PASSWORD}\n", encoding="utf-8")
    return {"file": str(file)}


def scram(kafka: GuardedKafka, directory: Path) -> Client:
    return {**kafka.login(), "sasl.password": password_file(directory)}


def plain(kafka: GuardedKafka, _directory: Path) -> Client:
    return kafka.login(sasl_mechanism="PLAIN")


def oauthbearer(kafka: GuardedKafka, _directory: Path) -> Client:
    """Tokens that the client makes itself: nobody but a test's broker takes them."""
    keys = kafka.login(**NO_LOGIN | {"sasl_mechanism": "OAUTHBEARER"})
    unsecured = {"enable.sasl.oauthbearer.unsecure.jwt": True, "sasl.oauthbearer.config": f"principal={USER}"}
    return {**keys, **unsecured}


def certificate(kafka: GuardedKafka, _directory: Path) -> Client:
    certificate, key = kafka.authority.client(USER, KEY_PASSWORD)
    files = {"ssl.certificate.location": str(certificate), "ssl.key.location": str(key)}
    return {**kafka.login(**NO_LOGIN | {"security_protocol": "ssl"}), **files, "ssl.key.password": KEY_PASSWORD}


@pytest.mark.parametrize("way", [scram, plain, oauthbearer, certificate])
def test_a_way_to_log_in_works_and_tells_no_secret(way: Callable[[GuardedKafka, Path], Client], guard: Guard) -> None:
    """A request is answered; no secret is in the log with everything in it, on /status, /metrics or `config show`."""
    guard.kafka.allow(guard.needed("every mode"))
    client = way(guard.kafka, guard.directory)
    settings = guard.settings(client={**client, "debug": "all"})
    if way is certificate:
        settings["kafka"]["bootstrap_servers"] = guard.kafka.cluster.addresses("MUTUAL")
    settings["logging"] = {"level": "debug"}
    worker = guard.worker(settings).await_ready()
    publish(guard.kafka.cluster.bootstrap_servers, guard.topics[0], [request(7)], PARTITIONS)
    reader = Reader(guard.kafka.cluster.bootstrap_servers, guard.topics[1], PARTITIONS)
    assert reader.read(until=1, timeout_s=30).times == {"7": 1}
    reader.close()
    file = guard.directory / "shown.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    pages = [worker.get(path)[1] for path in ("/status", "/metrics", "/readyz", "/")]
    assert worker.terminate() == 0
    told = [worker.log.read_text(encoding="utf-8"), json.dumps(config.show(config.load(file))), *pages]
    assert "SASL" in told[0] or way is certificate  # so the log has the login in it
    assert [secret for secret in SECRETS for text in told if secret in text] == []


# What does not work.


AT_A_TIME = 3  # half of them wait for their time-out
NUMBER, NAME = "127.0.0.1", "localhost"  # the certificate is for the number only
FAULTS: dict[str, tuple[str, str, Mapping[str, str | None], str]] = {
    # fault -> listener, its host, keys of kafka.client, what the line says
    "wrong password": ("LOGIN", NUMBER, {"sasl_password": "wrong-guess"}, "refused: .*invalid credentials.*sasl keys"),
    "unknown user": ("LOGIN", NUMBER, {"sasl_username": "nobody"}, "refused: .*invalid credentials.*sasl keys"),
    "unknown mechanism": (
        "LOGIN",
        NUMBER,
        {"sasl_mechanism": "SCRAM-SHA-256"},
        "Unsupported SASL mechanism.*sasl keys",
    ),
    "wrong authority": ("LOGIN", NUMBER, {"ssl_ca_location": "other"}, "certificate verify failed.*ssl.ca.location"),
    "wrong host name": ("LOGIN", NAME, {}, "certificate verify failed.*host name"),
    "no TLS": ("LOGIN", NUMBER, {"security_protocol": "sasl_plaintext"}, "no broker answered.*protocol sasl_plaintext"),
    "neither": ("LOGIN", NUMBER, {**NO_LOGIN, "security_protocol": None}, "no broker answered.*protocol plaintext"),
    "TLS to a plain port": ("PLAINTEXT", NUMBER, {}, "no broker answered.*SSL.*protocol sasl_ssl"),
    "no certificate": ("MUTUAL", NUMBER, {**NO_LOGIN, "security_protocol": "ssl"}, "certificate.*certificate.location"),
}


@pytest.fixture(scope="module")
def refused(guarded: GuardedKafka, rights: Rights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The last words of a worker for each fault, a few at a time."""
    directory = tmp_path_factory.mktemp("refused")
    stranger = Authority(directory, "stranger")
    guard = Guard(guarded, rights, directory, ExitStack())

    def run(fault: str) -> str:
        listener, host, keys, _ = FAULTS[fault]
        address = guarded.cluster.addresses(listener).replace(NUMBER, host)
        known = {key: str(stranger.certificate) if value == "other" else value for key, value in keys.items()}
        settings = guard.settings(bootstrap_servers=address, client=guarded.login(**known))
        with WorkerProcess(directory, fault.replace(" ", "-"), settings) as worker:
            return last_words(worker.start())

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return dict(zip(FAULTS, pool.map(run, FAULTS), strict=True))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_login_that_fails_is_told_in_one_line(fault: str, refused: dict[str, str]) -> None:
    """With exit code 4, within the start's time-out, without the password."""
    words = refused[fault]
    assert re.search(FAULTS[fault][3], words), words
    assert not any(secret in words for secret in (*SECRETS, "wrong-guess"))
