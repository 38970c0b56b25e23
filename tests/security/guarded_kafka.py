"""Real Kafka that wants to know who asks: TLS, logins, and an authorizer that allows nothing by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from tests.kafka_server import KafkaCluster
from tests.security.certificates import Authority

USER = "digits-worker"
PASSWORD = "hunter2"  # of every user; must never be seen
LOGINS = "org.apache.kafka.common.security"
QUICK = {  # a member that may not leave its group is given up soon
    f"group.{kind}.{limit}": time_ms
    for kind in ("consumer", "share")
    for limit, time_ms in (
        ("session.timeout.ms", "6000"),
        ("min.session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "1000"),
        ("min.heartbeat.interval.ms", "1000"),
    )
}
UNSECURED = f"{LOGINS}.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"


class Right(NamedTuple):
    """A user may do something with a topic, group or transactional id."""

    user: str
    operation: AclOperation
    kind: ResourceType
    name: str
    pattern: ResourcePatternType

    def __str__(self) -> str:
        """As the table of docs/security.md has it."""
        end = "…" if self.pattern is ResourcePatternType.PREFIXED else ""
        return f"{self.operation.name} {self.kind.name} {self.name}{end}".replace("_ID", " ID").replace("_", "").lower()

    def elsewhere(self, mark: str) -> Self:
        """The same on a topic, group or transactional id whose name goes on with a mark."""
        return self._replace(name=re.sub(r"^(digits(?:-worker|\.[a-z-]+))", rf"\1-{mark}", self.name))

    def words(self) -> tuple[Any, ...]:
        """Arguments of an AclBinding, or of a filter that fits nothing else."""
        allow = AclPermissionType.ALLOW
        return self.kind, self.name, self.pattern, f"User:{self.user}", "*", self.operation, allow


class GuardedKafka:
    """One node with three listeners: a plain one for the super user, LOGIN (SASL over TLS), MUTUAL (certificates)."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.authority = Authority(directory)
        keystore = self.authority.server("127.0.0.1")
        properties = QUICK | {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # whoever comes through the plain listener
            "allow.everyone.if.no.acl.found": "false",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.certificate),
            "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/",
            "listener.name.mutual.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN,OAUTHBEARER",
            "listener.name.login.scram-sha-512.sasl.jaas.config": f"{LOGINS}.scram.ScramLoginModule required;",
            "listener.name.login.plain.sasl.jaas.config": (
                f'{LOGINS}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            ),
            "listener.name.login.oauthbearer.sasl.jaas.config": (
                f"{LOGINS}.oauthbearer.OAuthBearerLoginModule required;"
            ),
            "listener.name.login.oauthbearer.sasl.server.callback.handler.class": UNSECURED,
        }
        self.cluster = KafkaCluster(
            directory / "node", properties=properties, listeners={"LOGIN": "SASL_SSL", "MUTUAL": "SSL"}
        )

    def add_user(self, name: str) -> None:
        """A user of SCRAM-SHA-512."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(name, info, PASSWORD.encode())
        for done in self.cluster.admin.alter_user_scram_credentials([change]).values():
            done.result(30)

    def login(self, **keys: str | None) -> dict[str, Any]:
        """`kafka.client` of the user; keys with underscores for dots are laid over it, None takes one away."""
        base = {
            "security.protocol": "sasl_ssl",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": USER,
            "sasl.password": PASSWORD,
            "ssl.ca.location": str(self.authority.certificate),
        }
        whole = base | {key.replace("_", "."): value for key, value in keys.items()}
        return {key: value for key, value in whole.items() if value is not None}

    def allow(self, rights: Iterable[Right]) -> None:
        """Grant these, beside those that are there."""
        for done in self.cluster.admin.create_acls([AclBinding(*right.words()) for right in rights]).values():
            done.result(30)

    def forbid(self, right: Right) -> None:
        """Take one away."""
        (done,) = self.cluster.admin.delete_acls([AclBindingFilter(*right.words())]).values()
        assert len(done.result(30)) == 1

    def rights(self) -> set[Right]:
        """All that anybody has."""
        resource: tuple[Any, ...] = (ResourceType.ANY, None, ResourcePatternType.ANY)
        every: tuple[Any, ...] = (*resource, None, None, AclOperation.ANY, AclPermissionType.ANY)
        found = self.cluster.admin.describe_acls(AclBindingFilter(*every)).result(30)
        return {
            Right(
                str(binding.principal).removeprefix("User:"),
                AclOperation(binding.operation),
                ResourceType(binding.restype),
                str(binding.name),
                ResourcePatternType(binding.resource_pattern_type),
            )
            for binding in found
        }
