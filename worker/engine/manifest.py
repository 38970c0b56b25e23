"""The JSON beside a plan: what it is, what it was built from, and what it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from worker.errors import EngineError
from worker.tensors import DATATYPES, ModelSpec, Shape, TensorSpec

SHA256 = r"^[0-9a-f]{64}$"

Precision = Literal["as-is", "fp16"]
HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]
ShapeRange = tuple[Shape, Shape, Shape]  # least, best, largest


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer worker may have written more than we know


class TensorEntry(Part):
    """An input or output of the plan."""

    name: str
    datatype: str
    shape: Shape  # -1 where the length is free
    axis_names: tuple[str, ...] = ()

    @field_validator("datatype")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in DATATYPES:
            raise ValueError(f"is none of {', '.join(DATATYPES)}")
        return value

    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.datatype, self.shape, self.axis_names)


class Recipe(Part):
    """Everything that was asked of the builder; an equal recipe need not be built again."""

    onnx_sha256: str = Field(pattern=SHA256)
    precision: Precision
    profiles: tuple[dict[str, ShapeRange], ...]  # per input: least, best and largest shape; empty: all shapes fixed
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    workspace_mib: int | None = None
    max_aux_streams: int | None = None


class Manifest(Part):
    """One plan's manifest.json."""

    format: Literal[1] = 1
    model: str
    version: str
    plan_sha256: str = Field(pattern=SHA256)
    plan_bytes: int = Field(ge=1)
    flavour: Literal["tensorrt", "tensorrt_rtx"]
    tensorrt_version: str
    gpu_name: str | None  # None: built without a GPU, for any that the flavour supports
    compute_capability: str | None
    inputs: tuple[TensorEntry, ...] = Field(min_length=1)
    outputs: tuple[TensorEntry, ...] = Field(min_length=1)
    recipe: Recipe
    build_seconds: float
    built_at: str  # ISO 8601, UTC
    tool_version: str

    def model_spec(self) -> ModelSpec:
        """What the plan takes and gives, as the pipeline wants it."""
        inputs = tuple(entry.spec() for entry in self.inputs)
        return ModelSpec(
            name=self.model,
            version=self.version,
            inputs=inputs,
            outputs=tuple(entry.spec() for entry in self.outputs),
            max_rows=self.max_rows,
            tag=self.plan_sha256[:12],
        )

    @property
    def max_rows(self) -> int:
        """Most rows of one batch, over all profiles."""
        fixed = self.inputs[0].shape[0]
        if fixed >= 0:
            return fixed
        return max(min(largest[0] for _, _, largest in profile.values()) for profile in self.recipe.profiles)

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=2).encode() + b"\n"


def read_manifest(path: Path) -> Manifest:
    """Raises:
    EngineError: no such file, or it is not a manifest; the message names the file and the fault.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise EngineError(f"{path} is missing; without it nobody can tell what the plan is: build it again") from error
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}") from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"]) or "the file"
        raise EngineError(f"{path} is not a manifest: {key}: {fault['msg']}; build the engine again") from error
