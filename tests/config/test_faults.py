"""What somebody is told whose settings are wrong: key, value, remedy, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.config.settings_file import Load, content, fault
from worker import config
from worker.errors import ConfigError


def test_an_empty_section_means_its_defaults(load: Load) -> None:
    """`batching:` with nothing behind it is null in YAML."""
    assert load(text=yaml.safe_dump(content()) + "batching:\n").batching.max_rows == 64


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"batching": {"max_row": 3}}, ["batching.max_row", "did you mean max_rows"]),
        ({"batchin": {"max_rows": 3}}, ["batchin", "did you mean batching"]),
        ({"http": {"zebra": 3}}, ["http.zebra", "known here", "port"]),
        ({"batching": {"pad": {"x": {"axis": 1, "bucket": [4]}}}}, ["batching.pad.x", "bucket"]),
        ({"batching": {"max_rows": "many"}}, ["batching.max_rows", "'many'", "integer"]),
        ({"batching": {"max_rows": 0}}, ["batching.max_rows", "0", "greater than or equal to 1"]),
        ({"batching": {"max_rows": 1.5}}, ["batching.max_rows", "1.5"]),
        ({"batching": 7}, ["batching", "7"]),
        ({"batching": [1]}, ["batching", "[1]"]),
        ({"batching": {"max_delay_ms": -1}}, ["batching.max_delay_ms", "-1", "greater than or equal to 0"]),
        ({"batching": {"max_delay_ms": float("nan")}}, ["batching.max_delay_ms", "nan"]),
        ({"batching": {"pad": {"x": {"axis": 0, "buckets": [4]}}}}, ["batching.pad.x.axis", "0"]),
        ({"batching": {"pad": {"x": {"axis": 1, "buckets": [8, 4]}}}}, ["batching.pad.x.buckets", "ascending", "8"]),
        ({"batching": {"pad": {"x": {"axis": 1, "buckets": []}}}}, ["batching.pad.x.buckets"]),
        ({"batching": {"pad": {"x": {"axis": 1}}}}, ["batching.pad.x.buckets", "missing"]),
        ({"delivery": {"mode": "twice"}}, ["delivery.mode", "'twice'", "at_least_once", "exactly_once", "queue"]),
        ({"delivery": {"drain_timeout_s": 0}}, ["delivery.drain_timeout_s", "0"]),
        ({"engine": {"lanes": 99}}, ["engine.lanes", "99", "16"]),
        ({"engine": {"cuda_graphs": "sometimes"}}, ["engine.cuda_graphs", "sometimes", "auto", "off"]),
        ({"http": {"port": 70_000}}, ["http.port", "70000", "65535"]),
        ({"logging": {"level": "loud"}}, ["logging.level", "loud", "debug"]),
        ({"model": None}, ["model", "missing", "TRT_WORKER__MODEL"]),
        ({"model": {"name": ""}}, ["model.name", "''"]),
        ({"model": {"name": 7}}, ["model.name", "7", "string"]),
        ({"model": {"version": 1}}, ["model.version", "1", "string"]),
        ({"kafka": {"group_id": None}}, ["kafka.group_id", "None"]),
        ({"kafka": {"input_topic": ["a", "b"]}}, ["kafka.input_topic"]),
        ({"kafka": {"input_topics": ["a"]}}, ["input_topic", "input_topics", "not both"]),
        (
            {"kafka": {"client": {"bootstrap.servers": "x"}}},
            ["kafka.client", "bootstrap.servers", "kafka.bootstrap_servers"],
        ),
        (
            {"kafka": {"consumer": {"enable.auto.commit": True}}},
            ["kafka.consumer", "enable.auto.commit", "delivery.mode"],
        ),
        (
            {"kafka": {"producer": {"delivery.report.only.error": True}}},  # commits would wait for ever
            ["kafka.producer", "delivery.report.only.error", "delivery.mode"],
        ),
        ({"kafka": {"producer": {"transactional_id": "x"}}}, ["transactional.id", "delivery.transactional_id"]),
        ({"kafka": {"client": {"log_level": [7]}}}, ["kafka.client", "log"]),
    ],
)
def test_a_fault_names_the_key_the_value_and_the_remedy(sections: dict[str, Any], words: list[str], load: Load) -> None:
    message = fault(load, **sections)
    for word in words:
        assert word in message


def test_a_missing_key_says_how_to_set_it(load: Load) -> None:
    kafka = {key: value for key, value in content()["kafka"].items() if key != "group_id"}
    message = fault(load, text=yaml.safe_dump({**content(), "kafka": kafka}))
    assert "kafka.group_id is missing" in message
    assert "TRT_WORKER__KAFKA__GROUP_ID" in message


def test_all_faults_are_told_at_once(load: Load) -> None:
    message = fault(load, batching={"max_row": 3, "max_bytes": 1}, http={"port": -1})
    for key in ("batching.max_row ", "batching.max_bytes", "http.port"):
        assert key in message


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"kafka": {"dead_letter_topic": None}}, ["delivery.errors_to", "kafka.dead_letter_topic", "output"]),
        ({"kafka": {"output_topic": "in"}}, ["kafka.input_topics", "in", "loop"]),
        ({"kafka": {"dead_letter_topic": "in"}}, ["kafka.input_topics", "in", "loop"]),
        (
            {"kafka": {"input_topic": "^i.*", "output_topic": "in-results"}},
            ["kafka.input_topics", "in-results", "loop"],
        ),
        ({"kafka": {"input_topic": "^i.*", "dead_letter_topic": "in-dead"}}, ["kafka.input_topics", "in-dead", "loop"]),
        (
            {"kafka": {"dead_letter_topic": "out"}},
            ["kafka.dead_letter_topic", "out", "kafka.output_topic", "of its own", "errors_to: output"],
        ),
        ({"limits": {"max_rows_per_request": 65}}, ["limits.max_rows_per_request", "65", "64", "batching.max_rows"]),
    ],
)
def test_sections_that_contradict_each_other_are_refused(
    sections: dict[str, Any], words: list[str], load: Load
) -> None:
    message = fault(load, **sections)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "text", ["a: [", "\tx: 1", "- model", "just text", "7", "1: 2", "model: !!python/object:os.system {}"]
)
def test_what_is_no_settings_file_is_said_to_be_none(text: str, load: Load) -> None:
    fault(load, text=text)


def test_an_empty_file_lacks_everything(load: Load) -> None:
    assert "model is missing" in fault(load, text="")


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "worker.yaml"
    path.write_bytes(b"\xff\xfe\x00model: 1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        config.load(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read") as caught:
            config.load(path)
        assert str(path) in str(caught.value)
