"""What two members of a group must not share."""

from __future__ import annotations

from pathlib import Path

from worker import config
from worker.assemble import seats_of_each
from worker.assemble_intake import settings_of
from worker.config import Settings
from worker.intake.hello import Hello, unpack
from worker.kafka.transactions import transactional_id
from worker.sections import EngineSettings
from worker.tensors import ModelSpec, TensorSpec


def settings(tmp_path: Path, more: str = "") -> Settings:
    path = tmp_path / "worker.yaml"
    path.write_text(
        "model: {name: m}\n"
        "kafka: {bootstrap_servers: b:1, group_id: g, input_topic: i, output_topic: o, dead_letter_topic: d"
        f"{more}}}\n"
    )
    return config.load(path)


def test_every_intake_process_has_its_own_transactional_id_and_instance_id(tmp_path: Path) -> None:
    """Two producers with one id would fence each other, two members with one would expel each other."""
    whole = settings(tmp_path, ", consumer: {group.instance.id: pod-1}")
    each = [settings_of(index, whole) for index in range(3)]
    base = transactional_id(whole.kafka, whole.delivery)
    assert [one.delivery.transactional_id for one in each] == [f"{base}-0", f"{base}-1", f"{base}-2"]
    assert [one.kafka.consumer["group.instance.id"] for one in each] == ["pod-1-0", "pod-1-1", "pod-1-2"]
    assert each[0].kafka.group_id == each[1].kafka.group_id == "g"


def test_settings_arrive_as_they_were_checked(tmp_path: Path) -> None:
    """Whatever the environment of the new process says."""
    model = ModelSpec("m", "1", (TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP16", (-1, 2)),), 64, "abc")
    hello = Hello(2, settings(tmp_path, ", client: {sasl.password: secret}"), model, {"gpu": "none"}, 1, 3, 4096)
    assert unpack(hello.pack()) == hello


def test_seats_are_enough_for_all_lanes_at_once() -> None:
    """One to fill and one to read in every process, while all lanes run."""
    for lanes in range(1, 17):
        for count in (2, 3, 8, 64):
            seats = seats_of_each(EngineSettings(lanes=lanes, intake_processes=count))
            assert seats >= 3
            assert count * (seats - 2) >= lanes
