"""JSON schemas for kubeconform: Kubernetes' own, and those of the custom resources of KEDA and prometheus-operator."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.deploy import go_tools

KUBERNETES = "v1.34.0"
CUSTOM_RESOURCES = (  # Go module, version, sum, folder, files of the kinds that are used
    (
        "github.com/kedacore/keda/v2",
        "v2.21.0",
        "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
        "config/crd/bases",
        ("keda.sh_scaledobjects.yaml", "keda.sh_triggerauthentications.yaml"),
    ),
    (
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd",
        ("monitoring.coreos.com_podmonitors.yaml", "monitoring.coreos.com_prometheusrules.yaml"),
    ),
)


def made() -> Path:
    """The folder of the schemas; made the first time."""
    sums = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    folder = go_tools.CACHE / f"schemas-{sums[:12]}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=go_tools.CACHE) as scratch:
            target = Path(scratch, "schemas")
            target.mkdir()
            kubernetes(target)
            custom_resources(target)
            with contextlib.suppress(OSError):  # another process was faster
                target.rename(folder)
    return folder


def kubernetes(target: Path) -> None:
    """Write the strict schemas of the Python package kubernetes-validate, such that they find each other as files."""
    package = importlib.util.find_spec("kubernetes_validate")
    assert package is not None
    assert package.submodule_search_locations is not None
    source = Path(package.submodule_search_locations[0]) / "kubernetes-json-schema" / f"{KUBERNETES}-local-strict"
    for file in source.glob("*.json"):
        text = file.read_text(encoding="utf-8").replace('"/api/_definitions.json', '"_definitions.json')
        schema = json.loads(text)
        schema.pop("$id", None)  # an address, which kubeconform would ask
        (target / file.name).write_text(json.dumps(schema), encoding="utf-8")


def custom_resources(target: Path) -> None:
    """Write a schema for each version of each custom resource, from the definitions that an operator installs."""
    for path, version, sums, folder, files in CUSTOM_RESOURCES:
        source = go_tools.module(path, version, sums) / folder
        for file in files:
            spec = yaml.safe_load((source / file).read_text(encoding="utf-8"))["spec"]
            group = spec["group"].partition(".")[0]
            for served in spec["versions"]:
                name = f"{spec['names']['kind'].lower()}-{group}-{served['name']}.json"
                schema = closed(served["schema"]["openAPIV3Schema"])
                (target / name).write_text(json.dumps(schema), encoding="utf-8")


def closed(schema: Any) -> Any:
    """The same schema, in which an object has no other keys than those that are named, as the API server sees it."""
    if isinstance(schema, list):
        return [closed(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and "type" in schema and not is_open:
        made["additionalProperties"] = False
    return made
