"""What is measured: which model, records of which size, how many of them, over how many partitions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

MANY = 200_000  # fewer measure the start
MOST_BYTES = 4 << 30  # of all records together
MLP_ROW_BYTES, TOKENS, IMAGE_BYTES = 512, 128, 3 * 224 * 224


@dataclass(frozen=True)
class Scenario:
    """One row of the table. The pass-through model returns what it gets, so that everything but the model is seen."""

    name: str
    model: str = "pass-through"  # one of bench/models.py
    row_bytes: int = 576  # of all inputs; the request around them adds about 80
    rows: int = 1  # of one request
    records: int = MANY
    partitions: int = 4
    by_key: bool = False  # records lie where the Java client puts their keys, as their answers will; else in turns
    max_rows: int = 64  # of the worker's batches
    distinct: int = 1024  # requests; then they repeat: enough that a mixed-up answer shows
    tolerance: float = 0.0  # of the answers, as a share of the largest expected number

    @property
    def payload_bytes(self) -> int:
        """Of one request's tensors."""
        return self.row_bytes * self.rows

    def over(self, partitions: int, *, by_key: bool = False) -> Scenario:
        """The same with other partitions."""
        return replace(self, partitions=partitions, by_key=by_key)

    def with_records(self, records: int | None) -> Scenario:
        """So many records, or as many as asked for at first."""
        return self if records is None else replace(self, records=records)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _scenario(name: str, model: str = "pass-through", **changes: Any) -> Scenario:
    """As many records as there should be, or as many as MOST_BYTES hold."""
    made = Scenario(name, model, **changes)
    records = min(made.records, MOST_BYTES // made.payload_bytes)
    distinct = max(16, min(made.distinct, (64 << 20) // made.payload_bytes))
    return replace(made, records=records, distinct=distinct)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        _scenario("pass-through-0.6k"),
        _scenario("pass-through-16k", row_bytes=16_000),
        _scenario("pass-through-150k", row_bytes=150_000),
        _scenario("pass-through-600k", row_bytes=600_000),
        _scenario("mlp-1", "mlp", row_bytes=MLP_ROW_BYTES, tolerance=0.02),
        _scenario("mlp-16", "mlp", row_bytes=MLP_ROW_BYTES, rows=16, max_rows=256, tolerance=0.02),
        _scenario("mlp-256", "mlp", row_bytes=MLP_ROW_BYTES, rows=256, max_rows=256, tolerance=0.02),
        _scenario("bert-base", "bert_base", row_bytes=TOKENS * 8 * 3, distinct=32, tolerance=0.05),
        _scenario("resnet50", "resnet50", row_bytes=IMAGE_BYTES, distinct=32, tolerance=0.05),
    )
}
