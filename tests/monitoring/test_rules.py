"""The alerts: accepted by promtool, firing and silent as told, each with its section in the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring import prometheus_server
from tests.monitoring.dashboard_file import ALERTS, ROOT, metrics_in, write_rules
from tests.test_metrics import DOCUMENTED

SCENARIOS = Path(__file__).with_name("alerts.yaml")
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
NAMES = [rule["alert"] for rule in ALERTS]


def promtool(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    prometheus_server.require()
    return subprocess.run(
        ["promtool", *arguments], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )


def run_scenarios(directory: Path) -> subprocess.CompletedProcess[str]:
    shutil.copy(SCENARIOS, directory)
    return promtool(directory, "test", "rules", SCENARIOS.name)


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    checked = promtool(tmp_path, "check", "rules", "--lint-fatal", write_rules(tmp_path).name)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_alerts_fire_and_stay_silent_as_told(tmp_path: Path) -> None:
    """Each scenario names all alerts that fire at a time, so it tells of the silent ones, too."""
    write_rules(tmp_path)
    tested = run_scenarios(tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_is_told_to_fire(name: str, tmp_path: Path) -> None:
    """Without it, the scenarios fail."""
    rules = write_rules(tmp_path)
    content: dict[str, Any] = yaml.safe_load(rules.read_text(encoding="utf-8"))
    for group in content["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule["alert"] != name]
    rules.write_text(yaml.safe_dump(content), encoding="utf-8")
    tested = run_scenarios(tmp_path)
    assert tested.returncode != 0
    assert name in tested.stdout + tested.stderr


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_alerts_say_what_to_do(rule: dict[str, Any]) -> None:
    """A severity, words for people, and the runbook's section."""
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_alerts_and_runbook_know_each_other() -> None:
    sections = re.findall(r"^### (TrtWorker\w+)$", RUNBOOK, re.MULTILINE)
    assert sorted(sections) == sorted(NAMES)


@pytest.mark.parametrize(
    "text", [*(rule["expr"] for rule in ALERTS), *re.findall(r"`([^`]*trt_worker_[^`]*)`", RUNBOOK)]
)
def test_rules_and_runbook_name_metrics_that_exist(text: str) -> None:
    assert metrics_in(text) <= {f"trt_worker_{name}" for name in DOCUMENTED}
