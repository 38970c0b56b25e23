"""What README and docs/ name is there: settings, metrics, links, files, commands, keys; generated pages are fresh."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel
from typer.core import TyperCommand, TyperGroup

from docs import generate
from tests.pages import OPERATING, PAGES, README, ROOT, SETTINGS_FILE, TUNING, blocks, named, prose, section, text
from worker import config
from worker.commands.app import app
from worker.errors import FatalError
from worker.kafka import group_client, producer
from worker.metrics import Metrics
from worker.sections import RESERVED_CLIENT_KEYS

MADE_LATER = {"bench/results/throughput.json"}  # by the command beside which it is named
SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in config.Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


# Pages made from the code.


@pytest.mark.parametrize("name", sorted(generate.PAGES))
def test_a_generated_page_is_up_to_date(name: str) -> None:
    """Settings and metrics are documented from the code itself."""
    made = generate.PAGES[name]()
    assert text(ROOT / "docs" / name) == made, f"docs/{name} is not what the code says: python docs/generate.py"


def test_every_setting_and_metric_is_on_its_page() -> None:
    """The generator leaves nothing out: names are taken from the types themselves here."""
    settings = text(ROOT / "docs" / "settings.md")
    assert set(SECTIONS) == set(config.Settings.model_fields)
    for name, model in SECTIONS.items():
        for key in model.model_fields:
            assert f"`{config.ENV_PREFIX}{name}__{key}`".upper() in settings
    scraped = set(re.findall(r"^# TYPE (\S+)", Metrics().expose().decode(), re.MULTILINE))
    metrics = text(ROOT / "docs" / "metrics.md")
    assert scraped
    assert all(f"`{name}`" in metrics for name in scraped)


def test_every_variable_on_the_page_sets_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting is also an environment variable, lists and mappings in JSON, and it wins over the file."""
    given: dict[str, dict[str, Any]] = {
        "model": {"name": "n", "version": "2", "onnx": "m.onnx"},
        "engine": {"backend": "cpu", "repository": "r", "device": "GPU-1", "build_if_missing": True, "lanes": 2}
        | {"allow_host_code": True, "cuda_graphs": [8, 64], "intake_processes": 2, "lane_timeout_s": 9.5},
        "kafka": {"bootstrap_servers": "b:1", "group_id": "g", "input_topics": ["i", "j"], "output_topic": "o"}
        | {"dead_letter_topic": "d", "result_timestamp": "now", "startup_timeout_s": 1.5}
        | {"client": {"sasl.username": "u"}, "consumer": {"fetch.wait.max.ms": 7}, "producer": {"linger.ms": 3}},
        "batching": {"max_rows": 8, "max_delay_ms": 1.5, "max_bytes": 2048, "pad": {"X": {"axis": 2, "buckets": [4]}}},
        "delivery": {"mode": "queue", "commit_interval_ms": 20, "max_in_flight_batches": 3, "drain_timeout_s": 2.5}
        | {"transactional_id": "t", "max_attempts": 4, "errors_to": "output"},
        "limits": {"max_request_bytes": 100, "max_rows_per_request": 5, "request_ttl_ms": 6, "max_rank": 7}
        | {"max_list_numbers": 8},
        "http": {"host": "::1", "port": 1, "stalled_after_s": 2.5},
        "logging": {"level": "debug", "format": "text"},
    }
    assert {name: set(values) for name, values in given.items()} == {
        name: set(model.model_fields) for name, model in SECTIONS.items()
    }
    expected = config.Settings.model_validate(given)
    for name, values in given.items():
        for key, value in values.items():
            plain = value if isinstance(value, str) else json.dumps(value)
            monkeypatch.setenv(f"{config.ENV_PREFIX}{name}__{key}".upper(), plain)
    assert config.load(None) == expected


def test_a_dotted_key_can_be_part_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/settings.md: underscores for dots in the librdkafka sections."""
    monkeypatch.setenv(f"{config.ENV_PREFIX}KAFKA__CLIENT__SASL_PASSWORD", "secret")
    assert config.load(SETTINGS_FILE).kafka.client == {"sasl.password": "secret"}


# Names, links and commands.


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_files_exist(page: Path) -> None:
    """Every relative link leads to a file and a heading, every file that is named in passing is there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file) if file else page
        assert linked.exists(), f"{named(page)} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{named(page)} links to {target}; there are {sorted(anchors(linked))}"
    for path in re.findall(r"\b((?:worker|tests|docs|bench|config)/[\w./-]*\w)", text(page)):
        assert path in MADE_LATER or (ROOT / path).exists(), f"{named(page)} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_named_settings_and_metrics_exist(page: Path) -> None:
    """`section.key` is a setting, trt_worker_… a metric, TRT_WORKER__… a variable."""
    client_keys = "|".join(map(re.escape, RESERVED_CLIENT_KEYS))
    for name, key in re.findall(rf"`(?!(?:{client_keys})`)({'|'.join(SECTIONS)})\.(\w+)\b", prose(page)):
        is_file = f"{name}.{key}" == "model.plan"
        assert is_file or key in SECTIONS[name].model_fields, f"{named(page)} names {name}.{key}"
    metrics = {metric.name: metric.kind for metric in generate.exported()}
    for name in re.findall(r"\btrt_worker_\w+", text(page)):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        is_known = name in metrics or metrics.get(base) == "histogram" or name == "trt_worker_"
        assert is_known, f"{named(page)} names {name}"
    for name, key in re.findall(rf"{config.ENV_PREFIX}([A-Z]+)__([A-Z_]+?)(?:__\w+)?\b", text(page)):
        is_short = f"{name}__{key}" == "KAFKA__INPUT_TOPIC"  # for input_topics
        is_known = name == "SECTION" or is_short or key.lower() in SECTIONS[name.lower()].model_fields
        assert is_known, f"{named(page)} names {name}__{key}"


def commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    """Every command of the command line, with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        else:
            assert isinstance(command, TyperCommand)
            yield (*path, name), command


def all_commands() -> dict[tuple[str, ...], TyperCommand]:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return dict(commands(root))


def test_the_table_of_commands_is_the_command_line() -> None:
    """README lists every command there is, and none that is not."""
    table = re.findall(r"^\| `trt-worker ([a-z ]+)` \|", text(README), re.MULTILINE)
    assert {tuple(row.split()) for row in table} == set(all_commands())


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_command_lines_can_be_typed_as_they_stand(page: Path) -> None:
    """Every `trt-worker …` of a shell block is parsed by the command it calls, options and all."""
    known = all_commands()
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("trt-worker ")]
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        path = next((tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in known), None)
        assert path is not None, f"{named(page)}: {line}"
        known[path].make_context("trt-worker", words[len(path) :])
    for name in re.findall(r"`trt-worker ([a-z]+)(?: [a-z]+)?", prose(page)):
        assert name in {words[0] for words in known}, f"{named(page)}: trt-worker {name}"


def test_make_targets_exist() -> None:
    """`make x` anywhere is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", text(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:`|^)make ([a-z]+)", text(page), re.MULTILINE):
            assert target in targets, f"{named(page)}: make {target}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_settings_examples_load(page: Path, tmp_path: Path) -> None:
    """Every YAML block is a settings file that `run` would take."""
    for block in blocks(page, "yaml"):
        file = tmp_path / "settings.yaml"
        file.write_text(block, encoding="utf-8")
        config.load(file)


def test_the_shipped_settings_load() -> None:
    """config/worker.yaml is right as it stands, and its model is there."""
    settings = config.load(SETTINGS_FILE)
    assert settings.model.onnx is not None
    assert (ROOT / settings.model.onnx).is_file()


def test_the_table_of_librdkafka_keys_is_the_code() -> None:
    """docs/tuning.md lists the worker's own choices with their values."""
    rows = re.findall(r"^\| `([a-z.]+)` \| `?([^|`]+?)`? \|", section(TUNING, "librdkafka keys"), re.MULTILINE)
    assert {key: yaml.safe_load(value) for key, value in rows} == {**group_client.DEFAULTS, **producer.DEFAULTS}


def test_the_exit_codes_are_those_of_the_errors() -> None:
    """docs/operating.md and README name every code that an error of ours ends the process with."""
    listed = {int(code) for code in re.findall(r"^\| (\d) \|", section(OPERATING, "Exit codes"), re.MULTILINE)}
    kinds: list[type[FatalError]] = [FatalError, *FatalError.__subclasses__()]
    assert listed == {0, *(kind.exit_code for kind in kinds)}
    in_readme = re.search(r"Exit codes: (.*?);", text(README), re.DOTALL)
    assert in_readme is not None
    assert {int(code) for code in re.findall(r"\d", in_readme[1])} == listed - {FatalError.exit_code}
