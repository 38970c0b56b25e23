"""How far each partition's settled records are behind its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.kafka.ledger import PartitionLedger

Place = tuple[str, int]  # (topic, partition)


def lags_of(report: Mapping[str, Any], ledgers: Mapping[Place, PartitionLedger]) -> dict[Place, int]:
    """Records of these partitions that are not settled, by what the consumer's statistics tell of their ends.

    The client's own `consumer_lag` knows only offsets that it committed itself: none of a new group, and none of a
    transaction. A partition whose end is not known yet is left out.
    """
    lags = {}
    for (topic, number), ledger in ledgers.items():
        told = report.get("topics", {}).get(topic, {}).get("partitions", {}).get(str(number), {})
        start, end = _start_of(ledger, told), told.get("ls_offset", -1)
        if start is not None and end >= 0:
            lags[(topic, number)] = max(0, end - start)
    return lags


def _start_of(ledger: PartitionLedger, told: Mapping[str, Any]) -> int | None:
    """Where a successor would start; with nothing in flight that is behind control records, too."""
    if len(ledger):
        return ledger.start
    known = [told.get(key, -1) for key in ("app_offset", "committed_offset", "next_offset")]
    return next((offset for offset in known if offset >= 0), None)
