"""What the commands share: options, the broker, where results go."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import contestants, machine, models
from bench.contestants import Subject
from bench.requests import Requests
from bench.scenario import SCENARIOS, Scenario
from tests import kafka_jars
from tests.kafka_server import BENCH_JVM, KafkaCluster
from worker.config import ENV_PREFIX

RESULTS = Path(__file__).parent / "results"
PROPERTIES = {  # space of what was measured is soon free again; a new share group starts at once
    "log.retention.check.interval.ms": "5000",
    "log.segment.delete.delay.ms": "1000",
    "group.share.min.session.timeout.ms": "6000",
}


def console() -> Console:
    """As wide as the tables are where nobody looks."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def parser(module: str, text: str | None) -> argparse.ArgumentParser:
    """Options of every command."""
    made = argparse.ArgumentParser(prog=f"python -m bench.{module}", description=text)
    made.add_argument("--minutes", type=float, help="start no cycle that would not end in this time")
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    made.add_argument("--label", default="", help="part of the file's name, for a variant (another machine, a GPU)")
    made.add_argument("--onnx", type=Path, help="the model's file, where the bench is not to write it")
    made.add_argument("--engines", type=Path, help="engine repository: the worker runs on the GPU")
    made.add_argument("--partitions", type=int, help="instead of the scenario's")
    made.add_argument("--records", type=int, help="instead of the scenario's")
    return made


def contestant(name: str) -> str:
    """An argument that names a contestant."""
    if not contestants.is_known(name):
        raise argparse.ArgumentTypeError(f"{name!r} is none of those in bench/contestants.py")
    return name


def scenario(options: argparse.Namespace, name: str) -> Scenario:
    """With what the command line changes."""
    changed = SCENARIOS[name].with_records(options.records)
    return changed if options.partitions is None else changed.over(options.partitions)


def subject(options: argparse.Namespace, wanted: Scenario, scratch: Path, **settings: Mapping[str, Any]) -> Subject:
    """With the model's file, given or written."""
    path = options.onnx or models.write(wanted, scratch / f"{wanted.name}.onnx")
    is_answer_known = wanted.model != "pass-through"
    size = Requests(wanted, path).answer_bytes if is_answer_known else wanted.payload_bytes + 120
    return Subject(wanted, path, size, options.engines, settings)


@contextmanager
def broker(console: Console, properties: Mapping[str, str] | None = None) -> Iterator[tuple[KafkaCluster, Path]]:
    """Real Kafka, and a folder for what is needed meanwhile."""
    if (reason := kafka_jars.missing()) is not None:
        console.print(f"cannot measure: {reason}")
        raise SystemExit(2)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        with console.status("starting Kafka"):
            cluster = KafkaCluster(scratch / "kafka", properties={**PROPERTIES, **(properties or {})}, jvm=BENCH_JVM)
            stack.enter_context(cluster)
        yield cluster, scratch


def keep(options: argparse.Namespace, kind: str, name: str, content: Mapping[str, Any]) -> Path:
    """Write what was measured so far, with where, when and how; the file's path."""
    document = {
        "kind": kind,
        "label": options.label,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": f"python -m bench.{kind} {shlex.join(map(_without_folder, sys.argv[1:]))}",
        "machine": machine.facts(),
        "settings": {
            key: _without_folder(value) for key, value in sorted(os.environ.items()) if key.startswith(ENV_PREFIX)
        },
        **content,
    }
    label = f"-{options.label}" if options.label else ""
    path: Path = options.results / f"{kind}-{name}{label}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    aside.replace(path)
    return path


def _without_folder(argument: str) -> str:
    """Where things lie on one machine is of no use to others."""
    return Path(argument).name if argument.startswith("/") else argument
