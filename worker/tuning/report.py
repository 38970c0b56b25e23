"""The HTML report: one file, nothing from outside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from worker.tuning.measurement import STAGES, Measurement, Point
from worker.tuning.outcome import Outcome
from worker.tuning.plots import latency_over_rate, stage_bar, throughput_over_latency

METHOD = (
    "Requests arrive by the clock, whether or not the worker is ready for them, and a latency counts from the "
    "scheduled arrival. They pass the worker's own pipeline (decode, batching, lanes, encode); Kafka is left out, "
    "except in the last check, so its round trips come on top. Of repeated measurements, the median is shown."
)


def render(outcome: Outcome, settings_yaml: str) -> str:
    """The page.

    Args:
        outcome: something must have been measured.
        settings_yaml: the recommended keys.
    """
    choice = outcome.choice
    if choice is None:
        raise ValueError("nothing was measured")
    points = [point for point in outcome.sweep.points.values() if point.runs]
    shown = outcome.confirmed or choice.point
    run = shown.typical
    template = Template(files("worker.tuning").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"Tuning of {outcome.model}"),
        subtitle=escape(f"{outcome.date} · {outcome.requests} · {_gpu(outcome)}"),
        mood="good" if outcome.is_confirmed else "bad",
        verdict=escape(_capital(outcome.verdict())),
        facts=_facts(outcome, shown, run),
        standing=escape(_standing(outcome)),
        settings=escape(settings_yaml),
        throughput=throughput_over_latency(points, shown, outcome.plan.p99_ms),
        latency=latency_over_rate(outcome.of_chosen(), outcome.plan.p99_ms),
        stages=stage_bar(run.stage_ms) + _stage_legend(run),
        kafka=escape(f"The whole service {outcome.kafka}." if outcome.kafka else outcome.kafka_left_out),
        points=_points_table(points, choice.point),
        capacities=_capacities_table(outcome),
        machine=_table(("", ""), [(key, _text(value)) for key, value in outcome.machine.items()]),
        command=escape(outcome.command),
        method=escape(METHOD),
    )


def _facts(outcome: Outcome, point: Point, run: Measurement) -> str:
    facts = {
        "requests a second": f"{point.rate:,.0f}",
        "p50": _ms(run.latency_ms["p50"]),
        "p99": _ms(point.p99_ms),
        "rows a batch": f"{run.batch_rows:.1f}",
        "engine busy": f"{run.busy_ratio:.0%}",
        "took": f"{outcome.seconds:.0f} s",
    }
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())


def _standing(outcome: Outcome) -> str:
    choice = outcome.choice
    if choice is None:
        return ""
    told = f"The best setting of the sweep carried {choice.best_rate:,.0f}/s within the target; this one "
    told += f"{choice.share_of_best:.0%} of that."
    if not choice.meets_target:
        told = "No setting met the target; this one came nearest."
    present = outcome.plan.present
    if present is not None and present != outcome.setting:
        of_present = [point for (setting, _), point in outcome.sweep.points.items() if setting == present]
        met = [point.rate for point in of_present if point.meets(outcome.plan.p99_ms)]
        reached = f"met it up to {max(met):,.0f}/s" if met else "did not meet it at the rates that were tried"
        told += f" The present settings ({present}) {reached}."
    if outcome.is_interrupted:
        told += " The sweep was interrupted: there may be better ones."
    return told


def _stage_legend(run: Measurement) -> str:
    entries = [
        f'<li><i class="stage-{stage}"></i>{stage} {_ms(run.stage_ms[stage])}</li>'
        for stage in STAGES
        if run.stage_ms.get(stage, 0) > 0
    ]
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _points_table(points: Sequence[Point], chosen: Point) -> str:
    head = ("setting", "rate", "answers/s", "p50", "p90", "p99", "max", "rows a batch", "busy", "thread", "runs")
    ordered = sorted(points, key=lambda point: (-point.rate, point.p99_ms))
    rows = [(point.setting, _point_row(point)) for point in ordered]
    picked = {place for place, point in enumerate(ordered) if point is chosen}
    return _table(head, [row for _, row in rows], picked)


def _point_row(point: Point) -> tuple[str, ...]:
    run = point.typical
    return (
        str(point.setting),
        f"{point.rate:,.0f}",
        f"{run.answered_per_s:,.0f}" if point.is_sustained else "cannot keep up",
        *(_number(run.latency_ms[name]) for name in ("p50", "p90")),
        _number(point.p99_ms),
        _number(run.latency_ms["max"]),
        f"{run.batch_rows:.1f}",
        f"{run.busy_ratio:.0%}",
        f"{run.thread_ratio:.0%}",
        str(len(point.runs)),
    )


def _capacities_table(outcome: Outcome) -> str:
    sweep = outcome.sweep
    head = ("rows, lanes, graphs", "answers/s", "ms a batch", "busy", "thread")
    rows = []
    for setting in sorted(sweep.capacities, key=sweep.capacity, reverse=True):
        run = max(sweep.capacities[setting], key=lambda each: each.answered_per_s)
        name = f"{setting.max_rows} rows, {setting.lanes} lanes, graphs {setting.cuda_graphs}"
        every_ms = 1000 / run.batches_per_s if run.batches_per_s else math.inf
        row = (
            name,
            f"{run.answered_per_s:,.0f}",
            _number(every_ms),
            f"{run.busy_ratio:.0%}",
            f"{run.thread_ratio:.0%}",
        )
        rows.append(row)
    return _table(head, rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], picked: Iterable[int] = ()) -> str:
    marked = set(picked)
    parts = ["<table><thead><tr>", *(f"<th>{escape(name)}</th>" for name in head), "</tr></thead><tbody>"]
    for place, row in enumerate(rows):
        parts.append('<tr class="picked">' if place in marked else "<tr>")
        parts += [f"<td>{escape(cell)}</td>" for cell in row]
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table>"])


def _gpu(outcome: Outcome) -> str:
    gpu = outcome.machine.get("gpu", "")
    return str(outcome.machine.get("cpu", "")) if gpu in {"", "cpu"} else str(gpu)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _number(value: float) -> str:
    return f"{value:,.3g}" if math.isfinite(value) else "–"


def _ms(value: float) -> str:
    return f"{_number(value)} ms"


def _text(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
