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
from worker.client import Arrays, InferenceClient, InferenceError, NotDelivered, encode_request
from worker.commands.options import ConfigFile
from worker.errors import ConfigError, KafkaRefused
from worker.tensors import DATATYPES

REMEDIES = {
    ".npy": "write it with numpy.save: an array of numbers, rows first",
    ".npz": "write it with numpy.savez: arrays of numbers by the inputs' names, rows first",
    ".json": 'write {"inputs": [{"name": …, "datatype": …, "shape": [rows, …], "data": [numbers]}, …]}',
}


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
    """The request in a file, whole and fit to be sent.

    Raises:
        ConfigError: it is none.
    """
    if file.suffix not in REMEDIES:
        raise ConfigError(f"{file} is no request; send takes {', '.join(REMEDIES)} files")
    if file.suffix == ".npy" and input_name is None:
        raise ConfigError(f"{file} holds one array without a name; say which input it is with --input NAME")
    try:
        arrays = _load(file, input_name or "")
        encode_request(arrays)  # which looks at dtypes and rows, before anything is published
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or _reason(error)}; check the path") from error
    except Exception as error:  # numpy, zipfile, zlib and json have a dozen kinds for what can be wrong with a file
        raise ConfigError(f"{file} is no request: {_reason(error)}; {REMEDIES[file.suffix]}") from error
    return arrays


def _load(file: Path, input_name: str) -> Arrays:
    if file.suffix == ".json":
        return _from_json(json.loads(file.read_text(encoding="utf-8")))
    with file.open("rb") as source:  # numpy leaves a file open that it opened itself and found broken
        content = np.load(source, allow_pickle=False)
        if isinstance(content, np.ndarray) != (file.suffix == ".npy"):
            raise ValueError("what is in it does not go with its name")
        return {input_name: content} if isinstance(content, np.ndarray) else dict(content)


def _from_json(request: Any) -> Arrays:
    """The inputs of an Open Inference Protocol request: name, datatype, shape, data (numbers, flat or nested)."""
    return {str(tensor["name"]): _tensor(tensor) for tensor in request["inputs"]}


def _tensor(tensor: Any) -> NDArray[Any]:
    given = np.array(tensor["data"])
    array = np.array(tensor["data"], DATATYPES[tensor["datatype"]])
    if array.dtype.kind in "biu" and not np.array_equal(array, given):
        raise ValueError(f"input {tensor['name']!r} has a number that {tensor['datatype']} cannot hold")
    return array.reshape(tensor["shape"])


def _reason(error: Exception) -> str:
    """In one line."""
    if isinstance(error, KeyError):
        return f"{error} is missing or unknown"
    return " ".join(str(error).split()) or type(error).__name__


def _print(name: str, outputs: Mapping[str, NDArray[Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"file": name, "outputs": {key: array.tolist() for key, array in outputs.items()}}))
        return
    typer.echo(f"{name}:")
    for key, array in outputs.items():
        shown = np.array2string(array, threshold=20, edgeitems=3, precision=4)
        typer.echo(f"  {key} {array.dtype} {list(array.shape)}: {shown}")
