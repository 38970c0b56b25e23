"""What README and docs/ show runs: the producers, the requests and their answers, the reader that drops repeats."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgpack
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.pages import DELIVERY, PAGES, README, ROOT, SETTINGS_FILE, WIRE_FORMAT, blocks, named, section, text
from tests.records import FakeRecord, FakeTicket
from worker import config
from worker.codec.decode import RequestDecoder
from worker.codec.encode import ResultEncoder
from worker.cpu.onnx_session import OnnxSession
from worker.demo.resident import resident
from worker.errors import BatchError, ErrorCode, RecordError
from worker.kafka import dead_letter
from worker.kafka.embedded import CONSUMER_SETTINGS, GROUP_SETTINGS, EmbeddedBroker
from worker.sections import LimitSettings
from worker.tensors import ModelSpec, TensorSpec

Example = tuple[str, dict[str, Any], str]  # heading, request, what the worker says to it ("": it takes it)

# Examples of the wire format.

SUMS = ModelSpec("sums", "1", (TensorSpec("x", "FP32", (-1, 4), ("", "")),), (TensorSpec("y", "FP32", (-1, 1)),))


def examples() -> list[Example]:
    """Requests of docs/wire-format.md, and what the page says of them."""
    found = []
    for part in re.split(r"^#+ ", text(WIRE_FORMAT), flags=re.MULTILINE)[1:]:
        heading = part.splitlines()[0].strip("`")
        for block, said in re.findall(r"^```json\n(.*?)^```$(?:\n→ `(.*?)`$)?", part, re.MULTILINE | re.DOTALL):
            if (content := json.loads(block)).keys() & {"inputs", "instances"}:
                found.append((heading, content, said))
    return found


@pytest.mark.parametrize(
    ("heading", "content", "said"), examples(), ids=lambda part: part if isinstance(part, str) else ""
)
def test_a_request_of_the_page_gets_the_answer_of_the_page(heading: str, content: dict[str, Any], said: str) -> None:
    """Accepted examples are accepted, refused ones get the code of their heading and the message below them."""
    model = SUMS
    if heading == "inference_failed":
        model = ModelSpec("lookup", "1", (TensorSpec("x", "INT64", (-1, 1), ("", "")),), ())
    decoder = RequestDecoder(model, LimitSettings(), max_rows=64)
    ticket = FakeTicket(FakeRecord(msgpack.packb(content)))
    if not said or heading == "inference_failed":
        request = decoder.decode(ticket, 0.0)
        assert request.shape.rows == content["inputs"][0]["shape"][0]
        return
    with pytest.raises(RecordError) as caught:
        decoder.decode(ticket, 0.0)
    assert (caught.value.code, str(caught.value)) == (heading, said)


def test_the_page_has_an_example_of_every_code() -> None:
    """A code without one, or one that the code does not know, would go unnoticed otherwise."""
    assert {heading for heading, _, said in examples() if said} == set(get_args(ErrorCode))


def test_the_failing_model_says_what_the_page_says(tmp_path: Path) -> None:
    """inference_failed carries the runtime's own words."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)],
        "lookup",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["rows", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 1, 2])],
        [helper.make_tensor("table", TensorProto.FLOAT, [10, 2], [0.0] * 20)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    content, said = next((content, said) for heading, content, said in examples() if heading == "inference_failed")
    session = OnnxSession(tmp_path / "m.onnx", name="lookup", version="1", threads=1)
    with pytest.raises(BatchError) as caught:
        session.run([np.array(content["inputs"][0]["data"], np.int64)[:, None]])
    assert str(caught.value).endswith(said.removeprefix("… "))


def test_the_result_of_the_page_is_what_the_worker_sends() -> None:
    """The first request of the page, and the sums of its rows."""
    _, content, _ = examples()[0]
    answer = next(found for block in blocks(WIRE_FORMAT, "json") if "outputs" in (found := json.loads(block)))
    request = RequestDecoder(SUMS, LimitSettings(), max_rows=64).decode(
        FakeTicket(FakeRecord(msgpack.packb(content))), 0.0
    )
    sums = np.frombuffer(request.buffers[0], np.float32).reshape(-1, 4).sum(axis=1, keepdims=True)
    ((value, _),) = ResultEncoder(SUMS).results([request], [[(sums.shape, sums.reshape(-1).view(np.uint8).data)]])
    sent = msgpack.unpackb(value)
    sent["outputs"][0]["data"] = np.frombuffer(sent["outputs"][0]["data"], np.float32).tolist()
    assert sent == answer


def test_the_headers_of_a_dead_letter_are_those_of_the_page() -> None:
    """No header more, none less, with the values of the example."""
    rows = re.findall(
        r"^\| `([\w.-]+)` \| `?([^|]*?)`?(?::.*)? \|$", section(WIRE_FORMAT, "Dead letters"), re.MULTILINE
    )
    listed = dict(rows)
    message = listed["trt-worker-error-message"]
    record = FakeRecord(b"", topic="digits.requests", partition=3, offset=1017)
    written = dead_letter.headers_of(record, "wrong_shape", message)
    assert {name for name, _ in written} | {dead_letter.OMITTED_HEADER} == set(listed)
    listed["__streams.errors.message"] = message  # the page says: the same
    assert dict(written) == {name: listed[name] for name, _ in written}


def test_the_reader_that_drops_repeats_works() -> None:
    """docs/delivery.md: the first answer to a record, once, over the last so many records."""
    (code,) = blocks(DELIVERY, "python")
    names: dict[str, Any] = {}
    exec(code, names)
    once = names["Once"](remembered=2)
    sources = (b"t/0/1", b"t/0/2", b"t/0/1", b"t/0/3", b"t/0/3", b"t/0/1")
    told = [once.is_first([("other", b""), ("trt-worker-source", source)]) for source in sources]
    assert told == [True, True, False, True, False, True]  # the last was forgotten: two are remembered


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_examples_compile(page: Path) -> None:
    """The least that can be asked of those that need more than is here to run."""
    for block in blocks(page, "python"):
        compile(block, named(page), "exec")


# The producers of README.


@pytest.fixture(scope="module")
def worker_address() -> Iterator[str]:
    """A worker on the shipped settings and an embedded broker."""
    shipped = config.load(SETTINGS_FILE)
    kafka = shipped.kafka
    with EmbeddedBroker(*kafka.input_topics, kafka.output_topic, str(kafka.dead_letter_topic)) as broker:
        settings = config.load(
            SETTINGS_FILE,
            {
                "model": {"onnx": str(ROOT / str(shipped.model.onnx))},
                "engine": {"backend": "cpu"},  # a GPU would want an engine built first
                "kafka": {
                    "bootstrap_servers": broker.bootstrap_servers,
                    "consumer": {**CONSUMER_SETTINGS, **GROUP_SETTINGS},
                },
                "http": {"host": "127.0.0.1", "port": 0},
            },
        )
        with resident(settings) as worker:
            assert worker.await_start(60) is not None
            yield broker.bootstrap_servers
            worker.check()


def test_the_producers_of_the_readme_run_as_they_stand(worker_address: str) -> None:
    """Pasted into a file, with nothing but the broker's address changed, each prints what README says."""
    plain, with_client = blocks(README, "python")
    said = re.search(r"It prints `(.*?)`", text(README))
    assert said is not None
    assert len([line for line in plain.splitlines() if line]) <= 15
    assert {"msgpack", "confluent_kafka"} == set(re.findall(r"^(?:import|from) (\w+)", plain, re.MULTILINE)) - {
        "struct"
    }
    for code, output in ((plain, f"{said[1]}\n"), (with_client, "[2] [[0. 0. 1. 0. 0. 0. 0. 0. 0. 0.]]\n")):
        assert "localhost:9092" in code
        done = subprocess.run(
            [sys.executable, "-c", code.replace("localhost:9092", worker_address)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, output), done.stderr
