"""What `tune` and `bench` are about: a settings file, or a model named on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worker import config
from worker.config import Settings
from worker.errors import ConfigError
from worker.tensors import Shape


def subject(
    config_file: Path | None,
    onnx: Path | None,
    model: str | None,
    version: str,
    repository: Path,
    backend: str,
    device: str = "0",
) -> Settings:
    """The settings to measure; without a file, those that a service of the named model would start from.

    Raises:
        ConfigError: nothing is named, or both; or a setting is wrong.
    """
    if config_file is not None:
        if onnx is not None or model is not None:
            raise ConfigError("give --config, or --onnx and --model; not both")
        return config.load(config_file)
    if onnx is None and model is None:
        raise ConfigError("say what to measure: --config FILE, --onnx FILE, or --model NAME of the engine repository")
    name = model or (onnx.stem if onnx is not None else "")
    return config.load(
        None,
        {
            "model": {"name": name, "version": version, "onnx": onnx},
            "engine": {"backend": backend, "repository": repository, "device": device},
            "kafka": {
                "bootstrap_servers": "localhost:9092",
                "group_id": name,
                "input_topics": (f"{name}.requests",),
                "output_topic": f"{name}.results",
                "dead_letter_topic": f"{name}.dead-letters",
            },
        },
    )


def shapes_of(options: Sequence[str] | None) -> dict[str, Shape]:
    """What --shape INPUT=AxBx… says: row shapes by input.

    Raises:
        ConfigError: one of them is written otherwise.
    """
    return dict(_shape(option) for option in options or ())


def _shape(option: str) -> tuple[str, Shape]:
    name, _, lengths = option.rpartition("=")
    try:
        row_shape = tuple(int(part) for part in lengths.split("x"))
    except ValueError:
        row_shape = ()
    if not name or not row_shape or any(length < 1 for length in row_shape):
        raise ConfigError(f"--shape is {option!r}; write INPUT=AxBx…, such as input_ids=128")
    return name, row_shape
