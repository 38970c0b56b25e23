"""worker.client against the real worker: what producers do, on the demo's model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from worker.client import InferenceClient, InferenceError
from worker.demo.digits import MODEL, TOLERANCE_FP32, Digits
from worker.demo.resident import resident
from worker.demo.showcase import settings_for
from worker.demo.stage import open_stage


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceClient]:
    folder: Path = tmp_path_factory.mktemp("engines")
    with open_stage(None) as stage, resident(settings_for(stage, MODEL, folder)) as worker:
        assert worker.await_start(60) is not None
        with InferenceClient(
            stage.bootstrap_servers,
            stage.requests,
            stage.results,
            client_config={"log_level": 2},
            consumer_config=stage.consumer,
        ) as connected:
            yield connected


def test_a_request_of_several_rows_is_answered_row_by_row(client: InferenceClient, digits: Digits) -> None:
    outputs = client.infer({"image": digits.images[:7]}, key="k")
    assert set(outputs) == {"probabilities", "label"}
    np.testing.assert_allclose(outputs["probabilities"], digits.probabilities[:7], atol=TOLERANCE_FP32)
    np.testing.assert_array_equal(outputs["label"], digits.answers[:7])


def test_every_image_by_map_comes_back_in_order(client: InferenceClient, digits: Digits) -> None:
    labels = [int(outputs["label"][0]) for outputs in client.map({"image": image[None]} for image in digits.images)]
    assert labels == digits.answers.tolist()


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({"picture": np.zeros((1, 64), np.float32)}, "unknown_input"),
        ({"image": np.zeros((1, 64))}, "wrong_datatype"),
        ({"image": np.zeros((1, 63), np.float32)}, "wrong_shape"),
    ],
    ids=str,
)
def test_a_refusal_raises_with_the_workers_code(
    client: InferenceClient, arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]], code: str
) -> None:
    with pytest.raises(InferenceError) as caught:
        client.infer(arrays)
    assert caught.value.code == code


def test_a_request_past_its_time_is_answered_expired(client: InferenceClient, digits: Digits) -> None:
    with pytest.raises(InferenceError) as caught:
        client.infer({"image": digits.images[:1]}, expires_in_s=-1)
    assert caught.value.code == "expired"
    assert client.infer({"image": digits.images[:1]}, expires_in_s=60)["label"][0] == digits.answers[0]
