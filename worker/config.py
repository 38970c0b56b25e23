"""The settings: read from YAML and TRT_WORKER__SECTION__KEY variables, checked as a whole."""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from worker.errors import ConfigError
from worker.sections import (
    BatchingSettings,
    DeliverySettings,
    EngineSettings,
    HttpSettings,
    KafkaSettings,
    LimitSettings,
    LoggingSettings,
    ModelSettings,
)

ENV_PREFIX = "TRT_WORKER__"
HIDDEN = "********"
CLIENT_SECTIONS = ("kafka.client", "kafka.consumer", "kafka.producer")  # hold passwords among other things
TOPIC_VARIABLES = frozenset((ENV_PREFIX + "KAFKA__INPUT_TOPIC", ENV_PREFIX + "KAFKA__INPUT_TOPICS"))


class Settings(BaseSettings):
    """Everything the service is told; checked before anything starts, never changed afterwards."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        validate_default=True,
        nested_model_default_partial_update=True,
        enable_decoding=False,  # sections.Section does it, with better words
    )

    model: ModelSettings
    engine: EngineSettings = EngineSettings()
    kafka: KafkaSettings
    batching: BatchingSettings = BatchingSettings()
    delivery: DeliverySettings = DeliverySettings()
    limits: LimitSettings = LimitSettings()
    http: HttpSettings = HttpSettings()
    logging: LoggingSettings = LoggingSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _sections_agree(self) -> Settings:
        if self.kafka.dead_letter_topic is None and self.delivery.errors_to != "output":
            raise ValueError(
                f"delivery.errors_to is {self.delivery.errors_to}, which needs kafka.dead_letter_topic; "
                "name a topic, or set delivery.errors_to: output"
            )
        for written in filter(None, (self.kafka.output_topic, self.kafka.dead_letter_topic)):
            if any(_names(topic, written) for topic in self.kafka.input_topics):
                raise ValueError(f"kafka.input_topics contains {written}, which is also written to; that would loop")
        if self.kafka.dead_letter_topic == self.kafka.output_topic:
            raise ValueError(
                f"kafka.dead_letter_topic is {self.kafka.output_topic}, and so is kafka.output_topic; raw records do "
                "not go with results: name a topic of its own, or none and set delivery.errors_to: output"
            )
        rows, most = self.limits.max_rows_per_request, self.batching.max_rows
        if rows is not None and rows > most:
            raise ValueError(f"limits.max_rows_per_request is {rows}, a batch holds {most} (batching.max_rows)")
        return self


def _names(topic: str, other: str) -> bool:
    """Whether an input topic, or a pattern of them, which starts with ^, takes in the other topic."""
    if not topic.startswith("^"):
        return topic == other
    try:
        return re.search(topic, other) is not None
    except re.error:  # librdkafka's patterns are POSIX's, and a few of them are none of Python's
        return False


def load(path: Path | None, overrides: dict[str, Any] | None = None) -> Settings:
    """Read the file, lay the environment over it, check everything.

    Args:
        path: YAML file, or None where the environment and `overrides` say it all.
        overrides: nested sections that win over the file (not over the environment).

    Raises:
        ConfigError: one line per fault, each with the key, the value and the remedy.
    """
    where = "the environment" if path is None else f"{path} and the environment"
    told = _environment(where)
    data: dict[str, Any] = _read_yaml(path) if path is not None else {}
    for section, values in (overrides or {}).items():
        data[section] = {**(data.get(section) or {}), **values}
    if TOPIC_VARIABLES & told and isinstance(data.get("kafka"), dict):  # either of the two wins over both in the file
        data["kafka"] = {
            key: value for key, value in data["kafka"].items() if key not in ("input_topic", "input_topics")
        }
    try:
        return Settings(**data)
    except ValidationError as error:
        lines = [_explain(fault) for fault in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from error


def _environment(where: str) -> frozenset[str]:
    """The variables that are settings, upper-case.

    Raises:
        ConfigError: one of them names no section.
    """
    told = frozenset(name.upper() for name in os.environ if name.upper().startswith(ENV_PREFIX))
    for name in sorted(told):
        section = name.removeprefix(ENV_PREFIX).partition("__")[0].lower()
        if section not in Settings.model_fields:
            raise ConfigError(f"{where}: {name} is no setting{_nearest((section,))}")
    return told


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the settings file {path}: {error.strerror}; give its path with --config"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {problem}") from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{path} must be a mapping of sections ({', '.join(Settings.model_fields)})")
    return {key: {} if value is None else value for key, value in data.items()}


def _explain(fault: Any) -> str:
    """One pydantic fault as `key: value is wrong because …; remedy`."""
    key = ".".join(str(part) for part in fault["loc"]) or "settings"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"{key} is missing; set it in the file or as {ENV_PREFIX}{key.replace('.', '__').upper()}"
    if fault["type"] == "extra_forbidden":
        return f"{key} is not a setting{_nearest(fault['loc'])}"
    if fault["type"] == "value_error":
        return message if key == "settings" else f"{key}: {message}"
    is_hidden = key.startswith(CLIENT_SECTIONS) or is_secret(key)
    shown = HIDDEN if is_hidden else repr(fault["input"])
    return f"{key} is {shown}: {message[0].lower()}{message[1:]}"


def _nearest(loc: tuple[Any, ...]) -> str:
    """A hint at the key that was probably meant."""
    fields: Any = Settings.model_fields
    for part in loc[:-1]:
        annotation = fields[part].annotation if isinstance(fields, dict) and part in fields else None
        fields = getattr(annotation, "model_fields", {})
    near = difflib.get_close_matches(str(loc[-1]), list(fields), n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known here: {', '.join(fields)}" if fields else ""


def is_secret(key: str) -> bool:
    """Whether a (librdkafka or settings) key holds something that must not be shown."""
    key = key.lower()
    return any(
        word in key for word in ("password", "secret", "jaas", "token", "ssl.key.pem", "private", "oauthbearer.config")
    )


def show(settings: Settings) -> dict[str, Any]:
    """The effective values, secrets hidden, ready for YAML or JSON."""
    data = json.loads(settings.model_dump_json())
    for name in ("client", "consumer", "producer"):
        section = data["kafka"][name]
        data["kafka"][name] = {key: HIDDEN if is_secret(key) else value for key, value in section.items()}
    shown: dict[str, Any] = data
    return shown


def schema() -> dict[str, Any]:
    """JSON schema of the settings file."""
    return Settings.model_json_schema()
