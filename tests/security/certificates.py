"""Certificates of a test's own authority, as the PEM files that Kafka and librdkafka read."""

from __future__ import annotations

from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


class Authority:
    """Signs certificates and writes them into one folder."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self.certificate = directory / f"{name}.pem"
        self._authority.cert_pem.write_to_path(self.certificate)

    def server(self, *hosts: str) -> Path:
        """Key and certificate in one file, Kafka's keystore of type PEM."""
        issued = self._authority.issue_cert(*hosts)
        file = self._directory / "server.pem"
        file.write_bytes(_pkcs8(issued) + issued.cert_chain_pems[0].bytes())
        return file

    def client(self, name: str, password: str | None = None) -> tuple[Path, Path]:
        """Certificate and key of a client, in files of their own; the key is encrypted with the password."""
        issued = self._authority.issue_cert(f"{name}.example.com", common_name=name)
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        key.write_bytes(_pkcs8(issued, password))
        return certificate, key


def _pkcs8(issued: trustme.LeafCert, password: str | None = None) -> bytes:
    """The private key in the only form that Kafka takes in PEM."""
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
