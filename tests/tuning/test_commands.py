"""`trt-worker tune` and `trt-worker bench` as they are typed, with the demo's model on the CPU. Nothing is timed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from worker.commands.app import app
from worker.config import load
from worker.demo.digits import MODEL
from worker.errors import ConfigError

WORKER = [sys.executable, "-m", "worker"]
GENEROUS = ("--p99-ms", "5000")  # met on any machine
TINY = ("--seconds", "4", "--max-rows", "8,32", "--max-delay-ms", "0,5", "--lanes", "1,2")


def run(*arguments: str, exit_code: int = 0) -> str:
    done = subprocess.run([*WORKER, *arguments], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


def files(folder: Path) -> tuple[str, ...]:
    return (
        *("--output", str(folder / "tune.yaml"), "--report", str(folder / "tune.html")),
        *("--json", str(folder / "tune.json")),
    )


def test_tune_recommends_confirms_and_writes(tmp_path: Path) -> None:
    """From a settings file: only the tuned keys change, `config check` takes the result, the figures say the same."""
    given = tmp_path / "given.yaml"
    kafka = {"bootstrap_servers": "b:1", "group_id": "g", "input_topic": "i", "output_topic": "o"}
    content = {
        "model": {"name": "digits", "onnx": str(MODEL)},
        "engine": {"backend": "cpu", "lanes": 2},
        "kafka": {**kafka, "dead_letter_topic": "d"},
        "batching": {"max_bytes": 1 << 20},
    }
    given.write_text(yaml.safe_dump(content))
    said = run("tune", "--config", str(given), *GENEROUS, *TINY, *files(tmp_path))
    confirmed = re.search(r"^confirmed: p99 (\S+) ms at ([\d,]+)/s \(target 5000 ms\)$", said, re.MULTILINE)
    assert confirmed is not None, said
    assert re.search(r"^through an embedded broker: p99 .* answered$", said, re.MULTILINE), said

    told = json.loads((tmp_path / "tune.json").read_text())
    best = told["recommended"]
    assert told["confirmed"]
    assert told["share_of_best"] >= 0.95
    assert told["rate"] == float(confirmed[2].replace(",", ""))
    assert best["max_rows"] in {8, 32, 64}  # or the present one
    tried = {point["setting"]["max_rows"] for point in told["points"]}
    assert tried
    assert tried <= {8, 32, 64}  # a slow machine comes to a part of them in so little time
    assert told["kafka"]["answered"] > 0

    made = yaml.safe_load((tmp_path / "tune.yaml").read_text())
    assert made["batching"] == {
        "max_bytes": 1 << 20,
        "max_rows": best["max_rows"],
        "max_delay_ms": best["max_delay_ms"],
    }
    assert made["engine"] == {"backend": "cpu", "lanes": best["lanes"], "cuda_graphs": best["cuda_graphs"]}
    assert made["kafka"] == content["kafka"]
    assert "ok" in run("config", "check", str(tmp_path / "tune.yaml"))
    page = (tmp_path / "tune.html").read_text()
    assert confirmed[0][1:] in page
    assert page.count("<svg") == 3


def test_tune_at_a_given_rate_from_an_onnx_file(tmp_path: Path) -> None:
    """Without a settings file, the settings that are written are whole."""
    arguments = ("--rates", "200", "--no-kafka", "--arrivals", "even", "--rows-per-request", "2")
    run("tune", "--onnx", str(MODEL), "--backend", "cpu", *GENEROUS, *TINY, *arguments, *files(tmp_path))
    told = json.loads((tmp_path / "tune.json").read_text())
    assert told["rate"] == 200
    assert "requests of 2 rows" in told["requests"]
    settings = load(tmp_path / "tune.yaml")
    assert settings.model.name == "digits"
    assert settings.batching.max_rows == told["recommended"]["max_rows"]


def test_a_target_that_is_missed_ends_with_1_and_a_report(tmp_path: Path) -> None:
    said = run(
        "tune", "--onnx", str(MODEL), "--backend", "cpu", "--p99-ms", "0.01", "--rates", "500", "--no-kafka", *TINY,
        *files(tmp_path), exit_code=1,
    )  # fmt: skip
    assert "not confirmed: p99" in said
    assert "No setting met the target" in (tmp_path / "tune.html").read_text()


def test_ctrl_c_ends_with_what_is_known(tmp_path: Path) -> None:
    """Quietly: no traceback, the exit code of an interruption, and the files of what was measured."""
    command = [
        *WORKER,
        "tune",
        "--onnx",
        str(MODEL),
        "--backend",
        "cpu",
        *GENEROUS,
        "--seconds",
        "100",
        *files(tmp_path),
    ]
    grid = ("--max-rows", "8", "--max-delay-ms", "0", "--lanes", "1", "--rates", "100,101,102,103,104,105")
    process = subprocess.Popen([*command, *grid], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "best so far" in line:
                break
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "stopped early" in said
    assert json.loads((tmp_path / "tune.json").read_text())["is_interrupted"]
    assert (tmp_path / "tune.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to measure: --config FILE, --onnx FILE, or --model NAME"),
        (("--onnx", "m.onnx", "--config", "c.yaml"), "not both"),
        (("--onnx", "nowhere.onnx", "--backend", "cpu"), "no such file"),
        (("--onnx", str(MODEL), "--rates", "fast"), "--rates is 'fast'"),
        (("--onnx", str(MODEL), "--lanes", "0"), "--lanes is '0'"),
        (("--onnx", str(MODEL), "--arrivals", "odd"), "say poisson or even"),
        (("--onnx", str(MODEL), "--cuda-graphs", "some"), "say auto, off"),
        (("--onnx", str(MODEL), "--shape", "image"), "write INPUT=AxBx"),
        (("--onnx", str(MODEL), "--backend", "cpu", "--shape", "other=3"), "--shape names other"),
        (("--onnx", str(MODEL), "--backend", "cpu", "--input", "nowhere.npz"), "cannot be read"),
        (("--onnx", str(MODEL), "--backend", "cpu", "--max-rows", "4000"), "--max-rows has 4000"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is measured; `main` makes a line and exit code 2 of it."""
    monkeypatch.setattr("worker.logs.set_up", lambda _settings: None)  # pytest's own logging stays as it is
    with pytest.raises(ConfigError, match=re.escape(message)):
        typer.main.get_command(app).main(["tune", *arguments], standalone_mode=False)


def test_bench_measures_ideal_lanes_and_whole_path_and_names_the_bound(tmp_path: Path) -> None:
    """On the CPU; table, JSON and plot say the same."""
    figures, plot = tmp_path / "bench.json", tmp_path / "bench.svg"
    said = run(
        "bench", "--onnx", str(MODEL), "--backend", "cpu", "--rows", "16", "--lanes", "2", "--seconds", "0.1",
        "--rounds", "2", "--bootstrap-servers", "embedded", "--json", str(figures), "--plot", str(plot),
    )  # fmt: skip
    told = json.loads(figures.read_text())
    assert set(told["lanes_rows_per_s"]) == {"1 lane", "2 lanes", "2 lanes + gather"}
    assert told["ideal_rows_per_s"]
    assert 0 < told["whole"]["share_of_ideal"] < 2
    assert told["overlap"]["stage_us"]["compute"] > 0
    assert {"throughput", "latency_at_half_load", "through_kafka"} == set(told["bound_by"])
    for words in told["bound_by"].values():
        assert f"is bound by {words}" in said
    assert f"{told['whole']['rows_per_s']:,.0f}" in said
    assert f">{told['whole']['rows_per_s']:,.0f}</text>" in plot.read_text()


def test_bench_takes_its_sizes_from_a_settings_file(tmp_path: Path) -> None:
    figures = tmp_path / "bench.json"
    run(
        "bench", "--config", "config/worker.yaml", "--seconds", "0.05", "--rounds", "1", "--json", str(figures),
        "--rows-per-request", "4",
    )  # fmt: skip
    what = json.loads(figures.read_text())["what"]
    assert (what["rows"], what["lanes"], what["rows_per_request"]) == (64, 3, 4)


def test_bench_refuses_what_it_cannot_measure() -> None:
    said = run("bench", "--onnx", str(MODEL), "--rows", "4", "--rows-per-request", "8", exit_code=2)
    assert said == "trt-worker: --rows-per-request is 8; a batch has 4 rows (--rows)\n"
