"""The recommendation, on made-up measurements."""

from __future__ import annotations

import math

import pytest

from tests.tuning.made_up import point_of
from worker.tuning.choice import choose
from worker.tuning.measurement import Setting

ONE_LANE, TWO_LANES, FOUR_LANES = (Setting(64, 2.0, lanes) for lanes in (1, 2, 4))


def test_the_highest_rate_within_the_target_wins() -> None:
    """Faster but too slow, and quicker but at a lower rate, are both worse."""
    points = [point_of(ONE_LANE, 900, 5), point_of(TWO_LANES, 1000, 9), point_of(FOUR_LANES, 1200, 11)]
    found = choose(points, 10)
    assert found.point.setting == TWO_LANES
    assert found.meets_target
    assert found.best_rate == 1000


def test_within_3_percent_of_the_best_the_cheaper_setting_wins() -> None:
    points = [point_of(FOUR_LANES, 1000, 8), point_of(TWO_LANES, 980, 8.5), point_of(ONE_LANE, 949, 5)]
    found = choose(points, 10)
    assert found.point.setting == TWO_LANES
    assert found.share_of_best == pytest.approx(0.98)


def test_cheap_is_no_excuse_for_slow() -> None:
    """Of two that reach the same rate, the one that is clearly quicker wins, also with more lanes."""
    assert choose([point_of(ONE_LANE, 1000, 9.5), point_of(FOUR_LANES, 1000, 4)], 10).point.setting == FOUR_LANES


def test_the_median_of_the_runs_counts() -> None:
    """One lucky or unlucky run decides nothing."""
    lucky = point_of(FOUR_LANES, 1100, 3, 14, 15)
    unlucky = point_of(TWO_LANES, 1000, 6, 90, 7)
    assert choose([lucky, unlucky], 10).point is unlucky
    assert lucky.p99_ms == 14


def test_what_cannot_keep_up_never_meets_a_target() -> None:
    """However low the latency of what was answered."""
    points = [point_of(FOUR_LANES, 2000, 1, is_sustained=False), point_of(ONE_LANE, 500, 8)]
    assert choose(points, 10).point.setting == ONE_LANE


def test_without_a_point_that_meets_it_the_nearest_is_told_as_such() -> None:
    points = [
        point_of(ONE_LANE, 500, 40),
        point_of(TWO_LANES, 500, 30),
        point_of(FOUR_LANES, 500, 2, is_sustained=False),
    ]
    found = choose(points, 10)
    assert found.point.setting == TWO_LANES
    assert not found.meets_target
    hopeless = choose([point_of(ONE_LANE, 500, math.inf, is_sustained=False)], 10)
    assert not hopeless.meets_target


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"min|empty"):
        choose([], 10)
