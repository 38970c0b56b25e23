"""The broker and the topics of the demo."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from worker.errors import KafkaRefused
from worker.kafka.embedded import CONSUMER_SETTINGS, GROUP_SETTINGS, EmbeddedBroker

PARTITIONS = 4
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the demo plays: a broker, and topics that nobody else uses."""

    bootstrap_servers: str
    where: str  # for people
    name: str = field(default_factory=lambda: f"trt-worker-demo-{uuid.uuid4().hex[:8]}")  # also the group
    consumer: Mapping[str, str | int] = field(default_factory=dict)  # settings of any consumer of this broker
    group: Mapping[str, str | int] = field(default_factory=dict)  # and of group members

    @property
    def requests(self) -> str:
        return f"{self.name}-requests"

    @property
    def results(self) -> str:
        return f"{self.name}-results"

    @property
    def dead_letters(self) -> str:
        return f"{self.name}-dead-letters"

    @property
    def topics(self) -> tuple[str, ...]:
        return self.requests, self.results, self.dead_letters


@contextlib.contextmanager
def open_stage(bootstrap_servers: str | None) -> Iterator[Stage]:
    """A broker inside this process; or, on a given one, new topics that are deleted on exit with all they hold.

    Raises:
        KafkaRefused: the broker is not there, or does not let us create topics.
    """
    if bootstrap_servers is not None:
        with _borrowed(Stage(bootstrap_servers, f"Kafka at {bootstrap_servers}")) as stage:
            yield stage
        return
    with EmbeddedBroker() as broker:
        stage = Stage(broker.bootstrap_servers, "an embedded broker", consumer=CONSUMER_SETTINGS, group=GROUP_SETTINGS)
        broker.create(*stage.topics)
        yield stage


@contextlib.contextmanager
def _borrowed(stage: Stage) -> Iterator[Stage]:
    trouble: list[str] = []

    def note(error: KafkaError) -> None:
        trouble[:] = [error.str()]

    config: dict[str, Any] = {"bootstrap.servers": stage.bootstrap_servers, "error_cb": note, "log_level": 0}
    admin = AdminClient(config)
    try:
        admin.list_topics(timeout=PATIENCE_S)
        wanted = [NewTopic(topic, PARTITIONS, -1) for topic in stage.topics]  # -1: as many replicas as the broker likes
        made = admin.create_topics(wanted, operation_timeout=PATIENCE_S)
        for future in made.values():
            future.result(PATIENCE_S)
    except KafkaException as error:
        admin.poll(0)  # runs error_cb, which may know more
        reason = (trouble or [error.args[0].str()])[0]
        raise KafkaRefused(
            f"cannot create the demo's topics on {stage.bootstrap_servers}: {reason}; "
            "check --bootstrap-servers, or run the demo without it"
        ) from error
    try:
        yield stage
    finally:
        _give_back(admin, stage)


def _give_back(admin: AdminClient, stage: Stage) -> None:
    with contextlib.suppress(KafkaException, TimeoutError):  # an offset or two left behind expire by themselves
        admin.delete_consumer_groups([stage.name])[stage.name].result(PATIENCE_S)
    left = []
    for topic, future in admin.delete_topics(list(stage.topics), operation_timeout=PATIENCE_S).items():
        try:
            future.result(PATIENCE_S)
        except (KafkaException, TimeoutError):
            left.append(topic)
    if left:
        raise KafkaRefused(f"could not delete {', '.join(left)} on {stage.bootstrap_servers}; delete them yourself")
