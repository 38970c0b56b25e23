"""What a user writes into an overlay takes effect: kustomize runs an overlay's generators before its components."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.deploy import manifests
from tests.deploy.manifests import OVERLAYS, ROOT, Manifest
from tests.deploy.test_pods import settings_of
from tests.pages import text

pytestmark = pytest.mark.usefixtures("tools")

DEPLOY = ROOT / "docs" / "deploy.md"


def blocks_under(heading: str) -> list[Manifest]:
    """Parts of a kustomization.yaml that docs/deploy.md shows under a heading of the third level."""
    shown = text(DEPLOY).partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    return [yaml.safe_load(block.partition("\n")[2]) for block in shown.split("```")[1::2] if "\n  - " in block]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_literal_of_an_overlay_reaches_its_containers(name: str) -> None:
    content = yaml.safe_load((OVERLAYS[name] / "kustomization.yaml").read_text(encoding="utf-8"))
    made = manifests.render(name)
    for container in manifests.containers(made):
        assert manifests.literals_in(content).items() <= manifests.environment(made, container).items()


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_may_set_whatever_its_components_set(name: str, tmp_path: Path) -> None:
    """Every variable that is there, also those of the logins: what the overlay says wins."""
    made = manifests.render(name)
    told = dict.fromkeys(manifests.environment(made, manifests.worker(made)), "changed")
    changed = manifests.render_changed(name, manifests.add(manifests.says(told)), tmp_path)
    for container in manifests.containers(changed):
        assert set(manifests.environment(changed, container).values()) == {"changed"}


def test_the_workers_of_the_h100_overlay_take_256_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And their engines are built for so many."""
    made = manifests.render("nvidia-h100")
    init, _ = manifests.containers(made)
    assert "--max-rows=256" in manifests.expanded(init["args"], manifests.environment(made, init))
    assert settings_of(made, tmp_path, monkeypatch).batching.max_rows == 256


def test_the_model_of_the_page_takes_effect_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/deploy.md, on top of nvidia-l4: worker, init container and KEDA are told the same."""
    (block,) = blocks_under("Your model")
    shown = manifests.literals_in(block)
    made = manifests.render_changed("nvidia-l4", manifests.add(block), tmp_path / "tree")
    init, worker = manifests.containers(made)
    for container in (init, worker):
        assert shown.items() <= manifests.environment(made, container).items()
    settings = settings_of(made, tmp_path / "pod", monkeypatch)
    assert shown == {
        "TRT_WORKER__MODEL__NAME": settings.model.name,
        "TRT_WORKER__MODEL__VERSION": settings.model.version,
        "TRT_WORKER__MODEL__ONNX": str(settings.model.onnx),
        "TRT_WORKER__BATCHING__MAX_ROWS": str(settings.batching.max_rows),
        "TRT_WORKER__KAFKA__GROUP_ID": settings.kafka.group_id,
        "TRT_WORKER__KAFKA__INPUT_TOPIC": settings.kafka.input_topics[0],
        "TRT_WORKER__KAFKA__OUTPUT_TOPIC": settings.kafka.output_topic,
        "TRT_WORKER__KAFKA__DEAD_LETTER_TOPIC": settings.kafka.dead_letter_topic,
    }
    assert manifests.expanded(init["args"], manifests.environment(made, init)) == [
        "build",
        f"--onnx={settings.model.onnx}",
        f"--model={settings.model.name}",
        f"--version={settings.model.version}",
        f"--repository={settings.engine.repository}",
        f"--max-rows={settings.batching.max_rows}",
    ]


def test_the_storage_class_of_the_page_takes_effect(tmp_path: Path) -> None:
    (block,) = blocks_under("The engine cache")
    made = manifests.render_changed("nvidia-l4", manifests.add(block), tmp_path)
    assert manifests.one(made, "PersistentVolumeClaim")["spec"]["storageClassName"] in str(block)


def test_the_weaker_mechanism_of_the_page_reaches_worker_and_keda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = blocks_under("Secrets")
    made = manifests.render_changed("nvidia-h100", manifests.add(block), tmp_path / "tree")
    client = settings_of(made, tmp_path / "pod", monkeypatch).kafka.client
    assert client["sasl.mechanism"] == "SCRAM-SHA-256"
    assert manifests.one(made, "ScaledObject")["spec"]["triggers"][0]["metadata"]["sasl"] == "scram_sha256"


@pytest.mark.parametrize(("login", "protocol"), [("kafka-sasl", "sasl_ssl"), ("kafka-mtls", "ssl")])
def test_a_login_needs_no_keda(login: str, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing scales, the custom resources of KEDA are not installed, and what names them is refused."""
    block: Manifest = {"components": [f"../../components/{login}"]}
    made = manifests.render_changed("cpu-demo", manifests.add(block), tmp_path / "tree")
    assert not [manifest for manifest in made if manifest["apiVersion"].startswith("keda.sh/")]
    assert settings_of(made, tmp_path / "pod", monkeypatch).kafka.client["security.protocol"] == protocol
