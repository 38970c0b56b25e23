"""Several intake processes on a real GPU: shared memory that CUDA has registered, and every answer its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.gpu.gpu_fixtures import Bench, assert_near
from tests.gpu.onnx_models import write_mlp
from tests.intake.hosts import COLUMNS, write_odd
from tests.system.worker_process import WorkerProcess
from worker.client import InferenceClient
from worker.gpu.seeded import seeded_rows
from worker.intake.memory import create
from worker.intake.server import EngineServer
from worker.kafka.embedded import CONSUMER_SETTINGS, GROUP_SETTINGS, EmbeddedBroker

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parent.parent.parent
PROCESSES, SEATS = 3, 3
BATCHES = 3_334  # of each process
REQUESTS = 2_000
TOLERANCE = 5e-3  # TF32 on the GPU against FP32 on the CPU


@pytest.mark.timeout(200)
@pytest.mark.parametrize("graphs", ["off", "auto"])
def test_ten_thousand_batches_of_three_processes_each_get_their_own_answer(bench: Bench, graphs: str) -> None:
    """Payloads that differ from batch to batch, gathered into shared memory, on two lanes for all."""
    entry = bench.build(bench.onnx("odd", write_odd), (1, 8, 8))
    with bench.open(entry, cuda_graphs=graphs, lanes=2, copies_in_graphs=False) as backend:
        server = EngineServer(backend, lane_timeout_s=30.0)
        users = []
        memories = [create(f"test-{index}", SEATS, backend.seat_bytes) for index in range(PROCESSES)]
        for index, memory in enumerate(memories):
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            arguments = [its.fileno(), memory.fd, SEATS, memory.seat_bytes, 100_000 * index, BATCHES]
            with its:
                users.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.intake.seat_user", *map(str, arguments)],
                        cwd=ROOT,
                        pass_fds=(its.fileno(), memory.fd),
                        stderr=subprocess.PIPE,
                    )
                )
            server.add(index, ours, memory)
        with backend.pinned(memories[0].bytes), backend.pinned(memories[1].bytes), backend.pinned(memories[2].bytes):
            while any(user.poll() is None for user in users):
                server.step(0.05)
        said = [user.communicate()[1].decode() for user in users]
        server.close()
        assert [user.returncode for user in users] == [0] * PROCESSES, said
    for memory in memories:
        memory.close()
    assert COLUMNS == 4  # what seat_user.py and the model agree on


@pytest.mark.timeout(300)
def test_run_serves_with_two_intake_processes(bench: Bench, tmp_path: Path) -> None:
    """`trt-worker run` as a process of its own, over an embedded broker: each request has its own answer."""
    onnx = bench.onnx("mlp", write_mlp)
    entry = bench.build(onnx, (1, 8, 8), (1, 256, 256))
    assert entry.manifest is not None
    model = entry.manifest.model_spec()
    row_shapes = tuple(spec.row_shape for spec in model.inputs)
    requests = [seeded_rows(model, row_shapes, 1 + number % 3, number) for number in range(REQUESTS)]
    with EmbeddedBroker("requests", "results", "dead") as broker:
        settings = {
            "model": {"name": onnx.stem, "version": "1"},
            "engine": {"backend": "tensorrt", "repository": str(bench.repository.root), "intake_processes": 2},
            "kafka": {
                "bootstrap_servers": broker.bootstrap_servers,
                "group_id": "mlp",
                "input_topic": "requests",
                "output_topic": "results",
                "dead_letter_topic": "dead",
                "consumer": {**CONSUMER_SETTINGS, **GROUP_SETTINGS},
            },
        }
        with WorkerProcess(tmp_path, "intake", settings) as worker:
            worker.start().await_ready()
            named = [
                {spec.name: array for spec, array in zip(model.inputs, arrays, strict=True)} for arrays in requests
            ]
            client = InferenceClient(broker.bootstrap_servers, "requests", "results", consumer_config=CONSUMER_SETTINGS)
            with client:
                answers = list(client.map(named, in_flight=512, timeout_s=60))
            status, metrics = worker.status(), worker.get("/metrics")[1]
            assert worker.terminate() == 0
    session = bench.session(onnx)
    results = [answer[model.outputs[0].name] for answer in answers]
    expected = session.run([np.concatenate([arrays[0] for arrays in requests])])[0]
    assert_near([np.concatenate(results)], [expected], TOLERANCE)
    assert len(status["intake_processes"]) == 2
    assert status["engine"]["tensorrt"]
    assert f"trt_worker_results_published_total {float(REQUESTS)}" in metrics
    assert 'trt_worker_stage_seconds_count{stage="h2d"}' in metrics
