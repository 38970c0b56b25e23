"""Fills docs/performance.md with what bench/results holds, and draws the plots: python -m bench.page.

No figure on that page is typed by hand: what stands between `<!-- NAME -->` and `<!-- end -->` is made here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import own_reports, plots
from bench.command import RESULTS
from bench.contestants import IDEAL, OTHERS, QUICK
from bench.own_reports import table
from bench.plots import Bar
from bench.scenario import SCENARIOS
from worker.config import ENV_PREFIX

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- (?P<kind>[a-z_]+)(?: (?P<label>[\w.-]+))? -->\n).*?(<!-- end -->)", re.DOTALL)
NEAR = 0.9
NOTHING = "Not measured yet.\n"
BESIDE = (QUICK, *OTHERS)
Documents = Sequence[Mapping[str, Any]]


def load(results: Path = RESULTS) -> Documents:
    """All documents of the bench, in the order of the scenarios."""
    order = list(SCENARIOS)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))]
    known = [{"label": "", **each, "kind": own_reports.kind_of(each)} for each in found]
    return sorted(known, key=lambda each: order.index(name) if (name := _scenario(each)) in order else -1)


def fill(text: str, documents: Documents) -> str:
    """The page with every block made anew."""

    def block(found: re.Match[str]) -> str:
        mine = [each for each in _of(documents, found["kind"]) if each["label"] == (found["label"] or "")]
        return f"{found[1]}\n{BLOCKS[found['kind']](mine) if mine else NOTHING}\n{found[4]}"

    return BLOCK.sub(block, text)


def draw(documents: Documents) -> Mapping[str, str]:
    """Name of the file -> SVG."""
    drawn = {}
    for label in sorted({each["label"] for each in documents}):
        mine = [each for each in documents if each["label"] == label]
        end = f"-{label}.svg" if label else ".svg"
        if rates := {_scenario(each): _rate_bars(each) for each in _of(mine, "throughput")}:
            drawn[f"throughput{end}"] = plots.bars("Share of the fastest, records a second written beside", rates)
        for each in _of(mine, "latency"):
            drawn[f"latency{end}"] = plots.bars("Latency from scheduled sending to receipt, ms", _latency_bars(each))
        for each in _of(mine, "scaling"):
            drawn[f"scaling{end}"] = plots.bars("Processor time a record, µs", _scaling_bars(each))
        for each in _of(mine, "soak"):
            points = [(held["at_s"] / 60, held["rss_mib"]) for held in each["held"]]
            drawn[f"soak{end}"] = plots.line("Resident memory", "minutes", "MiB", points)
    return drawn


def _throughput(found: Documents) -> str:
    """Two tables: records a second, and processor time; a column for each scenario."""
    names = list(dict.fromkeys(name for each in found for name in (*each["medians"], *each["failed"])))
    rate = [[name, *(_rate(each["medians"].get(name)) for each in found)] for name in names]
    cpu = [[name, *(_cpu(each["medians"].get(name)) for each in found)] for name in names if name != IDEAL]
    heads = [_scenario(each) for each in found]
    size = ["bytes a record", *(f"{each['scenario']['value_bytes']:,}" for each in found)]
    count = ["records", *(f"{each['scenario']['records']:,}" for each in found)]
    rounds = ["rounds (thrown away before)", *(_rounds(each) for each in found)]
    parts = [
        _machines(found),
        _plot("throughput", found),
        "Records a second; in brackets the share of `raw`, and of `ideal` where there is one:\n",
        table(["", *heads], [size, count, rounds, *rate]),
        "Processor time a record in µs, all processes; in brackets the main thread's:\n",
        table(["", *heads], cpu),
        table(["", *heads], [["faults", *(_faults(each) for each in found)]]),
        *(f"- {_scenario(each)}: {_settings(each)}." for each in found if each["settings"]),
        *_verdicts(found),
    ]
    return "\n".join(parts)


def _verdicts(found: Documents) -> list[str]:
    """What the worker is beside the others, and what it is bound by, in words."""
    lines = []
    for each in found:
        name, medians = _scenario(each), each["medians"]
        if worker := medians.get("worker"):
            shares = {
                other: worker["records_per_s"] / medians[other]["records_per_s"] for other in BESIDE if other in medians
            }
            beside = "".join(f", {share:.2f} × `{other}`" for other, share in shares.items())
            lines.append(f"- {name}: bound by {_bound(worker)}{beside}.")
        if cost := each["cost_of_metrics"]:
            lines.append(
                f"- {name}: metrics cost {cost['throughput']:.1%} of the throughput and {cost['cpu']:.1%} more "
                "processor time (medians over the rounds, each beside its neighbour)."
            )
    return [*lines, ""] if lines else []


def _settings(document: Mapping[str, Any]) -> str:
    """The settings that differ from the defaults."""
    names = {name.removeprefix(ENV_PREFIX): value for name, value in document["settings"].items()}
    return "with " + ", ".join(f"`{name.replace('__', '.').lower()}` {value}" for name, value in names.items())


def _bound(worker: Mapping[str, Any]) -> str:
    busy = worker["main_thread_us"] * worker["records_per_s"] / 1e6
    if worker["of_ideal"] is not None and worker["of_ideal"] >= NEAR:
        return f"the model ({worker['of_ideal']:.0%} of the ideal loop)"
    if busy >= NEAR:
        return f"its Python thread ({busy:.0%} busy)"
    return f"the broker and the client library, or the model (its Python thread is {busy:.0%} busy)"


def _latency(found: Documents) -> str:
    parts = [_machines(found), _plot("latency", found)]
    for each in found:
        rows = [
            [
                row["contestant"],
                f"{row['rate']:,.0f}/s {row['arrivals']}",
                *(f"{row[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")),
                f"{row['late_p99_ms']:.2f}",
                str(row["missing"] + row["duplicates"]),
            ]
            for row in each["medians"]
        ]
        parts.append(f"`batching.max_delay_ms` {each['max_delay_ms']:g}, {each['seconds']:g} s a run; ms:\n")
        parts.append(table(["", "arrivals", "p50", "p95", "p99", "max", "sent late, p99", "faults"], rows))
    return "\n".join(parts)


def _scaling(found: Documents) -> str:
    parts = [_machines(found), _plot("scaling", found)]
    for each in found:
        rows = [
            [key, name, f"{row['records_per_s']:,}", f"{row['cpu_us']:.2f}", f"{row['main_thread_us']:.2f}"]
            for key, variant in each["variants"].items()
            for name, row in variant["medians"].items()
        ]
        parts.append(table(["", "", "records/s", "CPU µs a record", "main thread"], rows))
        costs = [
            variant["medians"]["worker"]["cpu_us"]
            for key, variant in each["variants"].items()
            if "worker" in variant["medians"] and "lag" not in key and "in turns" not in key
        ]
        if len(costs) > 1:
            parts.append(f"By key, the dearest is {max(costs) / min(costs) - 1:.0%} above the cheapest.\n")
    return "\n".join(parts)


def _soak(found: Documents) -> str:
    parts = [_machines(found), _plot("soak", found)]
    for each in found:
        quarter, last, told = each["held"][len(each["held"]) // 4], each["held"][-1], each["answers"]
        rows = [
            [name, *(f"{held[key]:,.0f}" for held in (quarter, last))]
            for name, key in (
                ("resident memory, MiB", "rss_mib"),
                ("GPU memory, MiB", "gpu_mib"),
                ("threads", "threads"),
                ("files", "files"),
            )
        ]
        said = (
            f"{each['minutes']:g} minutes, {each['rate']:,.0f} records a second; {told['records']:,} requests, "
            f"{told['missing']} without an answer, {told['duplicates']} answered twice.\n"
        )
        parts += [said, table(["", "after a quarter", "at the end"], rows)]
    return "\n".join(parts)


BLOCKS: Mapping[str, Callable[[Documents], str]] = {
    "throughput": _throughput,
    "latency": _latency,
    "scaling": _scaling,
    "soak": _soak,
    "lanes": own_reports.lanes,
    "tune": own_reports.tune,
    "gpu_tests": own_reports.gpu_tests,
}


def _of(documents: Documents, kind: str) -> Documents:
    return [each for each in documents if each["kind"] == kind]


def _scenario(document: Mapping[str, Any]) -> str:
    """Empty for what has none."""
    if document["kind"] == "scaling":
        document = next(iter(document["variants"].values()))
    return str(document.get("scenario", {}).get("name", ""))


def _machines(found: Documents) -> str:
    lines = []
    for each in found:
        facts = each["machine"]
        gpu = f", {facts['gpu']}" if "gpu" in facts and each["label"] else ""
        told = (
            f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']:g} GiB{gpu}; Python {facts['python']}, "
            f"Kafka {facts['kafka']}, librdkafka {facts['librdkafka']}; {each['date'][:10]}."
        )
        if told not in lines:
            lines.append(told)
    return "\n\n".join(lines) + "\n"


def _plot(kind: str, found: Documents) -> str:
    label = found[0]["label"]
    return f"![{kind}](../bench/results/{kind}{'-' + label if label else ''}.svg)\n"


def _rate(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    shares = [f"{row[key]:.0%}" for key in ("of_raw", "of_ideal") if row[key] is not None and row[key] != 1]
    return f"{row['records_per_s']:,}" + (f" ({', '.join(shares)})" if shares else "")


def _cpu(row: Mapping[str, Any] | None) -> str:
    return "–" if row is None else f"{row['cpu_us']:.1f} ({row['main_thread_us']:.1f})"


def _rounds(document: Mapping[str, Any]) -> str:
    """Of those that took part in all of them."""
    most = max((row["rounds"] for row in document["medians"].values()), default=0)
    return f"{most} ({document['warm_ups']})"


def _faults(document: Mapping[str, Any]) -> str:
    kinds = ("missing", "duplicates", "wrong", "uncommitted")
    return str(sum(row[kind] for row in document["medians"].values() for kind in kinds))


def _rate_bars(document: Mapping[str, Any]) -> list[Bar]:
    medians = document["medians"]
    most = max((row["records_per_s"] for row in medians.values()), default=1)
    return [Bar(name, row["records_per_s"] / most, f"{row['records_per_s']:,}") for name, row in medians.items()]


def _latency_bars(document: Mapping[str, Any]) -> dict[str, list[Bar]]:
    groups: dict[str, list[Bar]] = {}
    for row in document["medians"]:
        for figure in ("p50", "p99"):
            group = groups.setdefault(f"{figure}, {row['rate']:,.0f}/s {row['arrivals']}", [])
            group.append(Bar(row["contestant"], row[f"{figure}_ms"], f"{row[f'{figure}_ms']:.2f}"))
    return groups


def _scaling_bars(document: Mapping[str, Any]) -> dict[str, list[Bar]]:
    return {
        key: [Bar(name, row["cpu_us"], f"{row['cpu_us']:.2f}") for name, row in variant["medians"].items()]
        for key, variant in document["variants"].items()
    }


def main() -> int:
    """Write the page and the plots."""
    documents = load()
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), documents), encoding="utf-8")
    for name, svg in draw(documents).items():
        (RESULTS / name).write_text(svg, encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
