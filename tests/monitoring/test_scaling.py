"""What KEDA asks Prometheus: the right figure, and never more workers than there are partitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.dashboard_file import ROOT, metrics_in
from tests.monitoring.test_rules import promtool
from tests.test_metrics import DOCUMENTED

SCENARIOS = Path(__file__).with_name("scaling.yaml")
SCALED = ROOT / "k8s" / "components" / "autoscaling" / "scaled-object.yaml"


@pytest.fixture
def trigger() -> dict[str, Any]:
    """The metadata of the trigger that asks Prometheus."""
    triggers = yaml.safe_load(SCALED.read_text(encoding="utf-8"))["spec"]["triggers"]
    (found,) = (each["metadata"] for each in triggers if each["type"] == "prometheus")
    assert isinstance(found, dict)
    return found


def test_the_query_answers_as_told(trigger: dict[str, Any], tmp_path: Path) -> None:
    content = yaml.safe_load(SCENARIOS.read_text(encoding="utf-8"))
    for scenario in content["tests"]:
        for asked in scenario["promql_expr_test"]:
            assert asked["expr"] == "QUERY"
            asked["expr"] = trigger["query"]
    (tmp_path / "scaling.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    tested = promtool(tmp_path, "test", "rules", "scaling.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_limit_of_the_query_is_a_worker_for_each_partition(trigger: dict[str, Any]) -> None:
    """KEDA divides the answer by the threshold; scenarios alone would not see it change."""
    assert f"{trigger['threshold']} * scalar(sum(trt_worker_partitions_assigned" in trigger["query"]


def test_the_query_names_metrics_that_exist(trigger: dict[str, Any]) -> None:
    assert metrics_in(trigger["query"]) <= {f"trt_worker_{name}" for name in DOCUMENTED}
