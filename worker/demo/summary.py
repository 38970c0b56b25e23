"""What the demo says at the end."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.demo.digits import Digits
from worker.demo.stage import Stage
from worker.demo.tally import Tally
from worker.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of a service up to now."""

    count: int
    mean_rows: float
    largest: str  # "33 to 64": the metrics know the power of two

    @classmethod
    def of(cls, metrics: Metrics) -> Batches:
        observed = metrics.batch_rows.of[""]
        counts = list(observed.counts)
        number = sum(counts)
        top = max((index for index, count in enumerate(counts) if count), default=0)
        largest = "1" if top == 0 else f"{2 ** (top - 1) + 1} to {2**top}" if top > 1 else "2"
        return cls(number, observed.total / max(1, number), largest)


def summarise(
    console: Console,
    *,
    stage: Stage,
    digits: Digits,
    tally: Tally,
    metrics: Metrics,
    engine: Mapping[str, str],
    lanes: int,
    is_bounded: bool,
) -> None:
    """Print the numbers of the run, and the verdict.

    Args:
        engine: what Backend.describe() says.
        is_bounded: whether the requests were sent as fast as answers came, so that latency is mostly waiting in line.
    """
    batches = Batches.of(metrics)
    refused = int(sum(sample.value for metric in metrics.dead_letters.collect() for sample in metric.samples))
    duplicates = "1 duplicate" if tally.duplicates == 1 else f"{tally.duplicates:,} duplicates"
    right = f"{tally.answered - tally.wrong:,} equal a direct run ({digits.checked_by})"
    latency = f"p50 {tally.latency_ms(0.5):.1f} ms · p99 {tally.latency_ms(0.99):.1f} ms"
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("requests", f"{tally.published:,} handwritten digits through {stage.where}")
    table.add_row(
        "answers", f"{tally.answered:,} · {tally.missing:,} missing · {duplicates} · {refused:,} dead letters"
    )
    table.add_row("right", f"{right} · {tally.wrong:,} wrong")
    table.add_row("accuracy", f"{tally.accuracy:.1%} true labels · direct run {digits.accuracy(tally.published):.1%}")
    table.add_row("throughput", f"{tally.rate:,.0f} requests a second")
    table.add_row("latency", latency + (", mostly waiting in line" if is_bounded else ""))
    table.add_row("batches", f"{batches.count:,} · {batches.mean_rows:.1f} rows on average · largest {batches.largest}")
    table.add_row("engine", f"{engine_name(engine)} · {lanes} lanes")
    console.print(table)
    if tally.is_perfect:
        console.print(Text("✓", "bold green"), "every answer came, once, and right")
    else:
        console.print(Text("✗", "bold red"), "not every answer came, once, and right")
    if tally.first_fault:
        console.print(f"  first fault: {tally.first_fault}", markup=False, highlight=False)


def say_how_to_go_on(console: Console) -> None:
    """The commands that come next."""
    console.print("\nHow to go on:", style="bold")
    for arguments, purpose in (
        ("demo --keep-running", "the live page, /metrics and /status while traffic goes on"),
        ("demo --bootstrap-servers localhost:9092", "the same on your own Kafka"),
        ("run --config config/worker.yaml", "the service, with your own model"),
        ("--help", "everything else"),
    ):
        console.print(f"  {command_name()} {arguments}", style="cyan", highlight=False, soft_wrap=True)
        console.print(f"      {purpose}", highlight=False, soft_wrap=True)


def engine_name(engine: Mapping[str, str]) -> str:
    """What runs the model, for people."""
    if engine.get("tensorrt"):
        return f"TensorRT {engine['tensorrt'].split()[-1]} on {engine.get('gpu', 'a GPU')}"
    return "ONNX Runtime on the CPU"


def command_name() -> str:
    """How this program is called from this shell and folder."""
    if shutil.which("trt-worker"):
        return "trt-worker"
    installed = Path(sys.executable).parent / "trt-worker"
    if not installed.exists():
        return f"{Path(sys.executable).name} -m worker"
    return str(installed.relative_to(Path.cwd())) if installed.is_relative_to(Path.cwd()) else str(installed)
