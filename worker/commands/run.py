"""`trt-worker run`: the service."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

from worker import assemble, config, logs
from worker.assemble_member import quiet_the_collector
from worker.commands.options import ConfigFile

log = logging.getLogger(__name__)


def run(config_file: ConfigFile = None) -> None:
    """Consume, infer, publish, until SIGTERM or Ctrl-C; then finish what was taken in, commit, leave, exit 0."""
    settings = config.load(config_file)
    logs.set_up(settings.logging)
    stop_signals = (signal.SIGTERM, signal.SIGINT)
    if os.getpid() == 1:  # of a container: the kernel spares it every signal that it has no handler for
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with assemble.build(settings) as service:

        def stop(number: int, _frame: FrameType | None) -> None:
            log.info("%s: draining", signal.Signals(number).name)
            for each in stop_signals:
                signal.signal(each, signal.SIG_DFL)  # a second one ends the process at once
            service.stop()

        for each in stop_signals:
            signal.signal(each, stop)
        quiet_the_collector()
        service.run()
    log.info("done")
