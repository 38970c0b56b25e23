"""What the docs promise of the delivery modes' throughput, held against the figures that are measured and kept."""

from __future__ import annotations

from typing import Any

import pytest

from bench import page
from tests.pages import ROOT, section

LEAST = 0.8  # of at_least_once, in the same run
LABELS = ["", "16-cores"]  # of the machines
MODES = {"worker": "at_least_once", "worker-eos": "exactly_once", "worker-queue": "queue"}


def medians(label: str) -> Any:
    """What docs/performance.md has of the pass-through model on a machine."""
    (found,) = [
        each
        for each in page.load()
        if (each["kind"], each["label"], each["scenario"]["name"]) == ("throughput", label, "pass-through-0.6k")
    ]
    return found["medians"]


@pytest.mark.parametrize("label", LABELS)
def test_exactly_once_reaches_four_fifths_of_at_least_once(label: str) -> None:
    """Medians over the rounds of one run, in which nothing was missing or doubled."""
    by_name = medians(label)
    assert by_name["worker-eos"]["records_per_s"] >= LEAST * by_name["worker"]["records_per_s"]
    for name in by_name.keys() & MODES:
        assert [by_name[name][fault] for fault in ("missing", "duplicates", "wrong", "uncommitted")] == [0] * 4


@pytest.mark.parametrize("label", LABELS)
def test_the_page_on_delivery_modes_has_these_figures(label: str) -> None:
    """Rounded to hundreds."""
    told = section(ROOT / "docs" / "delivery-modes.md", "Exactly once")
    by_name = medians(label)
    for name in by_name.keys() & MODES:
        assert f"{round(by_name[name]['records_per_s'], -2):,}" in told, f"{MODES[name]}: {by_name[name]}"
