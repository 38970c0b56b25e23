"""The errors, grouped by what the caller must do.

WorkerError
├── RecordError              dead-letter this record and go on; carries a wire error code
├── BatchError               run the batch again in halves; one request alone: dead-letter it
└── FatalError               end the process with `exit_code`
    ├── ConfigError      2   mend the settings
    ├── EngineError      3   no engine (or model) that fits
    ├── KafkaRefused     4   authentication, authorisation, missing topic, unreachable broker
    └── GpuError         5   the CUDA context is unusable; only a new process helps
"""

from __future__ import annotations

from typing import Literal

ErrorCode = Literal[
    "malformed",
    "unknown_input",
    "missing_input",
    "wrong_datatype",
    "wrong_shape",
    "too_large",
    "expired",
    "inference_failed",
]


class WorkerError(Exception):
    """Base of every error the worker raises on purpose."""


class RecordError(WorkerError):
    """One record cannot be answered; its neighbours can."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.request_id: str | None = None  # set once the request's own id is known


class BatchError(WorkerError):
    """One batch failed on its lane; the lane and the process are still good."""


class FatalError(WorkerError):
    """The process cannot go on; nothing may be committed for work in flight."""

    exit_code = 1


class ConfigError(FatalError):
    """The settings, or the way the command was called, are wrong."""

    exit_code = 2


class EngineError(FatalError):
    """No model or engine that this machine can run."""

    exit_code = 3


class KafkaRefused(FatalError):
    """The Kafka cluster cannot be used: login, permission, missing topic, no broker."""

    exit_code = 4


class GpuError(FatalError):
    """The GPU, or the process's CUDA context, is unusable."""

    exit_code = 5
