"""Signals wait for a point where the demo can stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from worker.demo.interruption import Interrupted, interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_nothing_until_it_is_asked_for(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interruption() as noted:
        noted.check()
        os.kill(os.getpid(), number)
        assert noted.exit_code == 128 + number
        with pytest.raises(Interrupted):
            noted.check()
        os.kill(os.getpid(), number)  # the impatient second one must not break the cleaning up
        assert noted.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_the_third_signal_ends_the_process_at_once() -> None:
    code = (
        "import os, signal\n"
        "from worker.demo.interruption import interruption\n"
        "with interruption():\n"
        "    for _ in range(3): os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stdout == done.stderr == ""
