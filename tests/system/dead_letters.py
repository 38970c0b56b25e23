"""What the dead-letter topic holds, against what was published."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from tests.system.conftest import PARTITIONS, Site
from worker.kafka import dead_letter
from worker.records import Headers

PATIENCE_S = 10.0  # without a single one


@dataclass(frozen=True)
class Original:
    """A record that must become a dead letter."""

    kind: str
    code: str
    key: bytes | None
    value: bytes | None
    headers: Headers  # its own, as the letter must carry them


def letters(site: Site, until: int) -> Iterator[Message]:
    """So many dead letters, or as many as come."""
    settings = {"bootstrap.servers": site.servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    places = [TopicPartition(site.dead_letter_topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)]
    with closing(Consumer(settings)) as consumer:
        consumer.assign(places)
        while until > 0:
            messages = consumer.consume(1000, 1.0) or consumer.consume(1, PATIENCE_S)
            if not messages:
                return
            until -= len(messages)
            yield from messages


def codes(site: Site, until: int) -> Counter[str]:
    """error code -> dead letters that carry it."""
    return Counter(_told(letter)[dead_letter.CODE_HEADER] for letter in letters(site, until))


def faults(site: Site, originals: dict[str, Original]) -> list[str]:
    """What is wrong with the dead letters of these records (source -> record); empty where each has exactly one."""
    found: list[str] = []
    left = dict(originals)
    for letter in letters(site, len(originals)):
        told = _told(letter)
        source = told[dead_letter.SOURCE_HEADER]
        original = left.pop(source, None)
        if original is None:
            found.append(f"{source} ({originals.get(source)}) is no dead letter, or is there twice")
            continue
        own = [header for header in letter.headers() or () if not dead_letter.is_ours(header[0])]
        topic, partition, offset = source.rsplit("/", 2)
        streams = [told[dead_letter.STREAMS_PREFIX + name] for name in ("topic", "partition", "offset")]
        checks = {
            "code": told[dead_letter.CODE_HEADER] == original.code,
            "value": letter.value() == original.value,
            "key": letter.key() == original.key,
            "headers": own == original.headers,
            "message": bool(told[dead_letter.MESSAGE_HEADER]),
            "place": streams == [topic, partition, offset],
        }
        found += [
            f"{original.kind}: another {name}: {told}, {own}" for name, is_right in checks.items() if not is_right
        ]
    return found + [f"{original.kind}: no dead letter for {source}" for source, original in left.items()]


def _told(letter: Message) -> dict[str, str]:
    """Our own headers; each is there once."""
    ours: list[Any] = [header for header in letter.headers() or () if dead_letter.is_ours(header[0])]
    told = {name: value.decode() for name, value in ours}
    assert len(told) == len(ours), ours
    return told
