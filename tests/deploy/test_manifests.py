"""Every overlay renders, fits the schemas strictly, and passes the policies; what is wrong is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy import go_tools, manifests
from tests.deploy.manifests import OVERLAYS, Manifest

pytestmark = pytest.mark.usefixtures("tools")

PASSED_OVER = {  # of kube-score, and why
    "container-image-pull-policy": "tags are versions, so a node's copy is as good as the registry's",
    "deployment-replicas": "KEDA decides how many there are",
    "deployment-has-host-podantiaffinity": "topologySpreadConstraints say it",
    "statefulset-has-host-podantiaffinity": "topologySpreadConstraints say it",
}


def refused(made: list[Manifest], schema_folder: Path) -> dict[str, str]:
    """What kubeconform says against each manifest, by kind."""
    location = f"{schema_folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    arguments = ["-strict", "-output", "json", "-verbose", "-schema-location", location]
    _, said, trouble = go_tools.run("kubeconform", arguments, manifests.as_yaml(made))
    judged = json.loads(said)["resources"]
    assert len(judged) == len(made), trouble
    return {entry["kind"]: entry["msg"] for entry in judged if entry["status"] != "statusValid"}


def score(made: list[Manifest]) -> tuple[int, str]:
    """kube-score's exit code and what it found."""
    ignored = [word for name in PASSED_OVER for word in ("--ignore-test", name)]
    code, said, _ = go_tools.run(
        "kube-score", ["score", "--exit-one-on-warning", "-o", "ci", *ignored, "-"], manifests.as_yaml(made)
    )
    return code, "\n".join(line for line in said.splitlines() if line.startswith(("[CRITICAL]", "[WARNING]")))


def pod_security(made: list[Manifest]) -> tuple[int, str]:
    """The verdict of Kubernetes' Pod Security admission at level restricted: exit code and reasons."""
    code, said, trouble = go_tools.run("pod-security", [], manifests.as_json_lines(made))
    return code, said + trouble


def test_the_overlays_that_users_are_told_of_are_there() -> None:
    assert {"cpu-demo", "nvidia-l4", "nvidia-h100", "exactly-once"} <= set(OVERLAYS)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_fits_the_schemas_of_kubernetes_and_its_operators(name: str, schema_folder: Path) -> None:
    """Every manifest is known, and every field of it."""
    assert refused(manifests.render(name), schema_folder) == {}


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_unknown_field_is_refused_in_every_kind(name: str, schema_folder: Path) -> None:
    """The validation is strict for Kubernetes' own kinds and for custom resources."""
    made = manifests.render(name)
    for manifest in made:
        manifest.get("spec", manifest)["memmory"] = "1Gi"
    said = refused(made, schema_folder)
    assert set(said) == {manifest["kind"] for manifest in made}
    assert all("memmory" in message for message in said.values()), said


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_passes_the_policies(name: str) -> None:
    """Limits, probes, network policy, disruption budget; and the pods run in a namespace that enforces `restricted`."""
    made = manifests.render(name)
    assert score(made) == (0, "")
    code, said = pod_security(made)
    assert code == 0, said
    assert manifests.one(made, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def without_limits(made: list[Manifest]) -> None:
    del manifests.worker(made)["resources"]["limits"]


def without_readiness(made: list[Manifest]) -> None:
    del manifests.worker(made)["readinessProbe"]


def with_a_writable_root(made: list[Manifest]) -> None:
    manifests.worker(made)["securityContext"]["readOnlyRootFilesystem"] = False


def without_network_policy(made: list[Manifest]) -> None:
    made.remove(manifests.one(made, "NetworkPolicy"))


def without_disruption_budget(made: list[Manifest]) -> None:
    made.remove(manifests.one(made, "PodDisruptionBudget"))


@pytest.mark.parametrize(
    "spoil",
    [without_limits, without_readiness, with_a_writable_root, without_network_policy, without_disruption_budget],
)
def test_kube_score_sees_what_is_missing(spoil: Callable[[list[Manifest]], None]) -> None:
    made = manifests.render("nvidia-l4")
    spoil(made)
    code, said = score(made)
    assert code == 1
    assert said


def as_root(made: list[Manifest]) -> None:
    manifests.pod(made)["securityContext"]["runAsNonRoot"] = False


def with_capabilities(made: list[Manifest]) -> None:
    del manifests.worker(made)["securityContext"]["capabilities"]


def with_escalation(made: list[Manifest]) -> None:
    manifests.pod(made)["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"] = True


def without_seccomp(made: list[Manifest]) -> None:
    del manifests.pod(made)["securityContext"]["seccompProfile"]


def with_a_host_path(made: list[Manifest]) -> None:
    manifests.pod(made)["volumes"].append({"name": "node", "hostPath": {"path": "/"}})


@pytest.mark.parametrize("spoil", [as_root, with_capabilities, with_escalation, without_seccomp, with_a_host_path])
def test_pod_security_sees_what_is_loosened(spoil: Callable[[list[Manifest]], None]) -> None:
    made = manifests.render("nvidia-l4")
    spoil(made)
    code, said = pod_security(made)
    assert code == 1
    assert "deployment trt-worker" in said


@pytest.mark.parametrize("name", OVERLAYS)
def test_everything_is_in_one_namespace(name: str) -> None:
    """Also what components add; else `kubectl apply -k` would put it wherever it happens to be."""
    made = manifests.render(name)
    namespace = manifests.one(made, "Namespace")["metadata"]["name"]
    others = [manifest for manifest in made if manifest["kind"] != "Namespace"]
    assert {manifest["metadata"].get("namespace") for manifest in others} == {namespace}
