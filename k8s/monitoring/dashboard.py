#!/usr/bin/env python
"""Writes dashboard.json, the Grafana dashboard, from panels.yaml: `python k8s/monitoring/dashboard.py`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
COLUMNS = 24
SIZES = {"row": (COLUMNS, 1), "number": (4, 4)}  # width, height
SIZE = (8, 7)  # of the other kinds
COLORS = ("green", "orange", "red")

Json = dict[str, Any]


def promql(text: str) -> str:
    """A query as Grafana sends it, but for the values of the variables."""

    def metric(match: re.Match[str]) -> str:
        return f"trt_worker_{match[1]}{{{', '.join(filter(None, [CHOSEN, match[2]]))}}}"

    return re.sub(r"@(\w+)(?:\{(.*?)\})?", metric, text).replace("[r]", "[$__rate_interval]")


def graph(panel: Json, *, is_stacked: bool = False) -> Json:
    """Over time; everything here begins at zero."""
    drawn: Json = {"fillOpacity": 40 if is_stacked else 8, "lineWidth": 1, "showPoints": "never"}
    if is_stacked:
        drawn["stacking"] = {"mode": "normal", "group": "A"}
    return {
        "type": "timeseries",
        "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0, "custom": drawn}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def number(panel: Json) -> Json:
    """The present value, large."""
    steps = [
        {"color": color, "value": limit} for color, limit in zip(COLORS, [None, *panel.get("limits", ())], strict=False)
    ]
    defaults = {"unit": panel["unit"], "noValue": "–", "thresholds": {"mode": "absolute", "steps": steps}}
    return {
        "type": "stat",
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "textMode": "value"},
    }


def heatmap(panel: Json) -> Json:
    """How many observations fell into each bucket, over time."""
    return {
        "type": "heatmap",
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {
            "calculate": False,
            "yAxis": {"unit": panel["unit"]},
            "color": {"mode": "scheme", "scheme": "Oranges"},
        },
    }


def table(panel: Json) -> Json:
    """One line for each series, now."""
    columns: Sequence[str] = panel["columns"]
    order = {
        "indexByName": {name: place for place, name in enumerate(columns)},
        "renameByName": {name: name.replace("_", " ").replace("Value", "seconds") for name in columns},
    }
    return {
        "type": "table",
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {"showHeader": True},
        "transformations": [
            {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
            {"id": "organize", "options": order},
        ],
    }


KINDS = {
    "graph": graph,
    "stacked": lambda panel: graph(panel, is_stacked=True),
    "number": number,
    "heatmap": heatmap,
    "table": table,
}


def target(ref_id: str, legend: str, query: str, kind: str) -> Json:
    """One query of a panel."""
    answer: Json = {"range": True}
    if kind == "table":
        answer = {"format": "table", "instant": True, "range": False}
    elif kind == "heatmap":
        answer = {"format": "heatmap", "range": True}
    return {"refId": ref_id, "datasource": DATA_SOURCE, "expr": promql(query), "legendFormat": legend, **answer}


def panels(rows: Mapping[str, Sequence[Json]]) -> Iterator[Json]:
    """All rows with their panels, placed left to right."""
    x = y = height = number_of = 0
    for row, members in rows.items():
        heading = {"title": row, "kind": "row"}
        for panel in (heading, *members):
            kind = panel.get("kind", "graph")
            width = panel.get("width", SIZES.get(kind, SIZE)[0])
            if x + width > COLUMNS:
                x, y = 0, y + height
            height = SIZES.get(kind, SIZE)[1]
            number_of += 1
            place = {"x": x, "y": y, "w": width, "h": height}
            placed = {"id": number_of, "title": panel["title"], "gridPos": place}
            x += width
            if kind == "row":
                yield {**placed, "type": "row", "collapsed": False, "panels": []}
                continue
            yield {
                **placed,
                "description": panel["text"],
                "datasource": DATA_SOURCE,
                **KINDS[kind](panel),
                "targets": [
                    target(ref_id, legend, query, kind)
                    for ref_id, (legend, query) in zip("ABCDEFGH", panel["queries"].items(), strict=False)
                ],
            }


def variables() -> Iterator[Json]:
    """The data source, then what narrows the choice; a label that is nowhere (namespace) hides nothing."""
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}
    narrowing: list[str] = []
    for name, label, anything in (("namespace", "Namespace", ".*"), ("job", "Job", ".+"), ("instance", "Worker", ".+")):
        query = f"label_values(trt_worker_ready{{{', '.join(narrowing)}}}, {name})".replace("{}", "")
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": DATA_SOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,  # when the time range changes
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": anything,
            "current": {"text": ["All"], "value": ["$__all"]},
        }
        narrowing.append(f'{name}=~"${name}"')


def dashboard() -> Json:
    """The whole dashboard."""
    rows = yaml.safe_load((HERE / "panels.yaml").read_text(encoding="utf-8"))
    return {
        "title": "TensorRT Kafka worker",
        "description": "One or many trt-worker processes: traffic, latency, batches, GPU, Kafka and errors.",
        "tags": ["kafka", "tensorrt"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,  # the crosshair is shared
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": []},
        "templating": {"list": list(variables())},
        "panels": list(panels(rows)),
    }


def text() -> str:
    """What dashboard.json holds."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (HERE / "dashboard.json").write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{HERE / 'dashboard.json'}\n")
