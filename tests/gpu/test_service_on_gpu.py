"""The whole service on a real GPU: the demo finds TensorRT by itself, and BERT-base is served through Kafka."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.gpu.gpu_fixtures import Bench, assert_near
from tests.gpu.onnx_models import write_bert_base
from tests.system.worker_process import WorkerProcess
from worker.client import InferenceClient
from worker.gpu.seeded import seeded_rows
from worker.kafka.embedded import CONSUMER_SETTINGS, GROUP_SETTINGS, EmbeddedBroker

pytestmark = pytest.mark.gpu

REQUESTS = 512
CHECKED = 8  # ONNX Runtime needs a while for each
TOLERANCE = 0.05  # FP16 on the GPU against FP32 on the CPU


@pytest.mark.timeout(300)  # builds an engine first
def test_the_demo_uses_tensorrt_by_itself() -> None:
    """Exit 0 means that every answer came, once, and right."""
    command = [sys.executable, "-m", "worker", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TensorRT 1" in done.stdout


@pytest.mark.timeout(900)  # BERT-base builds for more than a minute
def test_run_serves_bert_base(bench: Bench, tmp_path: Path) -> None:
    """`trt-worker run` as a process of its own; requests of one row and of several, each with its own answer."""
    if find_spec("transformers") is None:
        pytest.skip("needs torch and transformers for the export")
    onnx = bench.onnx("bert_base", write_bert_base)
    entry = bench.build(onnx, (1, 64, 64), precision="fp16")
    assert entry.manifest is not None
    model = entry.manifest.model_spec()
    row_shapes = tuple(spec.row_shape for spec in model.inputs)
    requests = [seeded_rows(model, row_shapes, 1 + number % 3, number) for number in range(REQUESTS)]
    with EmbeddedBroker("requests", "results", "dead") as broker:
        settings = {
            "model": {"name": onnx.stem, "version": "1"},
            "engine": {"backend": "tensorrt", "repository": str(bench.repository.root)},
            "kafka": {
                "bootstrap_servers": broker.bootstrap_servers,
                "group_id": "bert",
                "input_topic": "requests",
                "output_topic": "results",
                "dead_letter_topic": "dead",
                "consumer": {**CONSUMER_SETTINGS, **GROUP_SETTINGS},
            },
        }
        with WorkerProcess(tmp_path, "bert", settings) as worker:
            worker.start().await_ready()
            assert worker.status()["engine"]["tensorrt"]
            named = [
                {spec.name: array for spec, array in zip(model.inputs, arrays, strict=True)} for arrays in requests
            ]
            client = InferenceClient(broker.bootstrap_servers, "requests", "results", consumer_config=CONSUMER_SETTINGS)
            with client:
                answers = list(client.map(named, in_flight=256, timeout_s=60))
            metrics = worker.get("/metrics")[1]
            assert worker.terminate() == 0
    session = bench.session(onnx)
    pooled = [answer[model.outputs[0].name] for answer in answers]
    for number in range(0, REQUESTS, REQUESTS // CHECKED):
        assert_near([pooled[number]], session.run(requests[number]), TOLERANCE)
    assert len({array[0].tobytes() for array in pooled}) == REQUESTS, "two requests got the same answer"
    assert 'trt_worker_stage_seconds_count{stage="h2d"}' in metrics
    assert np.isfinite(np.concatenate(pooled)).all()
