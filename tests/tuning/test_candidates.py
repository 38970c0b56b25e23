"""What is swept."""

from __future__ import annotations

import pytest

from worker.errors import ConfigError
from worker.tuning.candidates import Limits, between, make_grid

FREE = Limits(least_rows=1, most_rows=1024, is_fixed=False, has_graphs=False)


def test_the_defaults_fit_model_and_target() -> None:
    """No batch larger than the engine takes or smaller than a request, no delay near the target, graphs where known."""
    grid = make_grid(Limits(8, 96, is_fixed=False, has_graphs=True), 20)
    assert list(grid.max_rows) == [8, 16, 64, 96]
    assert list(grid.max_delay_ms) == [0, 1, 2, 4]
    assert list(grid.cuda_graphs) == ["auto", "off"]
    assert list(make_grid(FREE, 20).cuda_graphs) == ["auto"]
    assert make_grid(Limits(1, 32, is_fixed=True, has_graphs=False), 20).max_rows == (32,)
    quick = make_grid(FREE, 3).max_delay_ms
    assert max(quick) < 1


def test_what_the_user_names_replaces_the_defaults() -> None:
    grid = make_grid(FREE, 20, max_rows=[64, 16], max_delay_ms=[3], lanes=[2], cuda_graphs=["off"])
    assert (grid.max_rows, grid.max_delay_ms, grid.lanes, grid.cuda_graphs) == ((16, 64), (3,), (2,), ("off",))
    assert len(list(grid.seats())) == 2


@pytest.mark.parametrize(
    ("limits", "rows", "message"),
    [
        (Limits(1, 64, is_fixed=False, has_graphs=True), [128], "takes 1 to 64"),
        (Limits(8, 64, is_fixed=False, has_graphs=True), [4], "takes 8 to 64"),
        (Limits(1, 64, is_fixed=True, has_graphs=True), [32], "takes 64 to 64"),
        (Limits(128, 64, is_fixed=False, has_graphs=True), [], "lower --rows-per-request"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_measured(limits: Limits, rows: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_grid(limits, 20, max_rows=rows)


def test_the_second_look_goes_between_the_best_and_its_neighbours() -> None:
    assert between([1, 4, 16, 64], 16, FREE) == [8, 32]
    assert between([1, 4, 16, 64], 64, FREE) == [32, 128]
    assert between([1, 4], 1, FREE) == [2]
    assert between([64], 64, Limits(1, 64, is_fixed=True, has_graphs=False)) == []
