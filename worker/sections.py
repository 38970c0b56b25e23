"""The sections of the settings: one frozen type each; default, unit and limits on the line."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_origin

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

MIB = 1 << 20

ClientValue = str | int | float | bool
VALUE_TYPES = [{"type": name} for name in ("string", "integer", "number", "boolean")]
FILE_TYPE = {  # stands for the file's content
    "type": "object",
    "properties": {"file": {"type": "string"}},
    "required": ["file"],
    "additionalProperties": False,
}
ClientSettings = Annotated[
    dict[str, ClientValue],
    WithJsonSchema({"type": "object", "additionalProperties": {"anyOf": [*VALUE_TYPES, FILE_TYPE]}}),
]
Rows = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _read_json(cls, data: Any) -> Any:
        """An environment variable holds a list or mapping as JSON."""
        if not isinstance(data, dict):
            return data
        return {key: _from_json(value) if _is_compound(cls, key) else value for key, value in data.items()}


def _is_compound(section: type[Section], key: str) -> bool:
    field = section.model_fields.get(key)
    return field is not None and get_origin(field.annotation) in (dict, list, tuple, Union, UnionType)


def _from_json(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError):  # then it is refused as the text that it is
            return json.loads(value)
    return value


class ModelSettings(Section):
    """Which model is served."""

    name: str = Field(min_length=1, max_length=128, description="name in results, metrics and the engine repository")
    version: str = Field("1", min_length=1, max_length=64, description="version in results and the engine repository")
    onnx: Path | None = Field(None, description="ONNX file; needed by the cpu backend and to build an engine")


class EngineSettings(Section):
    """What runs the model."""

    backend: Literal["auto", "tensorrt", "cpu"] = Field("auto", description="auto: tensorrt where a GPU is, else cpu")
    repository: Path = Field(Path("engines"), description="root of the engine repository")
    device: int | str = Field(0, description="GPU ordinal or UUID (GPU-…)")
    build_if_missing: bool = Field(False, description="build an engine from model.onnx when none fits this GPU")
    allow_host_code: bool = Field(False, description="accept version-compatible plans, which carry code for the host")
    lanes: int = Field(3, ge=1, le=16, description="batches that can be in the backend at once")
    lane_timeout_s: float = Field(
        60.0, gt=0, description="a batch that does not come back for this long ends the process, with exit code 5"
    )
    cuda_graphs: Literal["auto", "off"] | list[Rows] = Field(
        "auto", description="auto, off, or the row counts to capture"
    )
    intake_processes: int = Field(
        1, ge=1, le=64, description="processes that consume, decode and publish; more than 1: docs/tuning.md"
    )

    @field_validator("device", mode="before")
    @classmethod
    def _ordinal(cls, value: Any) -> Any:
        """The environment holds only text."""
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("cuda_graphs", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        """YAML reads a bare `off` as false."""
        return "off" if value is False else value


def _allow_input_topic(schema: dict[str, Any]) -> None:
    """`input_topic` beside `input_topics`, in the JSON schema too."""
    schema["properties"]["input_topic"] = {"type": "string", "description": "short for input_topics with one entry"}
    schema["required"] = [name for name in schema["required"] if name != "input_topics"]
    schema["oneOf"] = [{"required": ["input_topics"]}, {"required": ["input_topic"]}]


class KafkaSettings(Section):
    """Where records come from and results go."""

    model_config = ConfigDict(json_schema_extra=_allow_input_topic)

    bootstrap_servers: str = Field(min_length=1, description="host:port[,host:port…]")
    group_id: str = Field(min_length=1, description="consumer group; every worker of one service has the same")
    input_topics: tuple[str, ...] = Field(min_length=1, description="topics to consume; input_topic takes a single one")
    output_topic: str = Field(min_length=1, description="topic of the results")
    dead_letter_topic: str | None = Field(None, description="topic of the records that could not be answered")
    result_timestamp: Literal["record", "now"] = Field(
        "record", description="timestamp of a result: the record's own, or the time of publishing"
    )
    startup_timeout_s: float = Field(
        30.0, gt=0, description="how long to wait for the first broker answer before exit 4"
    )
    client: ClientSettings = Field(default_factory=dict, description="any librdkafka key, for consumer and producer")
    consumer: ClientSettings = Field(default_factory=dict, description="any librdkafka key, for the consumer only")
    producer: ClientSettings = Field(default_factory=dict, description="any librdkafka key, for the producer only")

    @model_validator(mode="before")
    @classmethod
    def _one_topic_or_several(cls, data: Any) -> Any:
        """`input_topic: a` is short for `input_topics: [a]`; from the environment, commas separate."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if "input_topic" in data:
            if "input_topics" in data:
                raise ValueError("give input_topic or input_topics, not both")
            data["input_topics"] = (data.pop("input_topic"),)
        topics = data.get("input_topics")
        if isinstance(topics, str) and not topics.lstrip().startswith("["):
            data["input_topics"] = tuple(topic.strip() for topic in topics.split(",") if topic.strip())
        return data

    @field_validator("client", "consumer", "producer", mode="before")
    @classmethod
    def _dotted_keys(cls, value: Any) -> Any:
        """Environment variables cannot carry dots: SASL_PASSWORD stands for sasl.password."""
        if isinstance(value, dict):
            return {_librdkafka_key(str(key)): _read_secret(str(key), entry) for key, entry in value.items()}
        return value

    @field_validator("client", "consumer", "producer")
    @classmethod
    def _not_ours(cls, value: ClientSettings) -> ClientSettings:
        for key, instead in RESERVED_CLIENT_KEYS.items():
            if key in value:
                raise ValueError(f"{key} is set by the worker; use {instead}")
        return value


def _librdkafka_key(key: str) -> str:
    """log_level is the only key of librdkafka that has an underscore."""
    return key if "." in key or key == "log_level" else key.replace("_", ".")


def _read_secret(key: str, value: Any) -> Any:
    """`{file: PATH}` stands for the content of the file, without the line break at its end."""
    if not isinstance(value, dict) or list(value) not in (["file"], ["FILE"]):
        return value
    (path,) = value.values()
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ValueError(f"{key} cannot be read from {path}: {error.strerror}") from error
    except (TypeError, ValueError) as error:  # the latter's words would show the content
        raise ValueError(f"{key}: file must be the path of a text file in UTF-8") from error


RESERVED_CLIENT_KEYS = {
    "bootstrap.servers": "kafka.bootstrap_servers",
    "group.id": "kafka.group_id",
    "transactional.id": "delivery.transactional_id",
    "enable.auto.commit": "delivery.mode and delivery.commit_interval_ms",
    "enable.auto.offset.store": "delivery.mode and delivery.commit_interval_ms",
    "delivery.report.only.error": "delivery.mode, which says what reports are waited for",
}


class PadSettings(Section):
    """Rows of different length share a batch: the axis is filled up to the next bucket."""

    axis: int = Field(1, ge=1, description="axis of the whole tensor; 0 is the batch axis and cannot be padded")
    value: float | int = Field(0, description="what the filling holds")
    buckets: tuple[Rows, ...] = Field(min_length=1, description="lengths to fill up to, ascending")

    @field_validator("buckets")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"{list(value)} must be ascending, each length once")
        return value


class BatchingSettings(Section):
    """When a micro-batch leaves for the GPU."""

    max_rows: int = Field(64, ge=1, le=65_536, description="rows of a full batch")
    max_delay_ms: float = Field(5.0, ge=0, le=60_000, description="age at which a batch that is not full leaves")
    max_bytes: int = Field(16 * MIB, ge=1024, description="input bytes of a full batch; sizes a lane's host memory")
    pad: dict[str, PadSettings] = Field(default_factory=dict, description="per input: axis, value, buckets")


class DeliverySettings(Section):
    """What is promised about results and offsets."""

    mode: Literal["at_least_once", "exactly_once", "queue"] = Field("at_least_once", description="see docs/delivery.md")
    commit_interval_ms: int | None = Field(
        None, ge=10, le=60_000, description="time between commits; default: 500, or 100 with exactly_once"
    )
    max_in_flight_batches: int = Field(256, ge=1, description="batches whose results are not yet acknowledged")
    drain_timeout_s: float = Field(20.0, gt=0, description="time to finish what was taken in, on SIGTERM and on revoke")
    transactional_id: str | None = Field(None, description="exactly_once; default: group and host name")
    max_attempts: int = Field(3, ge=1, description="restarts that one record may cause before it is a dead letter")
    errors_to: Literal["dead_letter", "output", "both"] = Field("both", description="where refused records go")


class LimitSettings(Section):
    """What a single request may ask for."""

    max_request_bytes: int = Field(4 * MIB, ge=64, description="bytes of a record's value")
    max_rows_per_request: int | None = Field(None, ge=1, description="rows of one request; default: batching.max_rows")
    request_ttl_ms: int | None = Field(None, ge=1, description="a record older than this is answered `expired`")
    max_rank: int = Field(8, ge=1, le=32, description="axes of one tensor")
    max_list_numbers: int = Field(262_144, ge=1, description="numbers of one tensor sent as a list")


class HttpSettings(Section):
    """The port of /metrics, /healthz, /readyz and /status."""

    host: str = Field("0.0.0.0", description="address to listen on")  # noqa: S104  # Kubernetes probes come from outside the pod
    port: int = Field(9090, ge=0, le=65_535, description="0 takes any free port and logs it")
    stalled_after_s: float = Field(30.0, gt=0, description="/healthz fails when the loop has not turned for this long")


class LoggingSettings(Section):
    """What the log says."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity that is written")
    format: Literal["json", "text"] = Field("json", description="one JSON object a line, or readable text")
