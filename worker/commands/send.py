"""`trt-worker send`: publish arrays from files as requests, and print the answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from worker import config
from worker.client import InferenceClient, InferenceError, NotDelivered
from worker.commands.options import ConfigFile
from worker.errors import ConfigError, KafkaRefused
from worker.tensors import DATATYPES

Arrays = dict[str, NDArray[Any]]


def send(
    files: Annotated[
        list[Path],
        typer.Argument(
            help=".npy (one input, see --input), .npz (name -> array), .json (Open Inference Protocol: inputs)."
        ),
    ],
    config_file: ConfigFile = None,
    input_name: Annotated[str | None, typer.Option("--input", help="Name of the input that a .npy file holds.")] = None,
    timeout_s: Annotated[float, typer.Option(help="How long to wait for each answer, in seconds.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with all numbers.")] = False,
) -> None:
    """Publish each file as one request and print its answer; exit 1 if one was refused or did not come."""
    settings = config.load(config_file)
    requests = {str(file): _read(file, input_name) for file in files}
    has_failed = False
    with InferenceClient(
        settings.kafka.bootstrap_servers,
        settings.kafka.input_topics[0],
        settings.kafka.output_topic,
        timeout_s=timeout_s,
        client_config=settings.kafka.client,
        producer_config=settings.kafka.producer,
    ) as client:
        futures = {name: client.submit(arrays) for name, arrays in requests.items()}
        for name, future in futures.items():
            try:
                _print(name, future.result(), as_json=as_json)
            except InferenceError as error:
                has_failed = True
                typer.echo(f"{name}: {error}", err=True)
            except TimeoutError:
                has_failed = True
                typer.echo(f"{name}: no answer in {timeout_s:g} s; is a worker running on this topic?", err=True)
            except NotDelivered as error:
                raise KafkaRefused(f"{name} was not published: {error}") from error
    if has_failed:
        raise typer.Exit(1)


def _read(file: Path, input_name: str | None) -> Arrays:
    try:
        match file.suffix:
            case ".npy":
                if input_name is None:
                    raise ConfigError(f"{file} holds one array without a name; say which input it is with --input NAME")
                return {input_name: np.load(file, allow_pickle=False)}
            case ".npz":
                with np.load(file, allow_pickle=False) as archive:
                    return dict(archive)
            case ".json":
                return _from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} cannot be read as a request: {error}") from error
    raise ConfigError(f"{file} is no request; send takes .npy, .npz and .json files")


def _from_json(request: Any) -> Arrays:
    """The inputs of an Open Inference Protocol request: name, datatype, shape, data (numbers, flat or nested)."""
    return {
        tensor["name"]: np.array(tensor["data"], DATATYPES[tensor["datatype"]]).reshape(tensor["shape"])
        for tensor in request["inputs"]
    }


def _print(name: str, outputs: Mapping[str, NDArray[Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"file": name, "outputs": {key: array.tolist() for key, array in outputs.items()}}))
        return
    typer.echo(f"{name}:")
    for key, array in outputs.items():
        shown = np.array2string(array, threshold=20, edgeitems=3, precision=4)
        typer.echo(f"  {key} {array.dtype} {list(array.shape)}: {shown}")
