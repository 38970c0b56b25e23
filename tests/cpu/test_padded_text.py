"""Texts of every length share batches, and nobody can tell: a model of token ids and mask, from Kafka to Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.cpu.models import bert_like
from worker.assemble import Service
from worker.client import InferenceClient, InferenceError
from worker.config import Settings
from worker.demo.resident import resident
from worker.demo.stage import open_stage

TOKENS = 50
BUCKETS = [4, 16, 32]
PADDING_TOKEN = 9  # an ordinary token, so that the mask alone keeps it out
Text = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Site:
    """A worker that pads, a client of it, and the same model without either."""

    service: Service
    client: InferenceClient
    session: Any

    def directly(self, text: Text) -> dict[str, NDArray[Any]]:
        """ONNX Runtime's answer to this text alone, as long as it is."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, text), strict=True))

    @property
    def batches(self) -> int:
        return sum(self.service.metrics.batch_rows.of[""].counts)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    model = bert_like(tmp_path_factory.mktemp("model") / "bert.onnx", TOKENS)
    with open_stage(None) as stage:
        settings = Settings(
            _env_prefix="NONE__",
            model={"name": "bert", "onnx": model},
            engine={"backend": "cpu", "lanes": 2},
            kafka={
                "bootstrap_servers": stage.bootstrap_servers,
                "group_id": stage.name,
                "input_topics": (stage.requests,),
                "output_topic": stage.results,
                "dead_letter_topic": stage.dead_letters,
                "consumer": {**stage.consumer, **stage.group},
            },
            batching={
                "max_rows": 16,
                "max_delay_ms": 100,  # so that they do share batches
                "pad": {
                    "input_ids": {"axis": 1, "value": PADDING_TOKEN, "buckets": BUCKETS},
                    "attention_mask": {"axis": 1, "value": 0, "buckets": BUCKETS},
                },
            },
            http={"host": "127.0.0.1", "port": 0},
        )
        with resident(settings) as worker:
            service = worker.await_start(60)
            assert service is not None
            with InferenceClient(
                stage.bootstrap_servers,
                stage.requests,
                stage.results,
                timeout_s=60,
                client_config={"log_level": 2},
                consumer_config=stage.consumer,
            ) as client:
                yield Site(service, client, onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]))


def text_of(rng: np.random.Generator, length: int, rows: int) -> Text:
    """Rows of so many tokens, of which the mask keeps one at least, and the last ones perhaps not."""
    ids = rng.integers(0, TOKENS, (rows, length))
    kept = rng.integers(1, length + 1, (rows, 1))
    return {"input_ids": ids, "attention_mask": (np.arange(length) < kept).astype(np.int64)}


def test_every_answer_is_that_of_an_unpadded_run(site: Site) -> None:
    """Each length from 1 to the last bucket, several times, one to three rows, all at once."""
    rng = np.random.default_rng(11)
    lengths = rng.permutation(np.repeat(np.arange(1, BUCKETS[-1] + 1), 5))
    texts = [text_of(rng, int(length), rows=int(rng.integers(1, 4))) for length in lengths]
    before = site.batches
    futures = [site.client.submit(text) for text in texts]
    for text, future in zip(texts, futures, strict=True):
        answer, wanted = future.result(), site.directly(text)
        assert list(answer) == list(wanted)
        for name, array in wanted.items():
            assert (answer[name].dtype, answer[name].shape) == (array.dtype, array.shape), name
            np.testing.assert_allclose(answer[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
        assert (answer["ids"] == text["input_ids"]).all()
    assert site.batches - before < len(texts), "none shared a batch"


def test_without_the_mask_the_filling_would_be_seen(site: Site) -> None:
    """A test of the test: had the worker filled the mask up with ones, these answers would be others."""
    text = text_of(np.random.default_rng(12), length=5, rows=1)
    filled = {
        "input_ids": np.pad(text["input_ids"], ((0, 0), (0, 11)), constant_values=PADDING_TOKEN),
        "attention_mask": np.pad(text["attention_mask"], ((0, 0), (0, 11)), constant_values=1),
    }
    assert not np.allclose(site.directly(filled)["pooled"], site.directly(text)["pooled"], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("ids", "mask", "code"),
    [
        (np.zeros((1, 33), np.int64), np.ones((1, 33), np.int64), "wrong_shape"),
        (np.zeros((1, 5), np.int64), np.ones((1, 6), np.int64), "wrong_shape"),
        (np.zeros((1, 5), np.int32), np.ones((1, 5), np.int64), "wrong_datatype"),
        (np.full((1, 5), TOKENS), np.ones((1, 5), np.int64), "inference_failed"),
    ],
    ids=["longer than the last bucket", "ids and mask disagree", "int32", "an unknown token"],
)
def test_what_the_model_cannot_take_costs_its_neighbours_nothing(
    site: Site, ids: NDArray[Any], mask: NDArray[Any], code: str
) -> None:
    rng = np.random.default_rng(13)
    texts = [text_of(rng, length=6, rows=1) for _ in range(4)]
    futures = [site.client.submit(text) for text in texts[:2]]
    bad = site.client.submit({"input_ids": ids, "attention_mask": mask})
    futures += [site.client.submit(text) for text in texts[2:]]
    with pytest.raises(InferenceError) as caught:
        bad.result()
    assert caught.value.code == code
    for text, future in zip(texts, futures, strict=True):
        np.testing.assert_allclose(future.result()["pooled"], site.directly(text)["pooled"], rtol=1e-4, atol=1e-5)
