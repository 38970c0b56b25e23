"""`engines select` for GPUs that are not here: what is asked for must be a GPU and a TensorRT."""

from __future__ import annotations

import hashlib

import pytest
from typer.testing import CliRunner

from tests.engine.conftest import L4, TRT, manifest
from worker.commands.app import app
from worker.engine.gpu_key import gpu_key
from worker.engine.repository import Repository
from worker.errors import ConfigError

PLAN = b"plan"


@pytest.fixture
def select(repository: Repository) -> list[str]:
    """The command on a repository with a plan that runs on all newer GPUs."""
    sha256 = hashlib.sha256(PLAN).hexdigest()
    written = manifest(L4, plan_sha256=sha256, recipe={"hardware_compatibility": "ampere_plus"})
    repository.put(gpu_key(L4, TRT), written, PLAN)
    return ["engines", "select", "--model", "mlp", "--repository", str(repository.root)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "X,abc", "--tensorrt", "10.6.0"], "--gpu is 'X,abc'; write NAME,COMPUTE_CAPABILITY, such as"),
        (["--gpu", "X,9", "--tensorrt", "10.6.0"], "--gpu is 'X,9'; write"),
        (["--gpu", "9.0", "--tensorrt", "10.6.0"], "--gpu is '9.0'; write"),
        (["--gpu", "X,9.0"], "and give --tensorrt VERSION too"),
        (["--gpu", "X,9.0", "--tensorrt", "newest"], "--tensorrt is 'newest'; write VERSION or FLAVOUR,VERSION"),
        (["--gpu", "X,9.0", "--tensorrt", "tensorrt_nano,10.6.0"], "flavours: tensorrt, tensorrt_lean, tensorrt_rtx"),
    ],
)
def test_what_is_no_gpu_or_no_tensorrt_is_refused(select: list[str], arguments: list[str], said: str) -> None:
    """Exit 2, whatever the repository holds."""
    error = CliRunner().invoke(app, [*select, *arguments]).exception
    assert isinstance(error, ConfigError)
    assert said in str(error)


def test_a_made_up_gpu_gets_its_plan(select: list[str]) -> None:
    """A capability of two digits too."""
    told = CliRunner().invoke(app, [*select, "--gpu", "NVIDIA B200,10.0", "--tensorrt", "10.6.0"])
    assert told.exit_code == 0, told.output
    assert "built on NVIDIA L4 as hardware-compatible (ampere_plus)" in told.output
