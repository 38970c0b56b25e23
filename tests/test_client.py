"""worker.client against msgpack by hand, and against a broker with an echo on the other side."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any, Self

import confluent_kafka
import ml_dtypes
import msgpack
import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.cimpl import NewPartitions
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tests.conftest import MakeTopic
from tests.kafka_server import KafkaCluster
from worker.client import (
    InferenceClient,
    InferenceError,
    InferenceFailure,
    NotDelivered,
    Result,
    decode_result,
    encode_request,
    inference,
)
from worker.errors import KafkaRefused
from worker.kafka.embedded import CONSUMER_SETTINGS, EmbeddedBroker

WIRE: dict[str, tuple[Any, bytes]] = {  # datatype -> a value of 1 in numpy, and its bytes on the wire
    "BOOL": (np.bool_(True), b"\x01"),
    "UINT8": (np.uint8(1), b"\x01"),
    "UINT16": (np.uint16(1), b"\x01\x00"),
    "UINT32": (np.uint32(1), b"\x01" + bytes(3)),
    "UINT64": (np.uint64(1), b"\x01" + bytes(7)),
    "INT8": (np.int8(1), b"\x01"),
    "INT16": (np.int16(1), b"\x01\x00"),
    "INT32": (np.int32(1), b"\x01" + bytes(3)),
    "INT64": (np.int64(1), b"\x01" + bytes(7)),
    "FP16": (np.float16(1), b"\x00\x3c"),
    "FP32": (np.float32(1), b"\x00\x00\x80\x3f"),
    "FP64": (np.float64(1), bytes(6) + b"\xf0\x3f"),
    "BF16": (ml_dtypes.bfloat16(1), b"\x80\x3f"),
}


def result_bytes(*outputs: dict[str, Any], **changes: Any) -> bytes:
    answer: dict[str, Any] = {"model_name": "m", "model_version": "7", "id": "a", "outputs": list(outputs)}
    return bytes(msgpack.packb({**answer, **changes}))


class TestEncodeRequest:
    @pytest.mark.parametrize("datatype", WIRE)
    def test_every_datatype_has_its_name_and_its_little_endian_bytes(self, datatype: str) -> None:
        one, raw = WIRE[datatype]
        request = msgpack.unpackb(encode_request({"x": np.array([[one, one, one]])}))
        assert request == {"inputs": [{"name": "x", "datatype": datatype, "shape": [1, 3], "data": raw * 3}]}

    def test_inputs_keep_their_order_and_id_and_parameters_are_carried(self) -> None:
        arrays = {"b": np.zeros((2, 1), "u1"), "a": np.zeros(2, "i8")}
        request = msgpack.unpackb(encode_request(arrays, id="né", parameters={"expires_at_ms": 5}))
        assert [tensor["name"] for tensor in request["inputs"]] == ["b", "a"]
        assert request["id"] == "né"
        assert request["parameters"] == {"expires_at_ms": 5}

    def test_layout_and_byte_order_are_made_right(self) -> None:
        plain = np.arange(24, dtype="<i4").reshape(4, 6)
        wanted = msgpack.unpackb(encode_request({"x": plain}))
        assert wanted["inputs"][0]["data"] == plain.tobytes()
        for other in (
            plain.astype(">i4"),
            np.asfortranarray(plain),
            np.repeat(plain, 2, axis=1)[:, ::2],
            plain.tolist(),
        ):
            array = other if isinstance(other, np.ndarray) else np.array(other, "i4")
            assert msgpack.unpackb(encode_request({"x": array})) == wanted

    def test_lists_become_what_numpy_makes_of_them(self) -> None:
        request = msgpack.unpackb(encode_request({"x": [[1.5, 2.0]], "y": [True]}))
        assert [tensor["datatype"] for tensor in request["inputs"]] == ["FP64", "BOOL"]

    @pytest.mark.parametrize(
        "values",
        [
            np.array(["text"]),
            np.array([None], dtype=object),
            np.zeros(2, "c8"),
            np.zeros(2, "M8[s]"),
            np.zeros(2, [("a", "f4")]),
            np.zeros(2, np.longdouble),
            np.float32(1),
            [[1], [2, 3]],
            np.zeros((0, 4), "f4"),
        ],
        ids=str,
    )
    def test_what_the_wire_cannot_carry_is_refused_by_the_inputs_name(self, values: Any) -> None:
        with pytest.raises(ValueError, match="'image'"):
            encode_request({"image": values})

    def test_inputs_of_one_request_have_the_same_number_of_rows(self) -> None:
        with pytest.raises(ValueError, match="'b' has shape"):
            encode_request({"a": np.zeros((2, 3)), "b": np.zeros((3, 3))})

    def test_no_inputs_and_long_ids_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at least one input"):
            encode_request({})
        assert msgpack.unpackb(encode_request({"x": [1]}, id="i" * 256))["id"] == "i" * 256
        with pytest.raises(ValueError, match="257 characters"):
            encode_request({"x": [1]}, id="i" * 257)

    def test_only_numpy_and_msgpack_are_imported(self) -> None:
        """A producer's environment needs nothing else of the worker's dependencies."""
        code = (
            "import sys, worker.client; print([m for m in "
            "('confluent_kafka', 'msgspec', 'pydantic', 'onnx', 'onnxruntime', 'typer', 'rich', 'prometheus_client') "
            "if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_without_confluent_kafka_the_client_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "confluent_kafka", None)
        with pytest.raises(ImportError, match="pip install confluent-kafka"):
            InferenceClient("127.0.0.1:1", "in", "out")

    def test_without_ml_dtypes_uint16_stays_uint16(self) -> None:
        code = (
            "import sys; sys.modules['ml_dtypes'] = None\n"
            "import numpy as np, msgpack, worker.client as c\n"
            "print(msgpack.unpackb(c.encode_request({'x': np.zeros(1, 'u2')}))['inputs'][0]['datatype'])\n"
            "bits = {'name': 'y', 'datatype': 'BF16', 'shape': [1], 'data': bytes([128, 63])}\n"
            "answer = {'model_name': 'm', 'model_version': '1', 'id': 'i', 'outputs': [bits]}\n"
            "print(c.decode_result(msgpack.packb(answer)).outputs['y'])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["UINT16", "[16256]"]


class TestDecodeResult:
    @pytest.mark.parametrize("datatype", WIRE)
    def test_every_datatype_comes_back_as_a_read_only_array(self, datatype: str) -> None:
        one, raw = WIRE[datatype]
        tensor = {"name": "y", "datatype": datatype, "shape": [2, 1], "data": raw * 2}
        result = decode_result(result_bytes(tensor))
        assert isinstance(result, Result)
        assert (result.model_name, result.model_version, result.id) == ("m", "7", "a")
        array = result.outputs["y"]
        assert array.dtype == np.array(one).dtype
        assert array.tolist() == [[one], [one]]
        with pytest.raises(ValueError, match="read-only"):
            array[0] = one

    def test_an_error_answer_is_told_apart(self) -> None:
        value = msgpack.packb(
            {"model_name": "m", "model_version": "1", "id": "a", "error": {"code": "expired", "message": "too late"}}
        )
        assert decode_result(value) == InferenceFailure("m", "1", "a", "expired", "too late")

    def test_unknown_keys_are_ignored_and_empty_outputs_allowed(self) -> None:
        tensor = {"name": "y", "datatype": "INT8", "shape": [0, 3], "data": b"", "later": 1}
        result = decode_result(result_bytes(tensor, later={}))
        assert isinstance(result, Result)
        assert result.outputs["y"].shape == (0, 3)

    GOOD: dict[str, Any] = {"name": "y", "datatype": "INT16", "shape": [2], "data": b"1234"}  # noqa: RUF012  # never written

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"\xc1",
            b"no msgpack at all",
            msgpack.packb([1, 2]),
            msgpack.packb(None),
            msgpack.packb({"id": "a"}),
            result_bytes(GOOD)[:-1],
            result_bytes(GOOD) + b"\x00",
            result_bytes(GOOD, id=5),
            result_bytes(GOOD, outputs=None),
            result_bytes(GOOD, outputs={"y": 1}),
            result_bytes(GOOD, error="broken"),
            result_bytes({**GOOD, "datatype": "FP8"}),
            result_bytes({**GOOD, "datatype": []}),
            result_bytes({**GOOD, "shape": [3]}),
            result_bytes({**GOOD, "shape": [-1, -2]}),
            result_bytes({**GOOD, "shape": [True, 2]}),
            result_bytes({**GOOD, "shape": [2**40, 2**40, 2**40]}),
            result_bytes({**GOOD, "data": "1234"}),
            b"\x91" * 5000,
        ],
        ids=range(20),
    )
    def test_malformed_bytes_raise_value_error(self, value: bytes) -> None:
        with pytest.raises(ValueError, match="wire format 1"):
            decode_result(value)

    @given(
        st.binary(max_size=200)
        | st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(
                        ["model_name", "model_version", "id", "outputs", "error", "code", "name", "shape", "data"]
                    ),
                    inner,
                )
            ),
            max_leaves=12,
        ).map(msgpack.packb)
    )
    def test_whatever_comes_nothing_but_value_error_is_raised(self, value: bytes) -> None:
        with contextlib.suppress(ValueError):
            decode_result(value)


@given(
    npst.arrays(
        dtype=st.sampled_from(["?", "u1", "<u2", ">u4", "<u8", "i1", ">i2", "<i4", ">i8", "<f2", ">f4", "<f8"]),
        shape=npst.array_shapes(min_dims=1, max_dims=4, max_side=5),
    ),
    st.text(max_size=256),
)
def test_a_request_decodes_to_the_very_same_array(array: np.ndarray[Any, Any], id: str) -> None:
    """Inputs and outputs have one tensor form, so what was encoded must come back from decode_result."""
    try:
        id.encode()
    except UnicodeEncodeError:
        return  # lone surrogates have no UTF-8
    request = msgpack.unpackb(encode_request({"x": array}, id=id))
    result = decode_result(result_bytes(*request["inputs"], id=request["id"]))
    assert isinstance(result, Result)
    assert result.id == id
    assert result.outputs["x"].shape == array.shape
    assert result.outputs["x"].dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(result.outputs["x"], array)


class Echo:
    """The other side: answers y = 2 x, in its own words: plain msgpack, and what `parameters` or the id ask for."""

    def __init__(self, bootstrap_servers: str, input_topic: str, output_topic: str, partition: int = -1) -> None:
        self.seen: list[dict[str, Any]] = []
        self.keys: list[bytes | None] = []
        self.headers: list[Any] = []
        self._output_topic, self._partition = output_topic, partition
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 0, "log_level": 2})
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap_servers, "group.id": "echo", "log_level": 2, **CONSUMER_SETTINGS}
        )
        found = self._consumer.list_topics(input_topic, 10).topics[input_topic].partitions
        self._consumer.assign([TopicPartition(input_topic, partition, 0) for partition in found])
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._is_over.is_set():
            message = self._consumer.poll(0.05)
            if message is not None and message.error() is None:
                self._answer(message)
            self._producer.poll(0)
        self._producer.flush(1)

    def _answer(self, message: Any) -> None:
        request = msgpack.unpackb(message.value())
        self.seen.append(request)
        self.keys.append(message.key())
        self.headers.append(message.headers())
        answer: dict[str, Any] = {"model_name": "echo", "model_version": "1", "id": request["id"]}
        tensor = request["inputs"][0]
        if tensor["name"] == "silent":
            return
        if tensor["name"] == "bad":
            answer["error"] = {"code": "unknown_input", "message": "no input is named bad"}
        else:
            numbers = np.frombuffer(tensor["data"], "<f8").reshape(tensor["shape"]) * 2
            answer["outputs"] = [
                {"name": "y", "datatype": "FP64", "shape": list(numbers.shape), "data": numbers.tobytes()}
            ]
        for value in (b"junk", None, msgpack.packb({**answer, "id": "a stranger's"}), msgpack.packb(answer)):
            self._producer.produce(self._output_topic, value, partition=self._partition)
        self._producer.produce(self._output_topic, msgpack.packb(answer), partition=self._partition)  # a duplicate


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker("in", "out") as running:
        yield running


@pytest.fixture(scope="module")
def echo(broker: EmbeddedBroker) -> Iterator[Echo]:
    with Echo(broker.bootstrap_servers, "in", "out") as running:
        yield running


def connect(broker: EmbeddedBroker, **settings: Any) -> InferenceClient:
    settings = {"timeout_s": 10.0, "consumer_config": CONSUMER_SETTINGS, **settings}
    return InferenceClient(broker.bootstrap_servers, "in", "out", client_config={"log_level": 2}, **settings)


@pytest.fixture
def client(broker: EmbeddedBroker, echo: Echo) -> Iterator[InferenceClient]:
    with connect(broker) as connected:
        yield connected


class TestInferenceClient:
    def test_infer_returns_the_answer_to_this_request(self, client: InferenceClient) -> None:
        """Junk, tombstones, strangers' answers and duplicates on the output topic do not matter."""
        for number in range(5):
            outputs = client.infer({"x": [[number, 0.5]]})
            assert list(outputs) == ["y"]
            assert outputs["y"].tolist() == [[2 * number, 1.0]]

    def test_an_error_answer_raises_with_its_code(self, client: InferenceClient) -> None:
        with pytest.raises(InferenceError, match="no input is named bad") as caught:
            client.infer({"bad": [1.0]})
        assert caught.value.code == "unknown_input"

    def test_no_answer_raises_timeout_error_in_time(self, client: InferenceClient) -> None:
        start_s = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 0.3 s"):
            client.infer({"silent": [1.0]}, timeout_s=0.3)
        assert 0.25 < time.monotonic() - start_s < 2
        assert client.infer({"x": [1.0]})["y"].tolist() == [2.0]

    def test_key_headers_id_and_expiry_reach_the_record(self, client: InferenceClient, echo: Echo) -> None:
        before_ms = time.time() * 1000
        client.submit({"x": [1.0]}, key="k", id="mine", headers={"h": b"v"}, expires_in_s=60).result(10)
        assert echo.seen[-1]["id"] == "mine"
        assert before_ms + 59_000 < echo.seen[-1]["parameters"]["expires_at_ms"] < before_ms + 65_000
        assert echo.keys[-1] == b"k"
        assert echo.headers[-1] == [("h", b"v")]

    def test_an_id_can_wait_only_once(self, client: InferenceClient) -> None:
        first = client.submit({"silent": [1.0]}, id="same")
        with pytest.raises(ValueError, match="'same'"):
            client.submit({"x": [1.0]}, id="same")
        first.cancel()
        assert client.submit({"x": [1.0]}, id="same").result(10)["y"].tolist() == [2.0]

    def test_map_keeps_order_and_its_bound(self, client: InferenceClient) -> None:
        handed_out = 0

        def requests() -> Iterator[dict[str, list[float]]]:
            nonlocal handed_out
            for number in range(500):
                handed_out += 1
                yield {"x": [float(number)]}

        for number, outputs in enumerate(client.map(requests(), in_flight=50)):
            assert outputs["y"].tolist() == [2.0 * number]
            assert handed_out <= number + 1 + 50
        assert handed_out == 500

    def test_map_ends_with_the_first_error_and_gives_up_the_rest(self, client: InferenceClient) -> None:
        answers = client.map(({"x" if number != 3 else "bad": [float(number)]} for number in range(10)), in_flight=10)
        assert [next(answers)["y"][0] for _ in range(3)] == [0.0, 2.0, 4.0]
        with pytest.raises(InferenceError):
            next(answers)
        with pytest.raises(StopIteration):
            next(answers)
        assert client.infer({"x": [1.0]})["y"].tolist() == [2.0]

    def test_threads_share_a_client(self, client: InferenceClient) -> None:
        wrong: list[float] = []

        def work(base: float) -> None:
            numbers = [base + step for step in range(100)]
            wrong.extend(number for number in numbers if client.infer({"x": [number]})["y"].tolist() != [2 * number])

        threads = [threading.Thread(target=work, args=(1000.0 * number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_a_fresh_client_never_misses_its_first_answer(
        self, broker: EmbeddedBroker, echo: Echo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Reading starts where the topic ended before the request left, not where it ends when reading begins."""
        starts: list[int] = []

        class Watched(Consumer):
            def assign(self, partitions: list[TopicPartition]) -> None:
                starts.extend(place.offset for place in partitions)
                super().assign(partitions)

        monkeypatch.setattr(confluent_kafka, "Consumer", Watched)
        for number in range(10):
            with connect(broker, timeout_s=3.0) as fresh:
                assert fresh.infer({"x": [float(number)]})["y"].tolist() == [2.0 * number]
        assert len(starts) == 10 * 4
        assert all(offset >= 0 for offset in starts)  # numbers; "the end" would be looked up later, perhaps too late

    def test_close_fails_what_is_unanswered_and_refuses_more(self, broker: EmbeddedBroker, echo: Echo) -> None:
        client = connect(broker)
        future = client.submit({"silent": [1.0]})
        client.close()
        with pytest.raises(NotDelivered, match="closed"):
            future.result(0)
        with pytest.raises(NotDelivered, match="closed"):
            client.submit({"x": [1.0]})
        client.close()
        assert "trt-worker-client" not in {thread.name for thread in threading.enumerate()}

    def test_a_cancelled_future_stays_cancelled(self, client: InferenceClient) -> None:
        future = client.submit({"x": [1.0]})
        if future.cancel():
            with pytest.raises(CancelledError):
                future.result(5)
        assert client.infer({"x": [3.0]})["y"].tolist() == [6.0]

    def test_a_request_that_is_too_large_fails_its_future(self, client: InferenceClient) -> None:
        with pytest.raises(NotDelivered, match="too large"):
            client.infer({"x": np.zeros(1_000_000)})

    def test_a_request_that_is_never_delivered_fails_its_future(self) -> None:
        with EmbeddedBroker("in", "out") as broker:
            client = connect(broker, producer_config={"message.timeout.ms": 300})
            broker.close()
            with client, pytest.raises(NotDelivered, match="timed out"):
                client.infer({"x": [1.0]})

    def test_a_full_queue_makes_submit_wait(self, broker: EmbeddedBroker, echo: Echo) -> None:
        with connect(broker, producer_config={"queue.buffering.max.messages": 2}) as client:
            answers = list(client.map(({"x": [float(number)]} for number in range(50)), in_flight=50))
        assert [answer["y"][0] for answer in answers] == [2.0 * number for number in range(50)]

    def test_no_broker_and_no_topic_are_refused_at_once(self, broker: EmbeddedBroker) -> None:
        with pytest.raises(KafkaRefused, match=r"127\.0\.0\.1:1"):
            InferenceClient("127.0.0.1:1", "in", "out", timeout_s=0.5, client_config={"log_level": 0})
        with pytest.raises(KafkaRefused, match="nowhere"):
            InferenceClient(broker.bootstrap_servers, "in", "nowhere", timeout_s=5, client_config={"log_level": 0})


@pytest.mark.broker
class TestOnRealKafka:
    def test_answers_in_partitions_added_later_are_found(
        self, kafka: KafkaCluster, topics: MakeTopic, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(inference, "_REFRESH_S", 0.2)
        requests, results = topics("requests", 2), topics("results", 1)
        with InferenceClient(kafka.bootstrap_servers, requests, results, timeout_s=20) as client:
            with Echo(kafka.bootstrap_servers, requests, results):
                assert client.infer({"x": [1.0]})["y"].tolist() == [2.0]
            kafka.admin.create_partitions([NewPartitions(results, 3)])[results].result(10)
            with Echo(kafka.bootstrap_servers, requests, results, partition=2):
                assert client.infer({"x": [2.0]})["y"].tolist() == [4.0]

    def test_a_missing_topic_is_named(self, kafka: KafkaCluster, topics: MakeTopic) -> None:
        with pytest.raises(KafkaRefused, match="no-such-topic"):
            InferenceClient(kafka.bootstrap_servers, topics(), "no-such-topic", timeout_s=10)

    def test_a_broker_restart_only_delays_answers(self, kafka: KafkaCluster, topics: MakeTopic) -> None:
        requests, results = topics("requests"), topics("results")
        with (
            Echo(kafka.bootstrap_servers, requests, results),
            InferenceClient(kafka.bootstrap_servers, requests, results, timeout_s=60) as client,
        ):
            assert client.infer({"x": [1.0]})["y"].tolist() == [2.0]
            kafka.stop()
            future = client.submit({"x": [2.0]})
            kafka.start()
            assert future.result(60)["y"].tolist() == [4.0]
