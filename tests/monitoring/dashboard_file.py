"""The dashboard and the rules as Grafana and Prometheus get them."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "k8s" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))["spec"]
ALERTS: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]


class Query(NamedTuple):
    """One query of a panel."""

    panel: str
    legend: str
    text: str


def queries() -> list[Query]:
    """Every query of every panel."""
    return [
        Query(panel["title"], target["legendFormat"], target["expr"])
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    ]


def variables() -> dict[str, Any]:
    """The dashboard's variables, by name."""
    return {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


def filled_in(text: str, values: Mapping[str, str]) -> str:
    """A query as Grafana sends it."""
    for name, value in sorted(values.items(), key=lambda each: -len(each[0])):
        text = text.replace(f"${name}", value)
    assert "$" not in text, f"a variable is left in {text}"
    return text


def metrics_in(text: str) -> set[str]:
    """The worker's metrics that a query names, as the code names them (histograms without their endings)."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"trt_worker_\w+", text)}


def write_rules(directory: Path) -> Path:
    """The rules as a plain file for promtool and Prometheus."""
    path = directory / "rules.yaml"
    path.write_text(yaml.safe_dump(RULES), encoding="utf-8")
    return path


def script(path: Path) -> ModuleType:
    """A script of the project, imported."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
