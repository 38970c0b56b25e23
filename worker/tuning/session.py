"""One tuning from start to end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from worker import assemble
from worker.assemble_member import quiet_the_collector
from worker.config import Settings
from worker.errors import FatalError
from worker.protocols import Backend
from worker.tensors import Shape
from worker.tuning.backends import Backends
from worker.tuning.candidates import Grid, Limits, make_grid
from worker.tuning.choice import Choice
from worker.tuning.ideal import best_shapes, find_engine
from worker.tuning.machine import machine_facts
from worker.tuning.measurement import Graphs, Point, Setting
from worker.tuning.outcome import Outcome
from worker.tuning.payload import Payload, payload_from, seeded_payload
from worker.tuning.sweep import Plan, Sweeper, round_rate
from worker.tuning.through_kafka import OpenStage, most_rate, run_through_kafka
from worker.tuning.trial import GoOn
from worker.tuning.view import View, open_view

MOST_ROWS = 1024  # of a batch, where the engine sets no limit
MOST_TRIES = 8  # to confirm
STEP_DOWN = 0.8
CONFIRM_SHARE = 0.08  # of the budget, for one try
STEPS_THROUGH_KAFKA = (1.0, 0.5, 0.25)  # shares of the confirmed rate, until one meets the target there too
KAFKA_S = 3.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user may choose; empty: chosen here."""

    p99_ms: float
    rates: tuple[float, ...] = ()
    seconds: float = 90.0
    is_even: bool = False
    rows_per_request: int = 1
    input_file: Path | None = None
    shapes: Mapping[str, Shape] | None = None
    max_rows: tuple[int, ...] = ()
    max_delay_ms: tuple[float, ...] = ()
    lanes: tuple[int, ...] = ()
    cuda_graphs: tuple[Graphs, ...] = ()
    open_stage: OpenStage | None = None  # None: nothing goes through Kafka
    is_embedded: bool = True  # the stage is the embedded broker
    knows_present: bool = False  # the settings are a user's, not defaults


class Interrupted(Exception):
    """Ctrl-C, where the caller's go_on noticed it."""


def tune(settings: Settings, wishes: Wishes, console: Console, go_on: GoOn, command: str) -> Outcome:
    """Sweep, choose, confirm.

    Args:
        settings: the service's; what is tuned in them is measured too, if wishes.knows_present.
        go_on: called often; when it raises Interrupted, what is known by then is the outcome.
        command: what repeats this.

    Raises:
        FatalError: the model cannot be run, or the wishes cannot be met at all.
    """
    started_s = time.monotonic()
    with open_view(console, wishes.p99_ms) as view:
        console.print(f"loading {settings.model.name}", highlight=False)
        with assemble.open_backend(settings) as backend:
            limits, payload = _limits(settings, wishes, backend), _payload(settings, wishes, backend)
            facts = machine_facts(backend)
        grid = _grid(wishes, limits)
        plan = Plan(
            wishes.p99_ms,
            wishes.rates,
            wishes.seconds,
            "even" if wishes.is_even else "poisson",
            _present(settings, limits) if wishes.knows_present else None,
        )
        quiet_the_collector()
        most_rows = max(limits.least_rows, *grid.max_rows, plan.present.max_rows if plan.present else 1)
        if not wishes.max_rows and not limits.is_fixed:
            most_rows = max(most_rows, min(limits.most_rows, 4 * most_rows))  # the sweep may want finer or larger ones
        alone = settings.model_copy(update={"engine": settings.engine.model_copy(update={"intake_processes": 1})})
        with Backends(alone, most_rows) as backends:
            sweeper = Sweeper(alone, backends, payload, grid, limits, plan, say=view.say, go_on=go_on)
            outcome = Outcome(
                f"{settings.model.name} version {settings.model.version}",
                _told(payload, plan),
                plan,
                sweeper.sweep,
                facts,
                command,
                datetime.now(UTC).isoformat(timespec="seconds"),
            )
            try:
                sweeper.run()
                _confirm(outcome, sweeper)
                if outcome.confirmed is not None:
                    sweeper.trace(outcome.confirmed.setting, outcome.confirmed.rate)
                backends.close()
                _check_through_kafka(outcome, settings, wishes, payload, view, go_on)
            except Interrupted:
                outcome.is_interrupted = True
            outcome.choice = outcome.choice or outcome.sweep.choice(plan.p99_ms)
    outcome.seconds = time.monotonic() - started_s
    return outcome


def _confirm(outcome: Outcome, sweeper: Sweeper) -> None:
    """Measure the choice again, for longer; what that shows is part of the sweep, so a lucky point is not chosen twice.

    Where nothing is left that met the target, and no rates are given, the last setting is tried at lower rates.
    """
    plan, points = outcome.plan, outcome.sweep.points
    for _ in range(MOST_TRIES):
        choice = outcome.choice = outcome.sweep.choice(plan.p99_ms)
        if choice is None:
            return
        setting, rate = choice.point.setting, choice.point.rate
        if not choice.meets_target and outcome.confirmed is not None:
            if plan.rates:
                return
            setting, rate = outcome.confirmed.setting, round_rate(STEP_DOWN * outcome.confirmed.rate)
        confirmed = outcome.confirmed = sweeper.confirm(setting, rate, max(0.3, CONFIRM_SHARE * plan.seconds))
        point = points.setdefault((setting, rate), Point(setting, rate))
        point.runs.extend(confirmed.runs)
        if outcome.is_confirmed:
            now = outcome.sweep.choice(plan.p99_ms)
            best_rate = now.best_rate if now is not None and now.meets_target else rate
            outcome.choice = Choice(point, max(rate, best_rate), meets_target=True)
            return


def _check_through_kafka(
    outcome: Outcome, settings: Settings, wishes: Wishes, payload: Payload, view: View, go_on: GoOn
) -> None:
    if wishes.open_stage is None or outcome.confirmed is None or outcome.setting is None:
        outcome.kafka_left_out = "Not checked through Kafka."
        return
    most = min(outcome.confirmed.rate, most_rate(payload, is_embedded=wishes.is_embedded))
    for share in STEPS_THROUGH_KAFKA:
        rate = round_rate(share * most)
        view.say(f"the whole service through Kafka at {rate:,.0f}/s", outcome.sweep, 1.0)
        try:
            outcome.kafka = run_through_kafka(
                settings,
                outcome.setting,
                payload,
                rate,
                max(1.0, min(KAFKA_S, wishes.seconds / 20)),
                wishes.open_stage,
                arrivals=outcome.plan.arrivals,
                go_on=go_on,
            )
        except FatalError as error:
            if not wishes.is_embedded:  # somebody asked for this broker
                raise
            outcome.kafka_left_out = f"Not checked through Kafka: {error}."
            return
        if outcome.kafka.is_whole and outcome.kafka.latency_ms["p99"] <= outcome.plan.p99_ms:
            return


def _limits(settings: Settings, wishes: Wishes, backend: Backend) -> Limits:
    model = backend.model
    least = max(wishes.rows_per_request, settings.limits.max_rows_per_request or 1)
    is_fixed = model.inputs[0].shape[0] >= 0
    has_graphs = "cuda_graphs" in backend.describe()
    return Limits(least, model.max_rows or max(MOST_ROWS, least), is_fixed, has_graphs)


def _payload(settings: Settings, wishes: Wishes, backend: Backend) -> Payload:
    if wishes.input_file is not None:
        return payload_from(wishes.input_file, backend.model, wishes.rows_per_request)
    found = find_engine(settings)
    shapes = {**(_unpadded(best_shapes(found[2]), settings) if found else {}), **(wishes.shapes or {})}
    return seeded_payload(backend.model, settings, wishes.rows_per_request, shapes)


def _unpadded(shapes: Mapping[str, Shape], settings: Settings) -> dict[str, Shape]:
    """Buckets tell more of the lengths than the profile does."""
    return {name: shape for name, shape in shapes.items() if name not in settings.batching.pad}


def _grid(wishes: Wishes, limits: Limits) -> Grid:
    return make_grid(
        limits,
        wishes.p99_ms,
        max_rows=wishes.max_rows,
        max_delay_ms=wishes.max_delay_ms,
        lanes=wishes.lanes,
        cuda_graphs=wishes.cuda_graphs,
    )


def _present(settings: Settings, limits: Limits) -> Setting:
    graphs = settings.engine.cuda_graphs
    rows = min(limits.most_rows, max(limits.least_rows, settings.batching.max_rows))
    kept: Graphs = tuple(graphs) if isinstance(graphs, list) else graphs
    return Setting(rows, settings.batching.max_delay_ms, settings.engine.lanes, kept)


def _told(payload: Payload, plan: Plan) -> str:
    kind = "seeded random" if payload.is_seeded else "given"
    rows = "1 row" if payload.rows == 1 else f"{payload.rows} rows"
    return f"{kind} requests of {rows}, {payload.value_bytes:,.0f} bytes each, {plan.arrivals} arrivals"
