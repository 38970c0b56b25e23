"""The report, in a browser: nothing from outside, plots drawn, light and dark, on a desk and on a phone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.page.browser import DESKTOP, PHONE, Browser
from tests.tuning.made_up import point_of, run_of
from worker.tuning.choice import choose
from worker.tuning.measurement import Setting
from worker.tuning.outcome import KafkaRun, Outcome
from worker.tuning.report import render
from worker.tuning.svg import axis_over
from worker.tuning.sweep import Plan, Sweep

CHOSEN, OTHER, WORST = Setting(64, 2.0, 2), Setting(16, 0.0, 1, "off"), Setting(256, 2.0, 4, (64, 256))


def outcome(model: str = "digits <1>") -> Outcome:
    sweep = Sweep()
    for rate, p99_ms in ((100, 3), (500, 4), (900, 7), (1000, 9.5)):
        sweep.points[CHOSEN, rate] = point_of(CHOSEN, rate, p99_ms)
    sweep.points[OTHER, 500] = point_of(OTHER, 500, 30)
    sweep.points[WORST, 1000] = point_of(WORST, 1000, math.inf, is_sustained=False)
    sweep.capacities[CHOSEN] = [run_of(CHOSEN, None, 100)]
    found = Outcome(
        model=model,
        requests="seeded requests",
        plan=Plan(10.0, present=OTHER),
        sweep=sweep,
        machine={"cpu": "a & b", "cpu_cores": 2},
        command="trt-worker tune --config 'a b.yaml'",
        date="2026-01-01T00:00:00+00:00",
    )
    found.choice = choose(sweep.points.values(), 10.0)
    found.confirmed = point_of(CHOSEN, 1000, 9, 9.2, 9.1)
    found.kafka = KafkaRun("Kafka at b:1", 1000, 2000, 2000, 990, {"p50": 4.0, "p99": 12.0})
    return found


def test_the_page_says_what_was_found() -> None:
    page = render(outcome(), "batching:\n  max_rows: 64\n")
    assert "Confirmed: p99 9.1 ms at 1,000/s (target 10 ms)" in page
    assert "max_rows: 64" in page
    assert "through Kafka at b:1: p99 12 ms at 1,000/s" in page
    assert "did not meet it at the rates that were tried" in page
    assert "digits &lt;1&gt;" in page
    assert "<1>" not in page
    assert page.count("$") == 0


def test_what_was_not_confirmed_is_not_called_so() -> None:
    found = outcome()
    found.confirmed = point_of(CHOSEN, 1000, 11)
    found.is_interrupted = True
    page = render(found, "")
    assert "Not confirmed: p99 11 ms" in page
    assert "interrupted" in page


def test_the_figures_are_json_without_infinities() -> None:
    told = json.loads(json.dumps(outcome().to_json(), allow_nan=False))
    assert told["recommended"] == {"max_rows": 64, "max_delay_ms": 2.0, "lanes": 2, "cuda_graphs": "auto"}
    assert told["confirmed"] is True
    assert len(told["points"]) == 6


def test_nothing_measured_makes_no_page() -> None:
    found = outcome()
    found.choice = None
    with pytest.raises(ValueError, match="nothing was measured"):
        render(found, "")


def test_ticks_are_round_and_inside() -> None:
    assert axis_over("", [1000.0]).ticks() == [0, 500, 1000]
    assert axis_over("", [1.0, 100.0], is_log=True).ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert axis_over("", [0.01, 1000.0], is_log=True).ticks() == pytest.approx([0.01, 0.1, 1, 10, 100, 1000])


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_plots_are_drawn(browser: Browser, tmp_path: Path, size: tuple[int, int], scheme: str) -> None:
    """Marks lie inside their plots, have the colours of the scheme, and every text can be read."""
    file = tmp_path / "tune.html"
    file.write_text(render(outcome(), "batching:\n  max_rows: 64\n"), encoding="utf-8")
    browser.open(file.as_uri(), size, scheme=scheme)
    assert browser.console() == []
    assert [url for url in browser.requested() if url != file.as_uri()] == []
    drawn = browser.ask(
        "return [...document.querySelectorAll('svg')].map((svg) => { const box = svg.getBoundingClientRect();"
        " const marks = [...svg.querySelectorAll('circle, rect, polyline')].map((m) => m.getBoundingClientRect());"
        " return [box.width, marks.length, marks.every((m) => m.width > 0 && m.left >= box.left - 1"
        " && m.right <= box.right + 1 && m.top >= box.top - 1 && m.bottom <= box.bottom + 1)]; })"
    )
    assert len(drawn) == 3
    for width, marks, are_inside in drawn:
        assert width > 250
        assert marks >= 6
        assert are_inside
    throughput, latency, stages = drawn
    assert throughput[1] == 5 + 1  # every point that was answered at all, and the ring around the chosen one
    assert latency[1] == 3 + 3 * 4
    assert stages[1] == 8
    fills = browser.ask(
        "return ['.meets', '.chosen'].map((c) => getComputedStyle(document.querySelector(`svg ${c}`)))"
        ".map((style) => style.fill + style.stroke)"
    )
    assert len(set(fills)) == 2
    assert "rgb(0, 0, 0)" not in fills[0]
    assert min(ratio for _, ratio in browser.contrasts()) >= 4.5
    assert browser.ask("return document.documentElement.scrollWidth <= innerWidth + 1")
    browser.screenshot(tmp_path / "tune.png")
