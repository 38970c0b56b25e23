"""Requests for a model: what the worker takes, spread over what it may get."""

from __future__ import annotations

from pathlib import Path

import msgpack
import numpy as np
import pytest

from tests.records import model_of, spec
from worker.config import Settings
from worker.errors import ConfigError
from worker.tuning.payload import payload_from, seeded_payload

TEXT = model_of(
    spec("ids", "INT64", (-1, -1), ("batch", "tokens")), spec("mask", "INT64", (-1, -1), ("batch", "tokens"))
)


def settings(**batching: object) -> Settings:
    kafka = {"bootstrap_servers": "b:1", "group_id": "g", "input_topics": ["i"], "output_topic": "o"}
    return Settings(
        _env_prefix="NONE__", model={"name": "m"}, kafka={**kafka, "dead_letter_topic": "d"}, batching=batching
    )


def shapes(values: tuple[bytes, ...]) -> set[tuple[tuple[int, ...], ...]]:
    return {tuple(tuple(tensor["shape"]) for tensor in msgpack.unpackb(value)["inputs"]) for value in values}


def test_a_fixed_model_gets_distinct_requests_of_its_shape() -> None:
    payload = seeded_payload(model_of(spec("x", "FP32", (-1, 4))), settings(), 3, {})
    assert shapes(payload.values) == {((3, 4),)}
    assert len(set(payload.values)) == len(payload.values) == 256
    assert payload.values == seeded_payload(model_of(spec("x", "FP32", (-1, 4))), settings(), 3, {}).values


def test_lengths_are_spread_over_the_buckets_and_agree_among_inputs() -> None:
    pad = {name: {"axis": 1, "value": 0, "buckets": [8, 32]} for name in ("ids", "mask")}
    payload = seeded_payload(TEXT, settings(pad=pad), 1, {})
    lengths = [form[0][1] for form in shapes(payload.values)]
    assert all(ids == mask for ids, mask in shapes(payload.values))
    assert min(lengths) < 8
    assert 20 < max(lengths) <= 32


def test_a_free_axis_wants_to_be_told() -> None:
    """The message names input, axis and remedy; --shape is one, and holds for inputs that share the axis."""
    with pytest.raises(ConfigError, match=r"axis 1 of input 'ids' \(tokens\).*--shape"):
        seeded_payload(TEXT, settings(), 1, {})
    assert shapes(seeded_payload(TEXT, settings(), 1, {"ids": (128,)}).values) == {((1, 128), (1, 128))}
    with pytest.raises(ConfigError, match="--shape names other"):
        seeded_payload(TEXT, settings(), 1, {"other": (1,)})
    with pytest.raises(ConfigError, match="has 2 axes"):
        seeded_payload(TEXT, settings(), 1, {"ids": (2, 3)})


def test_large_requests_are_few() -> None:
    """Memory stays bounded."""
    payload = seeded_payload(model_of(spec("x", "UINT8", (-1, 3, 1024, 1024))), settings(), 4, {})
    assert 1 <= len(payload.values) <= 6


def test_a_file_is_cut_into_requests(tmp_path: Path) -> None:
    model = model_of(spec("x", "FP32", (-1, 2)))
    file = tmp_path / "rows.npz"
    np.savez(file, x=np.arange(10, dtype=np.float64).reshape(5, 2))
    payload = payload_from(file, model, 2)
    tensors = [msgpack.unpackb(value)["inputs"][0] for value in payload.values]
    assert [np.frombuffer(each["data"], np.float32).tolist() for each in tensors] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(ConfigError, match="5 rows, one request takes 6"):
        payload_from(file, model, 6)
    with pytest.raises(ConfigError, match="has no y"):
        payload_from(file, model_of(spec("y")), 1)
    (tmp_path / "bad.npz").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"cannot be read as \.npz"):
        payload_from(tmp_path / "bad.npz", model, 1)
