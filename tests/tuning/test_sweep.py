"""The sweep on a made-up machine, whose best setting is known."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from tests.clock import Clock
from tests.tuning.made_up import run_of
from worker.errors import GpuError
from worker.tuning import sweep as sweep_module
from worker.tuning.candidates import Grid, Limits, make_grid
from worker.tuning.measurement import Measurement, Setting
from worker.tuning.payload import Payload
from worker.tuning.sweep import Plan, Sweeper

LIMITS = Limits(1, 1024, is_fixed=False, has_graphs=True)
PAYLOAD = Payload((b"x",), 1, (((4,),),), is_seeded=True)


class Machine:
    """Batches cost a start and a share for each row, lanes overlap with less and less use, graphs make starts cheap."""

    def __init__(self, noise: float = 0.0, most_lanes: int = 16, beyond: float = 1.0) -> None:
        self.clock = Clock()
        self._random = random.Random(5)
        self._noise = noise
        self._beyond = beyond  # what can be sustained for as long as a run takes, as a share of the capacity
        self._most_lanes = most_lanes
        self.measured = 0

    def get(self, setting: Setting) -> Machine:
        if setting.lanes > self._most_lanes:
            raise GpuError(f"{setting.lanes} lanes do not fit")
        return self

    def close(self) -> None:
        """Nothing is open."""

    def batch_s(self, setting: Setting) -> float:
        return (0.0004 if setting.cuda_graphs == "off" else 0.0002) + 0.00002 * setting.max_rows

    def capacity(self, setting: Setting) -> float:
        return setting.max_rows / self.batch_s(setting) * (1 - 0.5**setting.lanes)

    def p99_ms(self, setting: Setting, rate: float) -> float:
        """Infinite from the capacity on; steeply more on the way there."""
        load = rate / self.capacity(setting) / self._beyond
        if load >= 1:
            return math.inf
        wait_s = min(setting.max_delay_ms / 1000, setting.max_rows / rate)
        return 1000 * (wait_s + self.batch_s(setting) * (1.5 + load / (1 - load)))

    def best_rate(self, grid: Grid, p99_ms: float) -> float:
        """The highest rate within the target that any setting of the grid reaches."""
        best = 0.0
        for seat in grid.seats():
            for delay in grid.max_delay_ms:
                setting = Setting(seat.max_rows, delay, seat.lanes, seat.cuda_graphs)
                low, high = 0.0, self.capacity(setting)
                for _ in range(40):
                    middle = (low + high) / 2
                    low, high = (middle, high) if self.p99_ms(setting, middle) <= p99_ms else (low, middle)
                best = max(best, low)
        return best

    def run_trial(
        self,
        _settings: Any,
        _backend: Any,
        _payload: Any,
        setting: Setting,
        rate: float | None,
        seconds: float,
        **_: Any,
    ) -> Measurement:
        self.measured += 1
        self.clock.now_s += 1.3 * seconds
        shake = 1 + self._noise * self._random.uniform(-1, 1)
        if rate is None:
            return run_of(setting, self.capacity(setting) * shake, 1000)
        p99_ms = self.p99_ms(setting, rate) * shake
        return run_of(setting, rate, p99_ms, is_sustained=math.isfinite(p99_ms))


def sweeper_of(
    machine: Machine, grid: Grid, plan: Plan, monkeypatch: pytest.MonkeyPatch, said: list[str] | None = None
) -> Sweeper:
    monkeypatch.setattr(sweep_module, "run_trial", machine.run_trial)
    backends: Any = machine
    settings: Any = None
    return Sweeper(
        settings,
        backends,
        PAYLOAD,
        grid,
        LIMITS,
        plan,
        say=lambda what, _sweep, _used: said.append(what) if said is not None else None,
        go_on=lambda: None,
    )


@pytest.mark.parametrize("p99_ms", [2.0, 5.0, 20.0, 100.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_recommendation_is_within_5_percent_of_the_best_there_is(
    p99_ms: float, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only of what was measured: of every setting of the grid, at every rate; and in far fewer runs than those."""
    machine, grid = Machine(noise), make_grid(LIMITS, p99_ms)
    sweep = sweeper_of(machine, grid, Plan(p99_ms, seconds=3600), monkeypatch).run()
    choice = sweep.choice(p99_ms)
    assert choice is not None
    assert choice.meets_target
    best = machine.best_rate(grid, p99_ms)
    assert choice.point.rate >= 0.95 * best * (1 - noise)
    assert machine.p99_ms(choice.point.setting, choice.point.rate) <= p99_ms * (1 + noise)
    assert machine.measured < 350


def test_a_given_rate_is_met_by_a_setting_that_is_quick_there(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, grid = Machine(), make_grid(LIMITS, 20)
    sweep = sweeper_of(machine, grid, Plan(20, rates=(5000, 2000), seconds=3600), monkeypatch).run()
    choice = sweep.choice(20)
    assert choice is not None
    assert choice.point.rate == 5000
    at_rate = [point.p99_ms for (_, rate), point in sweep.points.items() if rate == 5000]
    assert choice.point.p99_ms <= 1.1 * min(at_rate)
    assert {rate for _, rate in sweep.points} == {5000}
    assert {setting.lanes for setting, _ in sweep.points} == {1, 2, 3, 4}  # a cheap one may be as quick


def test_of_given_rates_the_highest_that_can_be_met_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(20, rates=(100, 5000, 1e6), seconds=3600)
    choice = sweeper_of(Machine(), make_grid(LIMITS, 20), plan, monkeypatch).run().choice(20)
    assert choice is not None
    assert choice.meets_target
    assert choice.point.rate == 5000


def test_a_target_that_nothing_meets_is_said_to_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, grid = Machine(), make_grid(LIMITS, 0.01)
    sweep = sweeper_of(machine, grid, Plan(0.01, seconds=3600), monkeypatch).run()
    choice = sweep.choice(0.01)
    assert choice is not None
    assert not choice.meets_target


def test_the_present_settings_are_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they cannot carry the least rate."""
    present = Setting(100, 7.0, 2, "auto")
    plan = Plan(20, seconds=3600, present=present)
    sweep = sweeper_of(Machine(), make_grid(LIMITS, 20), plan, monkeypatch).run()
    assert any(setting == present for setting, _ in sweep.points)


def test_what_does_not_fit_the_gpu_is_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(most_lanes=2)
    sweep = sweeper_of(machine, make_grid(LIMITS, 20), Plan(20, seconds=3600), monkeypatch).run()
    assert {setting.lanes for setting in sweep.capacities} == {1, 2}
    assert any("3 lanes do not fit" in note for note in sweep.notes)
    with pytest.raises(GpuError):
        sweeper_of(Machine(most_lanes=0), make_grid(LIMITS, 20), Plan(20), monkeypatch).run()


def test_a_spent_budget_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing but what each setting carries, or less."""
    machine = Machine()
    sweep = sweeper_of(machine, make_grid(LIMITS, 20), Plan(20, seconds=1e-9), monkeypatch).run()
    assert not sweep.points


def test_a_climb_beyond_what_can_be_carried_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs sustain more than bursts: from some rate on no setting is even tried, and no point says so."""
    machine, grid = Machine(beyond=1.3), make_grid(LIMITS, 100)
    monkeypatch.setattr("time.monotonic", machine.clock)
    sweep = sweeper_of(machine, grid, Plan(100, seconds=90), monkeypatch).run()
    choice = sweep.choice(100)
    assert choice is not None
    assert choice.meets_target
    assert machine.clock.now_s < 1000 + 90


def test_little_time_costs_closeness_and_not_half_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that take long to open leave little for the climb; what was not tried is told."""
    machine, grid = Machine(), make_grid(LIMITS, 20)
    monkeypatch.setattr("time.monotonic", machine.clock)
    opened: set[tuple[Any, int]] = set()

    def get(setting: Setting) -> Machine:
        if (key := (setting.cuda_graphs, setting.lanes)) not in opened:
            opened.add(key)
            machine.clock.now_s += 2.5
        return machine

    monkeypatch.setattr(machine, "get", get)
    sweep = sweeper_of(machine, grid, Plan(20, seconds=45), monkeypatch).run()
    choice = sweep.choice(20)
    assert choice is not None
    assert choice.point.rate >= 0.85 * machine.best_rate(grid, 20)
    assert any("nothing was tried" in note for note in sweep.notes)
    assert machine.clock.now_s < 1000 + 60


def test_the_curve_goes_through_rates_below_and_above(monkeypatch: pytest.MonkeyPatch) -> None:
    sweeper = sweeper_of(Machine(), make_grid(LIMITS, 20), Plan(20, seconds=3600), monkeypatch)
    setting = Setting(64, 1.0, 2)
    sweeper.trace(setting, 1000)
    rates = sorted(rate for _, rate in sweeper.sweep.points)
    assert rates[0] == 100
    assert rates[-1] > 1000
