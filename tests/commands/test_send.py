"""What somebody is told whose file is no request: one line with the file, the reason and the remedy; exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker import cli

KAFKA = {
    "TRT_WORKER__MODEL__NAME": "m",
    "TRT_WORKER__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "TRT_WORKER__KAFKA__GROUP_ID": "g",
    "TRT_WORKER__KAFKA__INPUT_TOPIC": "in",
    "TRT_WORKER__KAFKA__OUTPUT_TOPIC": "out",
    "TRT_WORKER__KAFKA__DEAD_LETTER_TOPIC": "dead",
}
Write = Callable[[Path], object]


def as_json(**changes: Any) -> Write:
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1, 2], "data": [1, 2], **changes}
    return lambda file: file.write_text(json.dumps({"inputs": [tensor]}))


def corrupt_archive(file: Path) -> None:
    """A good one with a byte flipped in the middle of an array."""
    np.savez(file, x=np.arange(1000.0))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


BAD: dict[str, tuple[str, Write, str]] = {  # claim -> name of the file, how to write it, what is said of it
    "an array without rows": ("a.npy", lambda file: np.save(file, np.float32(1)), "batch axis"),
    "an empty file": ("a.npy", lambda file: file.write_bytes(b""), "No data left"),
    "half an array": ("a.npy", lambda file: file.write_bytes(npy(np.ones((4, 4)))[:-9]), "14"),
    "a header of junk": ("a.npy", lambda file: file.write_bytes(npy(np.ones(4))[:12] + b"(" * 200), "EOF"),
    "more than there is memory": ("a.npy", lambda file: file.write_bytes(huge()), "rows first"),
    "strings": ("a.npy", lambda file: np.save(file, np.array([["text"]])), "dtype <U4"),
    "objects": ("a.npy", lambda file: np.save(file, np.array([None], object), allow_pickle=True), "allow_pickle"),
    "no rows": ("a.npy", lambda file: np.save(file, np.zeros((0, 4), np.float32)), "(0, 4)"),
    "an archive by another name": ("a.npy", lambda file: archive(file), "does not go with its name"),
    "an array by another name": ("a.npz", lambda file: file.write_bytes(npy(np.ones(4))), "does not go with its name"),
    "a flipped byte": ("a.npz", corrupt_archive, "CRC"),
    "no archive": ("a.npz", lambda file: file.write_bytes(b"PK\x03\x04 and no more"), "zip"),
    "an empty archive": ("a.npz", lambda file: np.savez(file), "at least one input"),
    "unequal rows": ("a.npz", lambda file: np.savez(file, x=np.ones((2, 1)), y=np.ones((3, 1))), "'y'"),
    "a number too large": ("a.json", as_json(data=[300, 1]), "300"),
    "a fraction where none can be": ("a.json", as_json(data=[1.5, 1]), "UINT8 cannot hold"),
    "a text for a truth": ("a.json", as_json(data=["no", ""], datatype="BOOL"), "BOOL cannot hold"),
    "deep nesting": ("a.json", lambda file: file.write_text("[" * 100_000), "recursion"),
    "no JSON": ("a.json", lambda file: file.write_text("{"), "Expecting"),
    "no text": ("a.json", lambda file: file.write_bytes(b"\xff\xfe"), "utf-8"),
    "no object": ("a.json", lambda file: file.write_text("[1]"), "inputs"),
    "no inputs": ("a.json", lambda file: file.write_text("{}"), "'inputs' is missing"),
    "an unknown datatype": ("a.json", as_json(datatype="FP8"), "'FP8' is missing or unknown"),
    "a shape of others": ("a.json", as_json(shape=[3, 2]), "(3,2)"),
    "ragged rows": ("a.json", as_json(data=[[1], [1, 2]]), "inhomogeneous"),
}


def npy(array: Any) -> bytes:
    content = BytesIO()
    np.save(content, array)
    return content.getvalue()


def huge() -> bytes:
    """A header that declares 2**50 numbers, and none of them."""
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1125899906842624, 1), }".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def archive(file: Path) -> None:
    with file.open("wb") as sink:
        np.savez(sink, x=np.ones((1, 4)))


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said on standard error."""
    monkeypatch.setattr(sys, "argv", ["trt-worker", "send", "--timeout-s", "0.1", *words])
    for name, value in KAFKA.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2, said.err
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line


@pytest.mark.parametrize("claim", BAD)
def test_a_file_that_is_no_request_is_named_with_reason_and_remedy(
    claim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before Kafka is asked for anything."""
    name, write, reason = BAD[claim]
    write(tmp_path / name)
    line = refusal(monkeypatch, capsys, str(tmp_path / name), "--input", "x")
    assert str(tmp_path / name) in line
    assert reason in line
    assert {"npy": "numpy.save", "npz": "numpy.savez", "json": '"inputs"'}[name[2:]] in line


def test_a_file_that_is_not_there_or_of_another_kind_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent, folder, picture = tmp_path / "absent.npy", tmp_path / "folder.json", tmp_path / "picture.png"
    folder.mkdir()
    assert f"{absent} cannot be read: No such file" in refusal(monkeypatch, capsys, str(absent), "--input", "x")
    assert f"{folder} cannot be read: Is a directory" in refusal(monkeypatch, capsys, str(folder))
    assert f"{picture} is no request; send takes .npy, .npz, .json" in refusal(monkeypatch, capsys, str(picture))


def test_one_bad_file_keeps_the_good_ones_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is published before all files are read: there is no broker here to publish to."""
    np.save(tmp_path / "good.npy", np.ones((1, 4)))
    np.save(tmp_path / "bad.npy", np.float32(1))
    files = [str(tmp_path / name) for name in ("good.npy", "bad.npy")]
    assert "bad.npy" in refusal(monkeypatch, capsys, *files, "--input", "x")
