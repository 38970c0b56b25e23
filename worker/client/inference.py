"""A synchronous client: arrays in, arrays out, Kafka between."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self

from numpy.typing import ArrayLike

from worker.client.waiting import NotDelivered, WaitingRoom
from worker.client.wire import Arrays, decode_result, encode_request
from worker.errors import KafkaRefused

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message

_POLL_S = 0.1
_REFRESH_S = 5.0  # how soon a partition is read that was added after the start
_CLOSE_S = 5.0


class InferenceClient:
    """Publishes requests and awaits their answers by id; a context manager.

    Any number of threads may share one client. A thread of its own reads every partition of the output topic, from the
    end it had before the first request, outside any consumer group: nothing is committed, and no client takes answers
    from another. So each client reads the answers to all: give clients with much traffic an output topic of their own.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        input_topic: str,
        output_topic: str,
        *,
        timeout_s: float = 30.0,
        client_config: Mapping[str, Any] | None = None,
        producer_config: Mapping[str, Any] | None = None,
        consumer_config: Mapping[str, Any] | None = None,
    ) -> None:
        """Connect, and find the end of the output topic.

        Args:
            timeout_s: how long to wait for Kafka here, and for an answer where a call does not say otherwise.
            client_config: librdkafka keys for both sides (SASL, TLS, …); the other two are for one side only.

        Raises:
            ImportError: confluent-kafka is not installed.
            KafkaRefused: no broker, no permission, or one of the topics is missing.
        """
        try:
            import confluent_kafka
        except ImportError as error:
            raise ImportError("InferenceClient needs confluent-kafka: pip install confluent-kafka") from error
        self._kafka = confluent_kafka
        self._input_topic, self._output_topic, self._timeout_s = input_topic, output_topic, timeout_s
        self._name = f"trt-worker-client-{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        self._room = WaitingRoom()
        self._trouble = ""  # the client library's last words; they say more than "timed out"
        self._partitions: set[int] = set()
        self._is_closing = threading.Event()
        shared = {"bootstrap.servers": bootstrap_servers, "error_cb": self._note_trouble, **(client_config or {})}
        alone = {"group.id": self._name, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        self._consumer: Consumer = confluent_kafka.Consumer({**alone, **shared, **(consumer_config or {})})
        try:
            self._start_at_the_end(time.monotonic() + timeout_s)
            self._producer = confluent_kafka.Producer({"linger.ms": 1, **shared, **(producer_config or {})})
        except confluent_kafka.KafkaException as error:
            self._consumer.poll(0)  # runs error_cb, which may know the reason
            self._consumer.close()
            reason = self._trouble or error.args[0].str()
            raise KafkaRefused(f"cannot use Kafka at {bootstrap_servers}: {reason}") from error
        except BaseException:
            self._consumer.close()
            raise
        self._reader = threading.Thread(target=self._read, name="trt-worker-client", daemon=True)
        self._reader.start()  # from here on the consumer is the reader's

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def infer(
        self,
        arrays: Mapping[str, ArrayLike],
        *,
        timeout_s: float | None = None,
        key: str | bytes | None = None,
        expires_in_s: float | None = None,
    ) -> Arrays:
        """Publish one request and wait for its answer: output name -> read-only array of shape (rows, …).

        Args:
            key: the record's key; requests with the same key share a partition, and the answer carries it too.
            expires_in_s: the worker answers `expired` instead of running a request that is older than this.

        Raises:
            InferenceError: the worker refused the request, or could not run it; `code` says which.
            TimeoutError: no answer within `timeout_s`; the worker may still run the request.
            NotDelivered: Kafka did not take the request.
            ValueError: the arrays do not fit the wire format; nothing was published.
        """
        future = self.submit(arrays, timeout_s=timeout_s, key=key, expires_in_s=expires_in_s)
        try:
            return future.result()
        finally:
            future.cancel()  # after Ctrl-C nobody waits for this answer any more

    def submit(
        self,
        arrays: Mapping[str, ArrayLike],
        *,
        timeout_s: float | None = None,
        key: str | bytes | None = None,
        expires_in_s: float | None = None,
        id: str | None = None,
        headers: Mapping[str, str | bytes] | None = None,
    ) -> Future[Arrays]:
        """Publish one request and return at once; the future's result is that of `infer`, errors included.

        The arrays are copied before this returns. It blocks only while the producer's queue is full. Callbacks of the
        future run in the client's thread, so keep them short. Cancelling gives the answer up, not the request.

        Args:
            id: yours to choose if it differs from all that wait; made up otherwise.
            headers: Kafka headers; the answer carries them too.

        Raises:
            ValueError: the arrays or the id do not fit the wire format, or the id is waiting already.
            NotDelivered, KafkaRefused: the client is closed, or has lost its access.
        """
        own_id = f"{self._name}-{next(self._numbers)}" if id is None else id
        parameters = None if expires_in_s is None else {"expires_at_ms": int((time.time() + expires_in_s) * 1000)}
        value = encode_request(arrays, id=own_id, parameters=parameters)
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        future = self._room.enter(own_id, timeout_s)  # before the request leaves: no answer can be too early
        self._publish(own_id, value, key, dict(headers or {}), time.monotonic() + timeout_s)
        return future

    def map(
        self, requests: Iterable[Mapping[str, ArrayLike]], *, in_flight: int = 64, timeout_s: float | None = None
    ) -> Iterator[Arrays]:
        """The answers to many requests, in the order of the requests, with at most `in_flight` waiting at once.

        The first error ends it and is raised as by `infer`; the answers still under way are then given up.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}; at least one request must be under way")
        futures: deque[Future[Arrays]] = deque()
        try:
            for arrays in requests:
                if len(futures) == in_flight:
                    yield futures.popleft().result()
                futures.append(self.submit(arrays, timeout_s=timeout_s))
            while futures:
                yield futures.popleft().result()
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Stop; what is still unanswered fails with NotDelivered. Idempotent."""
        self._is_closing.set()
        self._room.close(NotDelivered("the client was closed before the answer came"))
        self._reader.join()
        self._producer.purge()  # nobody waits for what has not left yet
        self._producer.flush(_CLOSE_S)

    def _publish(
        self, id: str, value: bytes, key: str | bytes | None, headers: dict[str, str | bytes], due_s: float
    ) -> None:
        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                self._room.fail(id, NotDelivered(f"request {id} did not reach {self._input_topic}: {error.str()}"))

        while time.monotonic() < due_s and not self._is_closing.is_set():
            try:
                self._producer.produce(self._input_topic, value, key, headers=dict(headers), on_delivery=delivered)
            except BufferError:
                self._producer.poll(_POLL_S)  # the queue is full: wait for deliveries; overdue requests fail meanwhile
            except self._kafka.KafkaException as error:
                self._room.fail(id, NotDelivered(f"request {id} was not published: {error.args[0].str()}"))
                return
            else:
                return

    def _start_at_the_end(self, due_s: float) -> None:
        for topic in (self._input_topic, self._output_topic):
            found = self._consumer.list_topics(topic, _left_s(due_s)).topics[topic]
            if found.error is not None:
                raise KafkaRefused(f"topic {topic} cannot be used: {found.error.str()}; create it, or check the name")
            self._partitions = set(found.partitions)  # the output topic's stay
        places = [self._kafka.TopicPartition(self._output_topic, partition) for partition in sorted(self._partitions)]
        for place in places:
            place.offset = self._consumer.get_watermark_offsets(place, _left_s(due_s))[1]
        self._consumer.assign(places)

    def _read(self) -> None:
        sweep_s = refresh_s = time.monotonic()
        try:
            while not self._is_closing.is_set():
                first = self._consumer.poll(_POLL_S)
                for message in () if first is None else (first, *self._consumer.consume(500, 0)):
                    self._take(message)
                self._producer.poll(0)  # runs the delivery callbacks
                now_s = time.monotonic()
                if now_s - sweep_s >= _POLL_S:
                    self._room.fail_overdue()
                    sweep_s = now_s
                if now_s - refresh_s >= _REFRESH_S:
                    self._add_new_partitions()
                    refresh_s = now_s
        except Exception as error:  # noqa: BLE001  # whatever ends this thread must reach those who wait for it
            self._room.close(error)
        finally:
            self._consumer.close()

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if error.fatal() or error.code() == self._kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise KafkaRefused(f"cannot read {self._output_topic}: {error.str()}")
            return  # the client library goes on by itself
        try:
            answer = decode_result(message.value() or b"")
        except ValueError:
            return  # not from a worker; ours to answer neither
        self._room.answer(answer)

    def _add_new_partitions(self) -> None:
        """Read partitions that were added after the start from their first record: it can be an answer to us."""
        try:
            found = self._consumer.list_topics(self._output_topic, 1.0).topics[self._output_topic]
        except self._kafka.KafkaException:
            return  # no broker at the moment; the next refresh will tell
        new = sorted(set(found.partitions) - self._partitions)
        if new:
            self._consumer.incremental_assign([self._kafka.TopicPartition(self._output_topic, p, 0) for p in new])
            self._partitions.update(new)

    def _note_trouble(self, error: KafkaError) -> None:
        self._trouble = error.str()


def _left_s(due_s: float) -> float:
    return max(0.0, due_s - time.monotonic())
