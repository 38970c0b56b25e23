"""Coarse to fine: how much each setting can carry, then rate by rate, with those that still meet the target."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from worker.config import Settings
from worker.errors import GpuError
from worker.tuning.backends import Backends
from worker.tuning.candidates import Grid, Limits, between
from worker.tuning.choice import Choice, choose
from worker.tuning.measurement import Measurement, Point, Setting
from worker.tuning.open_loop import ArrivalKind
from worker.tuning.payload import Payload
from worker.tuning.trial import GoOn, run_trial

STEPS = (0.5, 0.7, 0.8, 0.87, 0.93, 1.0)  # rates, as shares of the highest capacity
FEWER = 0.5  # next rate, where not even the first one is met
TOO_LONG = 1.5  # targets
MOST_SEATS = 6  # of the first selection: rows, lanes and graphs, without the delays
SURVIVORS = (24, 12, 8, 6)  # settings that go on to the next rate
OF_A_KIND = 3
FEW = 8  # settings
AFFORD_SHARE = 0.3  # of what is left of the budget, for one rate
LATEST = 0.9  # of the budget: no other rate after that
CLOSE = 1.02  # rates that are no nearer are two rates
REPEATS = 3  # of a measurement that decides something; the median counts
CURVE = (0.1, 0.3, 0.5, 0.7, 0.85, 1.1, 1.25)  # of the chosen rate, for the picture
TRACE_UNTIL = 1.5  # of the budget: a report without its curve is none
SAMPLES = 300  # requests of a measurement, at least: of fewer, a 99th percentile says little
LONGEST_S = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    p99_ms: float
    rates: tuple[float, ...] = ()  # given ones; empty: found
    seconds: float = 90.0  # of the whole sweep
    arrivals: ArrivalKind = "poisson"
    present: Setting | None = None  # what the settings say now; measured as long as it keeps up


@dataclass(slots=True)
class Sweep:
    """All that was measured so far."""

    capacities: dict[Setting, list[Measurement]] = field(default_factory=dict)  # by setting, without arrivals
    points: dict[tuple[Setting, float], Point] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def capacity(self, setting: Setting) -> float:
        """Requests a second, as fast as it goes; the best of the runs, for noise only takes away."""
        return max((run.answered_per_s for run in self.capacities.get(setting, ())), default=0.0)

    def choice(self, p99_ms: float) -> Choice | None:
        measured = [point for point in self.points.values() if point.runs]
        return choose(measured, p99_ms) if measured else None


class Sweeper:
    """Fills a Sweep; what it has measured stays there when it is interrupted."""

    def __init__(
        self,
        settings: Settings,
        backends: Backends,
        payload: Payload,
        grid: Grid,
        limits: Limits,
        plan: Plan,
        *,
        say: Callable[[str, Sweep, float], None],
        go_on: GoOn,
    ) -> None:
        """Args:
        say: what is being done, all results so far, and the share of the budget that is used.
        go_on: called often; what it raises ends the sweep.
        """
        self.sweep = Sweep()
        self._settings, self._backends, self._payload = settings, backends, payload
        self._grid, self._limits, self._plan = grid, limits, plan
        self._say, self._go_on = say, go_on
        self._started_s = time.monotonic()
        self._unit_s = min(2.0, max(0.05, plan.seconds / 150))  # of one measurement, where requests are many
        self._seed = 0

    def run(self) -> Sweep:
        """Measure until the best rate is known, or the time is used up."""
        self._measure_capacities()
        settings = self._select()
        self._climb(settings)
        return self.sweep

    def trace(self, setting: Setting, rate: float) -> None:
        """Measure one setting over the rates around its own and the given ones, for the picture."""
        for each in sorted({*(round_rate(share * rate) for share in CURVE), *self._plan.rates} - {rate}):
            self._measure([setting], each, latest=TRACE_UNTIL)

    def confirm(self, setting: Setting, rate: float, seconds: float) -> Point:
        """The same setting again, on a backend that is opened for exactly it: three runs of a third of `seconds`."""
        self._backends.close()
        point = Point(setting, rate)
        with Backends(self._settings, setting.max_rows) as alone:
            self._trial(alone, setting, None, self._unit_s / 2)  # warm
            for _ in range(REPEATS):
                self._say(f"confirming {setting} at {rate:,.0f}/s", self.sweep, self._used())
                self._seed += 1
                seconds_each = max(seconds / REPEATS, min(SAMPLES / rate, LONGEST_S))
                point.runs.append(self._trial(alone, setting, rate, seconds_each))
        return point

    def _measure_capacities(self) -> None:
        """How much each combination of rows, lanes and graphs carries, when there is always another request."""
        seats = list(self._grid.seats())
        burst_s = min(0.5, max(0.05, 0.2 * self._plan.seconds / len(seats)))
        self._burst(seats, burst_s)
        best = max(self.sweep.capacities, key=self.sweep.capacity)
        finer = between(self._grid.max_rows, best.max_rows, self._limits) if len(self._grid.max_rows) > 2 else []
        near = sorted({seat.lanes for seat in self._best_seats(3)})
        self._burst([replace(best, max_rows=rows, lanes=lanes) for lanes in near for rows in finer], burst_s)
        again = self._best_seats(MOST_SEATS)
        if self._used() < 0.3:
            self._burst(again, burst_s)
        present = self._plan.present
        if present is not None and self.sweep.capacity(replace(present, max_delay_ms=self._grid.max_delay_ms[0])) == 0:
            self._burst([replace(present, max_delay_ms=self._grid.max_delay_ms[0])], burst_s)

    def _burst(self, seats: Sequence[Setting], seconds: float) -> None:
        for seat in seats:
            self._say(f"how much {seat.max_rows} rows, {seat.lanes} lanes carry", self.sweep, self._used())
            try:
                run = self._trial(self._backends, seat, None, seconds)
            except GpuError as error:
                if not self.sweep.capacities:  # not even the first one
                    raise
                self.sweep.notes.append(f"left out: {seat}: {error}")
                continue
            self.sweep.capacities.setdefault(seat, []).append(run)

    def _best_seats(self, count: int) -> list[Setting]:
        """Those that carry most, without those whose lanes, all full, hold a request too long, if others are left."""
        target_s = self._plan.p99_ms / 1000

        def is_slow(seat: Setting) -> bool:
            return seat.lanes * seat.max_rows / self._payload.rows > TOO_LONG * target_s * self.sweep.capacity(seat)

        ordered = sorted(self.sweep.capacities, key=self.sweep.capacity, reverse=True)
        return ([seat for seat in ordered if not is_slow(seat)] or ordered)[:count]

    def _select(self) -> list[Setting]:
        """The settings that enter the climb: the best combinations, with every delay, and the present one."""
        seats = self._best_seats(MOST_SEATS)
        if self._plan.rates:  # what carries less may be as quick there, and cheaper
            every = self._best_seats(len(self.sweep.capacities))
            best_of_lanes = {seat.lanes: seat for seat in reversed(every)}
            seats = list(dict.fromkeys([*best_of_lanes.values(), *seats]))
        else:
            most = max(self.sweep.capacity(seat) for seat in seats)
            seats = [seat for seat in seats if self.sweep.capacity(seat) > most / 2]
        settings = [replace(seat, max_delay_ms=delay) for delay in self._grid.max_delay_ms for seat in seats]
        if self._plan.present is not None and self._plan.present not in settings:
            settings.insert(0, self._plan.present)
        return settings

    def _climb(self, settings: list[Setting]) -> None:
        """Rates that nobody gave: upwards, with those that still meet the target; then finer around the last one."""
        if self._plan.rates:
            self._try_given(settings)
            return
        most = max(self._carries(setting) for setting in settings)
        met: float | None = None
        for step, share in enumerate(STEPS):
            rate = round_rate(share * most)
            left = self._survivors(settings, rate, SURVIVORS[min(step, len(SURVIVORS) - 1)])
            if not left and step == 0:
                left, rate = self._descend(settings, rate)
                step = len(STEPS)  # noqa: PLW2901  # higher ones were tried
            if left:
                settings, met = left, rate
            if not left or step == len(STEPS) or self._used() > 0.8:
                break
        if met is not None:
            self._refine(settings, met, most)

    def _try_given(self, settings: list[Setting]) -> None:
        """Downwards, until one is met: the highest is what is asked for."""
        for rate in sorted(self._plan.rates, reverse=True):
            if self._survivors(settings, rate, SURVIVORS[0]) or self._used() > 0.8:
                return

    def _descend(self, settings: list[Setting], rate: float) -> tuple[list[Setting], float]:
        """Lower rates, until one is met."""
        left: list[Setting] = []
        while not left and self._used() < 0.7 and rate > 0.1:
            rate = round_rate(FEWER * rate)
            left = self._survivors(settings, rate, SURVIVORS[1])
        return left, rate

    def _refine(self, settings: list[Setting], met: float, most: float) -> None:
        """Between the highest rate that was met and the next one that was not, or what can be carried at all."""
        present = [self._plan.present] if self._plan.present in settings else []
        settings = list(dict.fromkeys([*settings[: SURVIVORS[-1]], *present]))
        above = min((rate for _, rate in self.sweep.points if rate > met), default=max(most, 1.1 * met))
        while True:
            rate = round_rate((met + above) / 2)
            if rate / met < CLOSE:
                return
            if self._used() > LATEST:
                self.sweep.notes.append(
                    f"the time is used up: between {met:,.0f}/s and {above:,.0f}/s nothing was tried; see --seconds"
                )
                return
            if left := self._survivors(settings, rate, SURVIVORS[-1]):
                settings, met = left, rate
            else:
                above = rate

    def _survivors(self, settings: Sequence[Setting], rate: float, most: int) -> list[Setting]:
        """Those that meet the target at this rate, quickest first; interleaved repetitions where it is close."""
        able = [setting for setting in settings if self._carries(setting) > 0.9 * rate]
        share = AFFORD_SHARE * max(0.0, LATEST - self._used())
        able = able[: max(FEW, int(share * self._plan.seconds / (1.3 * self._run_s(rate))))]
        until = self._used() + share
        self._measure(able, rate)
        for repeat in range(1, REPEATS):
            doubtful = [setting for setting in able if self._is_doubtful(setting, rate, is_last=len(able) <= FEW)]
            quickest = sorted(doubtful, key=lambda setting: self.sweep.points[setting, rate].p99_ms)
            if not quickest or self._used() > until:
                break
            self._measure(quickest[: max(1, most // (2 * repeat))], rate)
        points = [point for setting in able if (point := self.sweep.points.get((setting, rate))) is not None]
        passing = sorted((point for point in points if point.meets(self._plan.p99_ms)), key=lambda point: point.p99_ms)
        kept: list[Setting] = []
        for point in passing:  # few of a kind: settings that differ in the delay alone tell little about each other
            kind = replace(point.setting, max_delay_ms=0)
            if len(kept) < most and sum(replace(each, max_delay_ms=0) == kind for each in kept) < OF_A_KIND:
                kept.append(point.setting)
        present = self._plan.present
        if present is not None and present not in kept and any(point.setting == present for point in passing):
            kept.append(present)
        return kept

    def _is_doubtful(self, setting: Setting, rate: float, *, is_last: bool) -> bool:
        """Whether one more run may change what follows from this point; among few settings, luck must not decide."""
        point = self.sweep.points.get((setting, rate))
        least_ms = 0.0 if is_last else self._plan.p99_ms / 2
        return point is not None and least_ms < point.p99_ms < 4 * self._plan.p99_ms

    def _measure(self, settings: Sequence[Setting], rate: float, latest: float = 1.0) -> None:
        """One run of each; those of one backend in a row."""
        seconds = self._run_s(rate)
        self._seed += 1  # other arrivals each time, the same for all settings
        for setting in sorted(settings, key=lambda each: (str(each.cuda_graphs), each.lanes)):
            if self._used() > latest:
                return
            self._say(f"{setting} at {rate:,.0f}/s", self.sweep, self._used())
            run = self._trial(self._backends, setting, rate, seconds)
            self.sweep.points.setdefault((setting, rate), Point(setting, rate)).runs.append(run)

    def _trial(self, backends: Backends, setting: Setting, rate: float | None, seconds: float) -> Measurement:
        return run_trial(
            self._settings,
            backends.get(setting),
            self._payload,
            setting,
            rate,
            seconds,
            patience_s=max(0.25, 10 * self._plan.p99_ms / 1000),
            go_on=self._go_on,
            arrivals=self._plan.arrivals,
            seed=self._seed,
        )

    def _carries(self, setting: Setting) -> float:
        return self.sweep.capacity(replace(setting, max_delay_ms=self._grid.max_delay_ms[0]))

    def _run_s(self, rate: float) -> float:
        """Length of one measurement at this rate."""
        return min(LONGEST_S, max(self._unit_s, SAMPLES / rate))

    def _used(self) -> float:
        """Share of the budget."""
        return (time.monotonic() - self._started_s) / self._plan.seconds


def round_rate(rate: float) -> float:
    """To three digits: rates are read by people."""
    return float(f"{rate:.3g}")
