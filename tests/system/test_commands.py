"""send and dlq against a running worker on real Kafka, as an operator would type them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import yaml

from tests.system.conftest import PARTITIONS, Site
from tests.system.traffic import COLUMNS, publish, request

TOO_NARROW = COLUMNS - 1


def trt_worker(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "worker", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def config_file(site: Site) -> Path:
    file = site.directory / "operator.yaml"
    file.write_text(yaml.safe_dump(site.settings()), encoding="utf-8")
    return file


def test_send_publishes_files_and_prints_the_answers(site: Site) -> None:
    """.npy, .npz and .json; a refused one is told on standard error and by the exit code."""
    row = np.arange(COLUMNS, dtype=np.float32).reshape(1, COLUMNS)
    np.save(site.directory / "one.npy", row)
    np.savez(site.directory / "two.npz", x=np.repeat(row, 2, axis=0))
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, COLUMNS], "data": row.ravel().tolist()}
    (site.directory / "three.json").write_text(json.dumps({"inputs": [tensor]}))
    np.save(site.directory / "narrow.npy", row[:, :TOO_NARROW])
    site.worker().start().await_ready()
    config = str(config_file(site))

    files = [str(site.directory / name) for name in ("one.npy", "two.npz", "three.json")]
    done = trt_worker("send", *files, "--config", config, "--input", "x", "--json")
    assert done.returncode == 0, done.stderr
    answers = {Path(answer["file"]).name: answer["outputs"] for answer in map(json.loads, done.stdout.splitlines())}
    assert answers["one.npy"]["y"] == row.tolist()
    assert answers["two.npz"]["y"] == row.tolist() * 2
    assert answers["three.json"]["y"] == row.tolist()

    refused = trt_worker("send", str(site.directory / "narrow.npy"), "-c", config, "--input", "x")
    assert refused.returncode == 1
    assert "wrong_shape" in refused.stderr
    unnamed = trt_worker("send", files[0], "-c", config)
    assert unnamed.returncode == 2
    assert "--input" in unnamed.stderr


def test_dead_letters_are_listed_and_sent_back_once(site: Site) -> None:
    """A replay brings the record back as it was; without --again it is not sent a second time."""
    bad = msgpack.packb({"id": "bad", "inputs": []})
    publish(site.servers, site.input_topic, [bad, request(1), b"junk"], PARTITIONS)
    worker = site.worker().start().await_ready()
    site.reader().read(until=3, timeout_s=60)
    config = str(config_file(site))

    letters = listed(config)
    assert sorted(letter["code"] for letter in letters) == ["malformed", "missing_input"]
    assert all(letter["source"].startswith(f"{site.input_topic}/") for letter in letters)
    assert [letter["code"] for letter in listed(config, "--code", "malformed")] == ["malformed"]
    table = trt_worker("dlq", "list", "-c", config)
    assert "missing_input" in table.stdout

    assert replayed(config) == "2 sent back, 0 skipped"
    site.reader().read(until=3, timeout_s=60, quiet_s=2)
    again = listed(config)  # the worker has refused them again
    assert len(again) == 4
    worker.terminate()
    assert replayed(config) == "2 sent back, 0 skipped"  # only the new ones
    assert replayed(config) == "0 sent back, 0 skipped"
    assert replayed(config, "--again", "--limit", "3") == "3 sent back, 0 skipped"
    assert replayed(config, "--again", "--code", "malformed") == "2 sent back, 2 skipped"


def listed(config: str, *words: str) -> list[dict[str, Any]]:
    done = trt_worker("dlq", "list", "--json", "-c", config, *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def replayed(config: str, *words: str) -> str:
    done = trt_worker("dlq", "replay", "-c", config, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
