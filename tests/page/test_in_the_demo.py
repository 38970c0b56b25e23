"""The page beside real traffic, in a real browser."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import msgpack
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from tests.page.browser import DESKTOP, PHONE, Browser
from tests.page.conftest import Demo

READABLE = 4.5  # contrast ratio that WCAG asks of text
SECRET = "a number that is nobody's business"
HOSTILE = '<img src=x onerror="document.title=`owned`"><script>document.title=`owned`</script>'


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_shows_what_happens_and_fits(
    browser: Browser, demo: Demo, picture: Path, size: tuple[int, int], scheme: str
) -> None:
    """Numbers move, nothing is wrong on the console, nothing comes from elsewhere, all of it can be read."""
    browser.open(demo.url, size, scheme=scheme)
    browser.await_(lambda: browser.text("state-word") == "Ready")
    records, results = browser.number("flow-inTotal"), browser.number("flow-outTotal")
    facts = browser.text("facts")
    assert records > 0
    assert results > 0
    browser.await_(lambda: browser.number("flow-inTotal") > records and browser.number("flow-outTotal") > results)
    browser.await_(lambda: browser.text("facts") != facts)  # the uptime
    assert browser.text("p50").endswith((" ms", " s"))
    assert browser.text("p99").endswith((" ms", " s"))
    assert "rows" in browser.ask("return document.querySelector('#flow .told').textContent")
    assert "ONNX Runtime" in browser.text("engine")
    assert "engine.backend is auto, and there is no TensorRT" in browser.text("engine")
    partitions = browser.ask("return [...document.querySelectorAll('#partitions td.mono')].map((td) => td.textContent)")
    assert partitions == ["0", "1", "2", "3"]
    assert "-requests" in browser.text("partitions")
    browser.screenshot(picture)

    assert browser.console() == []
    elsewhere = [url for url in browser.requested() if not url.startswith((demo.url, "data:", "about:"))]
    assert elsewhere == []
    assert browser.ask("return document.documentElement.scrollWidth") <= size[0]
    assert browser.overflow() == []
    assert browser.overlaps() == []
    texts = browser.contrasts()
    assert len(texts) > 40
    assert [(text, ratio) for text, ratio in texts if ratio < READABLE] == []
    background = browser.ask("return getComputedStyle(document.documentElement).backgroundColor")
    brightness = sum(int(part) for part in background.strip("rgb()").split(",")) / 3
    assert brightness > 230 if scheme == "light" else brightness < 40


def test_a_hostile_record_is_shown_as_text_and_its_payload_nowhere(browser: Browser, demo: Demo, picture: Path) -> None:
    """What a producer wrote reaches the page only as a refusal's message; a browser never takes it for markup."""
    browser.open(demo.url, PHONE)
    client: dict[str, str | int | float | bool] = {"bootstrap.servers": demo.bootstrap_servers}
    topics = AdminClient(client).list_topics(timeout=10).topics
    (requests,) = [topic for topic in topics if topic.endswith("-requests")]
    tensor = {"name": HOSTILE, "datatype": "FP32", "shape": [1, 64], "data": SECRET.ljust(256).encode()}
    producer = Producer(client)
    producer.produce(requests, msgpack.packb({"id": "0", "inputs": [tensor]}), key=SECRET, headers={"h": SECRET})
    assert producer.flush(10) == 0

    browser.await_(lambda: "onerror" in browser.text("refused"))
    row = browser.ask("return [...document.querySelectorAll('#refused tbody td')].map((cell) => cell.textContent)")
    assert row[1] == "unknown_input"
    assert row[2].startswith(requests)
    assert HOSTILE in row[3]
    assert browser.ask("return document.querySelectorAll('img, main script').length") == 0
    assert "owned" not in browser.ask("return document.title")
    assert browser.text("flow-refused").startswith("Dead letters 1")
    assert browser.overflow() == []
    browser.screenshot(picture)
    assert browser.console() == []
    with urllib.request.urlopen(f"{demo.url}status", timeout=5) as answer:
        status = answer.read().decode()
    assert SECRET not in status
    assert json.loads(status)["records"]["refused"] == 1
