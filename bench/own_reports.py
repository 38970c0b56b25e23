"""Blocks of the page from what `trt-worker bench`, `trt-worker tune` and the tests on a GPU wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]


def kind_of(document: Document) -> str:
    """The bench's own files say it; the worker's commands do not know of the page."""
    if "ideal_best" in document:
        return "lanes"
    return "tune" if "share_of_best" in document else str(document.get("kind", ""))


def lanes(found: Sequence[Document]) -> str:
    """`trt-worker bench`: the lanes beside the ideal loop, and what the overlap brings."""
    heads = ["", "rows", "best ideal loop", "", "1 lane", "lanes", "rows/s", "of the ideal", "over 1 lane"]
    rows, stages = [], []
    for each in found:
        what, overlap = each["what"], each["overlap"]
        several = f"{what['lanes']} lanes"
        rate = each["lanes_rows_per_s"]
        rows.append(
            [
                f"{what['model']}, {what['precision']}",
                str(what["rows"]),
                f"{max(each['ideal_rows_per_s'].values()):,.0f}",
                each["ideal_best"],
                f"{rate['1 lane']:,.0f}",
                str(what["lanes"]),
                f"{rate[several]:,.0f}",
                f"{each['lanes_share_of_ideal']:.1%}",
                f"{overlap['gain_over_1_lane']:+.1%}",
            ]
        )
        stage = ", ".join(f"{name} {us:,.0f}" for name, us in overlap["stage_us"].items())
        every_us = overlap[f"batch_us_{what['lanes']}_lanes"]
        stages.append(
            f"- {what['model']}: a batch every {every_us:,.0f} µs with {several}, "
            f"every {overlap['batch_us_1_lane']:,.0f} with one; its stages take {overlap['sum_of_stages_us']:,.0f} "
            f"together ({stage})."
        )
    return f"{_machines(found)}\n{table(heads, rows)}\n" + "\n".join(stages) + "\n"


def tune(found: Sequence[Document]) -> str:
    """`trt-worker tune`: what it recommended, and whether that held."""
    heads = ["", "p99 wanted, ms", "batching and lanes", "requests/s", "of the best measured", "p99 measured again, ms"]
    rows = []
    for each in found:
        said = each["recommended"]
        setting = f"{said['max_rows']} rows, {said['max_delay_ms']:g} ms, {said['lanes']} lanes"
        rows.append(
            [
                each["model"],
                f"{each['target_p99_ms']:g}",
                f"{setting}, graphs {said['cuda_graphs']}",
                f"{each['rate']:,.0f}",
                f"{each['share_of_best']:.0%}",
                f"{each['confirming']['p99_ms']:.1f}",
            ]
        )
    notes = "".join(f"\n- {each['model']}: {note}." for each in found for note in each["notes"])
    return f"{_machines(found)}\n{table(heads, rows)}" + (f"{notes}\n" if notes else "")


def gpu_tests(found: Sequence[Document]) -> str:
    """The tests that CI has no GPU for."""
    parts = []
    for each in found:
        failed = len(each["failure"]) + len(each["error"])
        where = f"{' and '.join(each['gpus'])}; {each['machine'].get('tensorrt', 'no TensorRT')}"
        said = f"{len(each['passed'])} passed, {failed} failed, {len(each['skipped'])} skipped"
        why = "".join(f"\n- {name} skipped: {reason}" for name, reason in each["skipped"].items())
        parts.append(f"{where}; {each['date'][:10]}: {said} in {each['seconds']:.0f} s.\n{why}\n")
    return "\n".join(parts)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; numbers stand to the right."""
    marks = ["---", *("---:" for _ in heads[1:])]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, marks, *rows))


def _machines(found: Sequence[Document]) -> str:
    lines = []
    for each in found:
        facts, date = each["machine"], (each.get("what") or each)["date"]
        gpu = f"{facts['gpu']}, driver {facts['driver']}, {facts['tensorrt']}; " if "driver" in facts else ""
        lines.append(f"{gpu}{facts['cpu']}, {facts['cpu_cores']} cores; Python {facts['python']}; {date[:10]}.\n")
    return "\n".join(dict.fromkeys(lines))
