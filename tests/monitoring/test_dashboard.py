"""The dashboard's file: as its panels say, importable anywhere, and complete."""

from __future__ import annotations

import pytest

from tests.monitoring.dashboard_file import DASHBOARD, FOLDER, ROOT, Query, metrics_in, queries, script, variables
from tests.test_metrics import DOCUMENTED

# metric -> why no panel shows it
LEFT_OUT: dict[str, str] = {}
EVERY = {f"trt_worker_{name}" for name in DOCUMENTED}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_the_file_is_made_of_the_panels() -> None:
    """After a change of panels.yaml: python k8s/monitoring/dashboard.py."""
    assert (FOLDER / "dashboard.json").read_text(encoding="utf-8") == script(FOLDER / "dashboard.py").text()


def test_every_metric_of_the_code_is_shown_or_left_out_on_purpose() -> None:
    """And no query names one that does not exist. DOCUMENTED is held against the code by tests/test_metrics.py."""
    shown = {name for query in queries() for name in metrics_in(query.text)}
    assert shown | set(LEFT_OUT) == EVERY
    assert not shown & set(LEFT_OUT)


def test_every_metric_of_the_code_is_documented() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert [name for name in EVERY if f"`{name}`" not in page] == []


def test_rows_are_the_ones_that_people_look_for() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency by stage", "Batching", "GPU", "Kafka", "Errors"]


def test_it_can_be_imported_anywhere() -> None:
    """The data source is a variable; nothing of the Grafana that it was made for."""
    assert "__inputs" not in DASHBOARD
    assert "uid" not in DASHBOARD
    assert variables()["datasource"]["type"] == "datasource"
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in PANELS:
        assert panel["datasource"] == chosen
        assert all(target["datasource"] == chosen for target in panel["targets"])
    assert all(each["datasource"] == chosen for each in variables().values() if each["type"] == "query")


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_panels_explain_themselves(panel: dict[str, object]) -> None:
    description = panel["description"]
    assert isinstance(description, str)
    assert description.endswith(".")


@pytest.mark.parametrize("query", queries(), ids=[f"{query.panel}: {query.legend}" for query in queries()])
def test_queries_follow_the_variables(query: Query) -> None:
    """Every selector is narrowed by all of them; rates are over Grafana's own interval; percentiles add up workers."""
    selectors = query.text.count("trt_worker_")
    assert query.text.count('namespace=~"$namespace", job=~"$job", instance=~"$instance"') == selectors
    assert query.text.count("[") == query.text.count("[$__rate_interval]")
    if "histogram_quantile" in query.text:
        assert "sum by (le" in query.text


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
