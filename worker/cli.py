"""The command line's door: turns the errors that end a process into one line and an exit code."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `trt-worker`."""
    try:
        # Takes half a second, in which Ctrl-C must already be answered.
        from worker.commands.app import app
        from worker.errors import FatalError
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        app(prog_name="trt-worker")
    except FatalError as error:
        sys.stderr.write(f"trt-worker: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
