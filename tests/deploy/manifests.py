"""What kustomize makes of an overlay, and what its worker is told."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.deploy import go_tools

ROOT = Path(__file__).parent.parent.parent
OVERLAYS = {folder.name: folder for folder in sorted((ROOT / "k8s" / "overlays").iterdir())}
WORKLOADS = ("Deployment", "StatefulSet")
Manifest = dict[str, Any]


@functools.cache
def _rendered(overlay: Path) -> str:
    code, made, said = go_tools.run("kustomize", ["build", str(overlay)])
    assert code == 0, said
    assert not said, said  # warnings about what is deprecated
    return made


def render(name: str) -> list[Manifest]:
    """The manifests of an overlay; a copy that the caller may break."""
    return list(yaml.safe_load_all(_rendered(OVERLAYS[name])))


def render_changed(name: str, change: Callable[[Manifest], None], directory: Path) -> list[Manifest]:
    """The manifests of an overlay whose kustomization.yaml a user has changed.

    Args:
        name: of the overlay.
        change: gets the file's content, and changes it.
        directory: an empty folder, for a copy of everything.
    """
    for folder in ("k8s", "config"):
        shutil.copytree(ROOT / folder, directory / folder)
    overlay = directory / "k8s" / "overlays" / name
    file = overlay / "kustomization.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return list(yaml.safe_load_all(_rendered(overlay)))


def add(*blocks: Manifest) -> Callable[[Manifest], None]:
    """For render_changed: entries of lists, as docs/deploy.md shows them."""

    def change(content: Manifest) -> None:
        for block in blocks:
            for key, entries in block.items():
                content[key] = [*content.get(key, ()), *entries]

    return change


def says(literals: dict[str, str]) -> Manifest:
    """What a user writes into an overlay to set these variables."""
    written = [f"{name}={value}" for name, value in literals.items()]
    return {"configMapGenerator": [{"name": "trt-worker-environment", "behavior": "merge", "literals": written}]}


def literals_in(content: Manifest) -> dict[str, str]:
    """Variables that a kustomization's own generators set."""
    generators = content.get("configMapGenerator", ())
    return dict(literal.split("=", 1) for made in generators for literal in made.get("literals", ()))


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


def containers(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """All that run the worker's image: the init container, where there is one, and the worker."""
    spec = pod(manifests)
    return [*spec.get("initContainers", ()), *spec["containers"]]


def environment(manifests: list[Manifest], container: dict[str, Any]) -> dict[str, str]:
    """The container's variables, from its ConfigMaps; the last one wins, for the kubelet and for KEDA."""
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
