"""What kustomize makes of an overlay, and what its worker is told."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.deploy import go_tools

ROOT = Path(__file__).parent.parent.parent
OVERLAYS = {folder.name: folder for folder in sorted((ROOT / "k8s" / "overlays").iterdir())}
WORKLOADS = ("Deployment", "StatefulSet")
Manifest = dict[str, Any]


@functools.cache
def _rendered(name: str) -> str:
    code, made, said = go_tools.run("kustomize", ["build", str(OVERLAYS[name])])
    assert code == 0, said
    assert not said, said  # warnings about what is deprecated
    return made


def render(name: str) -> list[Manifest]:
    """The manifests of an overlay; a copy that the caller may break."""
    return list(yaml.safe_load_all(_rendered(name)))


def as_yaml(manifests: list[Manifest]) -> str:
    return yaml.safe_dump_all(manifests)


def as_json_lines(manifests: list[Manifest]) -> str:
    return "".join(json.dumps(manifest) + "\n" for manifest in manifests)


def one(manifests: list[Manifest], *kinds: str) -> Manifest:
    """The only manifest of these kinds."""
    (found,) = (manifest for manifest in manifests if manifest["kind"] in kinds)
    return found


def pod(manifests: list[Manifest]) -> dict[str, Any]:
    """The pod's spec."""
    spec: dict[str, Any] = one(manifests, *WORKLOADS)["spec"]["template"]["spec"]
    return spec


def worker(manifests: list[Manifest]) -> dict[str, Any]:
    """The worker's container."""
    (container,) = pod(manifests)["containers"]
    assert isinstance(container, dict)
    return container


def environment(manifests: list[Manifest], container: dict[str, Any]) -> dict[str, str]:
    """The container's variables, from its ConfigMaps."""
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found |= config_map(manifests, source["configMapRef"]["name"])
    return found


def config_map(manifests: list[Manifest], name: str) -> dict[str, str]:
    (data,) = (
        manifest["data"]
        for manifest in manifests
        if manifest["kind"] == "ConfigMap" and manifest["metadata"]["name"] == name
    )
    assert isinstance(data, dict)
    return data


def mounts(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path in the worker's container, volume) of everything that is mounted."""
    volumes = {volume["name"]: volume for volume in pod(manifests)["volumes"]}
    for claim in one(manifests, *WORKLOADS)["spec"].get("volumeClaimTemplates", ()):
        volumes[claim["metadata"]["name"]] = claim
    for mount in worker(manifests)["volumeMounts"]:
        yield mount["mountPath"], volumes[mount["name"]]


def expanded(arguments: list[str], variables: dict[str, str]) -> list[str]:
    """The arguments as the kubelet hands them over: $(NAME) stands for a variable of the container."""
    for name, value in variables.items():
        arguments = [argument.replace(f"$({name})", value) for argument in arguments]
    assert not any("$(" in argument for argument in arguments), arguments
    return arguments
