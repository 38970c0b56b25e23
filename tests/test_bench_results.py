"""What the docs promise of the delivery modes' throughput, held against the figures that are measured and kept."""

from __future__ import annotations

from typing import Any

import pytest

from bench import page
from bench.contestants import OTHERS
from tests.pages import ROOT, section

LEAST = {"": 0.75, "16-cores": 0.8, "h100-intake": 0.8}  # label of a machine -> of at_least_once, in the same run
LABELS = ["", "16-cores"]  # of machines without a GPU; the broker shares the first one's two cores
MODES = {"worker": "at_least_once", "worker-eos": "exactly_once", "worker-queue": "queue"}


def found(kind: str, label: str, scenario: str = "") -> Any:
    """The one document of this kind."""
    (only,) = [
        each
        for each in page.load()
        if (each["kind"], each["label"], each.get("scenario", {}).get("name", "")) == (kind, label, scenario)
    ]
    return only


def medians(label: str) -> Any:
    """What docs/performance.md has of the pass-through model on a machine."""
    return found("throughput", label, "pass-through-0.6k")["medians"]


def faults(figures: Any) -> list[int]:
    """Of all rounds."""
    return [figures[fault] for fault in ("missing", "duplicates", "wrong", "uncommitted")]


@pytest.mark.parametrize(
    ("label", "scenario"),
    [
        *(("", f"pass-through-{size}") for size in ("0.6k", "16k", "150k", "600k")),
        ("16-cores", "pass-through-0.6k"),
        ("h100", "mlp-1"),
    ],
)
def test_one_process_keeps_up_with_the_raw_pass_through(label: str, scenario: str) -> None:
    """Of the same records, in the same run."""
    worker = found("throughput", label, scenario)["medians"]["worker"]
    assert worker["of_raw"] >= 0.9
    assert faults(worker) == [0] * 4


@pytest.mark.parametrize(("scenario", "least"), [("pass-through-0.6k", 1.3), ("mlp-1", 1.2)])
def test_the_worker_beats_what_one_would_run_in_its_place(scenario: str, least: float) -> None:
    by_name = {name: each["records_per_s"] for name, each in found("throughput", "", scenario)["medians"].items()}
    assert by_name["worker"] >= least * by_name["careful"]
    others = (by_name.keys() & OTHERS) - {"careful"}
    assert others >= {"batch-1", "quix"}
    for name in others:
        assert by_name["worker"] >= 2 * by_name[name], name


@pytest.mark.parametrize("rate", [500, 2000])
def test_an_answer_to_a_steady_flow_comes_soon(rate: int) -> None:
    """With max_delay_ms 2, by medians over the runs."""
    latency = found("latency", "", "pass-through-0.6k")
    (worker,) = [each for each in latency["medians"] if (each["contestant"], each["rate"]) == ("worker", rate)]
    assert latency["max_delay_ms"] == 2
    assert worker["p50_ms"] <= 5
    assert worker["p99_ms"] <= 12


@pytest.mark.parametrize("label", LABELS)
def test_exactly_once_reaches_most_of_at_least_once(label: str) -> None:
    """Medians over the rounds of one run, in which nothing was missing or doubled."""
    by_name = medians(label)
    assert by_name["worker-eos"]["records_per_s"] >= LEAST[label] * by_name["worker"]["records_per_s"]
    for name in by_name.keys() & MODES:
        assert faults(by_name[name]) == [0] * 4


@pytest.mark.parametrize("label", LABELS)
def test_the_page_on_delivery_modes_has_these_figures(label: str) -> None:
    """Rounded to hundreds."""
    told = section(ROOT / "docs" / "delivery-modes.md", "Exactly once")
    by_name = medians(label)
    for name in by_name.keys() & MODES:
        assert f"{round(by_name[name]['records_per_s'], -2):,}" in told, f"{MODES[name]}: {by_name[name]}"


@pytest.mark.parametrize(("model", "least"), [("resnet50", 0.95), ("bert_base", 0.95), ("mlp", 0.9)])
def test_the_lanes_reach_the_ideal_loop(model: str, least: float) -> None:
    """On a real GPU, without Kafka."""
    (lanes,) = [each for each in page.load() if each["kind"] == "lanes" and each["what"]["model"] == model]
    assert lanes["lanes_share_of_ideal"] >= least
    assert lanes["machine"]["driver"]
    assert lanes["what"]["command"]


def test_lanes_overlap() -> None:
    """Several beat one by a quarter; a batch comes in less time than its stages take."""
    (lanes,) = [each for each in page.load() if each["kind"] == "lanes" and each["what"]["model"] == "resnet50"]
    overlap = lanes["overlap"]
    assert overlap["gain_over_1_lane"] >= 0.25
    assert overlap[f"batch_us_{lanes['what']['lanes']}_lanes"] < 0.8 * overlap["sum_of_stages_us"]


def test_all_tests_passed_on_a_gpu() -> None:
    """On two, so that device 1 was there; nothing is skipped but what this TensorRT has no library for."""
    run = found("gpu_tests", "h100")
    assert (run["exit_code"], run["failure"], run["error"]) == (0, {}, {})
    assert len(run["gpus"]) == 2
    assert list(run["skipped"]) == ["test_engines_on_gpu::test_compatible_engines_run[version]"]
    assert "test_lanes_on_gpu::test_the_second_gpu_answers_while_the_first_is_current" in run["passed"]


def test_the_gpu_is_kept_busy_through_kafka() -> None:
    """BERT-base is bound by the model."""
    worker = found("throughput", "h100", "bert-base")["medians"]["worker"]
    assert worker["of_ideal"] >= 0.97


@pytest.mark.parametrize(
    ("label", "scenario", "rows_per_s"),
    [("h100", "mlp-256", 8_000_000), ("h100-intake", "mlp-1", 500_000), ("h100", "resnet50", 30_000)],
)
def test_eight_intake_processes_feed_a_gpu(label: str, scenario: str, rows_per_s: float) -> None:
    by_eight = found("throughput", label, scenario)["medians"]["worker-intake-8"]
    assert by_eight["rows_per_s"] >= rows_per_s
    assert faults(by_eight) == [0] * 4


def test_a_tuned_setting_meets_its_target_again() -> None:
    """On the demo's model and on a GPU; near the best of the sweep."""
    tuned = [each for each in page.load() if each["kind"] == "tune"]
    assert {each["model"].split()[0] for each in tuned} == {"bert_base", "digits"}
    for each in tuned:
        assert each["confirmed"]
        assert each["confirming"]["p99_ms"] <= each["target_p99_ms"]
        assert each["share_of_best"] >= 0.95


def test_exactly_once_costs_little_with_several_intake_processes() -> None:
    by_name = found("throughput", "h100-intake", "mlp-1")["medians"]
    least = LEAST["h100-intake"] * by_name["worker-intake-8"]["records_per_s"]
    assert by_name["worker-eos-intake-8"]["records_per_s"] >= least
    for name in ("worker-intake-8", "worker-eos-intake-8"):
        assert faults(by_name[name]) == [0] * 4


@pytest.mark.parametrize(("label", "scenario"), [("", "pass-through-0.6k"), ("h100", "mlp-1")])
def test_nothing_grows_in_half_an_hour(label: str, scenario: str) -> None:
    soak = found("soak", label, scenario)
    assert soak["minutes"] >= 30
    assert soak["grown"] == []
    assert (soak["held"][-1]["gpu_mib"] > 0) is (label == "h100")
    assert (soak["answers"]["missing"], soak["answers"]["duplicates"]) == (0, 0)


def test_the_cost_is_flat_over_partitions() -> None:
    """Records by their keys, without a fault."""
    variants = found("scaling", "")["variants"]
    by_key = [
        variants[name]["medians"]["worker"] for name in ("1 partition", *(f"{n} partitions" for n in (4, 16, 64)))
    ]
    costs = [each["cpu_us"] for each in by_key]
    assert max(costs) <= 1.2 * min(costs)
    assert [faults(each) for each in by_key] == [[0] * 4] * 4


def test_ten_times_the_lag_costs_no_more_than_it_costs_the_bound() -> None:
    """Without a fault; what the disk takes, it takes from `raw`, too."""
    variants = found("scaling", "lag")["variants"]
    few, many = (variants[name]["medians"] for name in ("4 partitions", "10x lag"))
    assert many["worker"]["records_per_s"] >= 0.9 * few["worker"]["records_per_s"]
    assert many["worker"]["of_raw"] >= few["worker"]["of_raw"]
    assert faults(many["worker"]) == [0] * 4
