#!/usr/bin/env python
"""Writes docs/settings.md and docs/metrics.md from the code: `python docs/generate.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, without an installed package

from worker.config import ENV_PREFIX, schema
from worker.errors import ErrorCode
from worker.metrics import Histogram, Metrics
from worker.sections import RESERVED_CLIENT_KEYS

DOCS = Path(__file__).resolve().parent
MADE_BY = "<!-- Made from the code by `python docs/generate.py`; do not edit. -->"

SETTINGS_INTRO = f"""\
# Settings

`trt-worker run --config FILE` reads one YAML file. Unknown keys are refused, everything is checked before anything
starts, and every fault is told with its key, its value and the remedy.

- `trt-worker config check FILE` checks without starting; exit code 2 if something is wrong.
- `trt-worker config show FILE` prints the effective values, environment included, secrets hidden.
- `trt-worker config schema` prints the JSON schema.

**Environment.** Every setting is also a variable, `{ENV_PREFIX}SECTION__KEY`, and it wins over the file. Lists and
mappings are JSON: `{ENV_PREFIX}ENGINE__CUDA_GRAPHS='[8, 64]'`. In `kafka.client`, `kafka.consumer` and `kafka.producer`
the key may be part of the name, underscores for dots: `{ENV_PREFIX}KAFKA__CLIENT__SASL_PASSWORD` is `sasl.password`.

**Secrets.** A value of these three sections can be in a file: `sasl.password: {{file: /run/secrets/kafka/password}}`,
or `{ENV_PREFIX}KAFKA__CLIENT__SASL_PASSWORD__FILE=/run/secrets/kafka/password` ([security](security.md#secrets)).

**Topics.** `input_topic: a` is short for `input_topics: [a]`; give one of the two. A name that starts with `^` is a
regular expression.

**librdkafka.** `kafka.client` goes to consumer and producer, `kafka.consumer` and `kafka.producer` to one of them. They
override the worker's own choices, which are listed under [librdkafka keys](tuning.md#librdkafka-keys). Five keys are
refused, because the worker sets them: {", ".join(f"`{key}`" for key in RESERVED_CLIENT_KEYS)}.
"""

METRICS_INTRO = """\
# Metrics

`GET /metrics` on the HTTP port (`http.port`, 9090) answers in Prometheus' text format. All names start with
`trt_worker_`, all units are base units. Histograms have `_bucket`, `_sum` and `_count` series, so percentiles can be
added up over workers.

"""

METRICS_OUTRO = f"""
## Label values

| label | values |
|---|---|
| `bucket` | rows of the batch, rounded up to a power of two |
| `client` | `consumer`, `producer` |
| `code` | {", ".join(f"`{code}`" for code in get_args(ErrorCode))} |
| `fit` | how well the [plan](engines.md) fits the GPU: `exact`, `same_compute_capability`, `hardware_compatible`, \
`version_compatible`; on the CPU: `cpu` (so `engine.backend` says), `cpu_fallback` (`auto` found no TensorRT) |
| `kind` | `assign`, `revoke`, `lost` |
| `outcome` | commits: `ok`, `failed`; transactions: `committed`, `aborted`, `fenced` |
| `reason` | `batch_failed` (it runs again in halves), `producer_full` (the producer's memory is used up) |
| `stage` | below |

| stage | from … to … |
|---|---|
| `wait` | the oldest record of a batch is taken in … the batch leaves for its lane |
| `decode` | what one look at Kafka brought: parsed and validated |
| `gather` | the same requests copied into their lanes |
| `h2d` | a batch's inputs, host to device |
| `compute` | the model, one batch |
| `d2h` | a batch's outputs, device to host |
| `encode` | outputs of a batch cut, encoded and handed to delivery |
| `publish` | one turn of delivery: messages to the producer, acknowledgements, commits |

On a GPU, `h2d`, `compute` and `d2h` are measured on one batch of a lane every quarter of a second, because measuring
costs time itself. On the CPU backend `h2d` and `d2h` stay empty, `gpu_busy_ratio` tells of ONNX Runtime, and
`engine_info` has `gpu="cpu"` and the first digits of the ONNX file's sha256 as `plan`. `consumer_lag`,
`backlog_seconds`, `gpu_busy_ratio` and the figures of the Kafka clients are renewed every two seconds. `dead_letters`
counts every record that was refused, wherever `delivery.errors_to` sends the error. The consumer's `kafka_rtt_seconds`
holds the wait for new records, up to `fetch.wait.max.ms`. Members of a share group (`delivery.mode: queue`) know no
lag: there `consumer_lag` is absent and `backlog_seconds` stays 0. `backlog_seconds` is 0 for the first ten seconds of a
lag, too, because until then the rate is that of a worker with nothing to do; and a worker that settles less than a
record a second is taken to settle one.

The [dashboard](../k8s/monitoring/dashboard.json) for Grafana and the [alert rules](../k8s/monitoring/rules.yaml), which
the [runbook](runbook.md) explains, are made of these metrics.

## Questions and their queries

| question | PromQL |
|---|---|
"""

QUERIES = (
    ("answers a second", "sum(rate(trt_worker_results_published_total[1m]))"),
    (
        "p99 from the record's timestamp to the acknowledged answer",
        "histogram_quantile(0.99, sum by (le) (rate(trt_worker_end_to_end_seconds_bucket[5m])))",
    ),
    (
        "mean seconds of a stage",
        (
            "sum by (stage) (rate(trt_worker_stage_seconds_sum[5m]))"
            " / sum by (stage) (rate(trt_worker_stage_seconds_count[5m]))"
        ),
    ),
    (
        "mean rows of a batch",
        "sum(rate(trt_worker_batch_rows_sum[5m])) / sum(rate(trt_worker_batch_rows_count[5m]))",
    ),
    ("lag of the group", "sum(trt_worker_consumer_lag)"),
    ("refused records a second, by reason", "sum by (code) (rate(trt_worker_dead_letters_total[5m]))"),
    (
        "lag, and no progress",
        "sum(trt_worker_consumer_lag) > 0 and sum(rate(trt_worker_results_published_total[5m])) == 0",
    ),
)


def settings_page() -> str:
    """docs/settings.md."""
    whole = schema()
    parts = [MADE_BY, "", SETTINGS_INTRO]
    for section, content in whole["properties"].items():
        definition = _resolved(content, whole)
        parts += [f"## `{section}`", "", definition["description"], "", *_table(section, definition, whole), ""]
        for key, nested in _nested(definition, whole):
            parts += [f"### `{section}.{key}.<input>`", "", nested["description"], ""]
            parts += [*_table(f"{section}.{key}.<input>", nested, whole), ""]
    return "\n".join(parts)


class Exported(NamedTuple):
    """A metric as /metrics shows it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def exported() -> list[Exported]:
    """Every metric of the service, in the code's order."""
    found = []
    for metric in vars(Metrics()).values():
        for family in metric.collect() if hasattr(metric, "describe") or isinstance(metric, Histogram) else ():
            labels: tuple[str, ...]
            if isinstance(metric, Histogram):
                labels = (metric._label,) if metric._label else ()  # noqa: SLF001  # nothing else tells the labels
            else:
                labels = tuple(metric._labelnames)  # noqa: SLF001  # the client library has no public way
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found.append(Exported(name, family.type, labels, family.documentation))
    return found


def metrics_page() -> str:
    """docs/metrics.md."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.text} |"
        for metric in exported()
    ]
    table = "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows])
    queries = "".join(f"| {question} | `{query}` |\n" for question, query in QUERIES)
    return f"{MADE_BY}\n\n{METRICS_INTRO}{table}\n{METRICS_OUTRO}{queries}"


PAGES = {"settings.md": settings_page, "metrics.md": metrics_page}


def _table(prefix: str, definition: Mapping[str, Any], whole: Mapping[str, Any]) -> list[str]:
    required = set(definition.get("required", ()))
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, content in definition["properties"].items():
        default = "required" if key in required else _default(content.get("default"))
        names = f"`{key}`"
        if "<" not in prefix:  # the name of an input would stand in the variable's name
            names += f"<br>`{ENV_PREFIX}{prefix.upper()}__{key.upper()}`"
        lines.append(f"| {names} | {_kind(content, whole)} | {default} | {content['description']} |")
    return lines


def _nested(definition: Mapping[str, Any], whole: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key, content in definition["properties"].items():
        values = content.get("additionalProperties")
        if isinstance(values, dict) and "$ref" in values:
            yield key, _resolved(values, whole)


def _resolved(content: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = whole["$defs"][content["$ref"].rpartition("/")[2]] if "$ref" in content else content
    return found


def _kind(content: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """A JSON schema's type in words."""
    if "enum" in content:
        return ", ".join(f"`{value}`" for value in content["enum"])
    if "anyOf" in content:
        return " or ".join(_kind(each, whole) for each in content["anyOf"] if each.get("type") != "null")
    match content.get("type"):
        case "array":
            return f"list of {_kind(content['items'], whole)}"
        case "object":
            values = content["additionalProperties"]
            return "mapping" if "$ref" in values else "mapping of librdkafka keys"
        case "string":
            return "path" if content.get("format") == "path" else "text"
        case "boolean":
            return "`true`, `false`"
        case kind:
            return f"{kind}{_limits(content)}"


def _limits(content: Mapping[str, Any]) -> str:
    low, high = content.get("minimum"), content.get("maximum")
    if "exclusiveMinimum" in content:
        return f" > {content['exclusiveMinimum']:g}"
    if low is None:
        return ""
    return f" ≥ {low:g}" if high is None else f", {low:g} to {high:,}".replace(",0", ",0")


def _default(value: Any) -> str:
    if value is None or value == {}:
        return "–"
    if isinstance(value, bool | int | float):
        return f"`{json.dumps(value)}`"
    return f"`{value}`"


def main() -> None:
    """Write both pages."""
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
        sys.stdout.write(f"{DOCS / name}\n")


if __name__ == "__main__":
    main()
