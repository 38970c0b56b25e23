"""docs/security.md shows settings that can be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from confluent_kafka import Producer

from tests.config.settings_file import content
from tests.pages import blocks
from tests.security.certificates import Authority
from tests.security.conftest import PAGE
from tests.security.guarded_kafka import PASSWORD
from worker import config
from worker.kafka.connection import Connection


@pytest.mark.parametrize("number", range(3))
def test_the_logins_of_the_page_are_settings(number: int, tmp_path: Path) -> None:
    """Laid over the least that is enough, with the files where they are said to be, the client library takes them."""
    secrets, files = tmp_path / "secrets", tmp_path / "files"
    secrets.mkdir()
    files.mkdir()
    authority = Authority(files)
    certificate, key = authority.client("tls", PASSWORD)
    certificate.rename(files / "tls.crt")
    key.rename(files / "tls.key")
    for name in ("password", "key-password", "client-secret"):
        (secrets / name).write_text(f"{PASSWORD}\n", encoding="utf-8")

    shown = blocks(PAGE, "yml")
    assert len(shown) == 3
    text = shown[number].replace("/run/secrets/kafka", str(secrets)).replace("/etc/kafka", str(files))
    text = text.replace("login.example.com", "127.0.0.1:9")  # the client asks for its token at once
    file = tmp_path / "worker.yaml"
    file.write_text(yaml.safe_dump(content(**yaml.safe_load(text))), encoding="utf-8")
    settings = config.load(file)
    assert PASSWORD in settings.kafka.client.values()
    Connection(settings.kafka).open_client(Producer, "producer", {}, {})
