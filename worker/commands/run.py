"""`trt-worker run`: the service."""

from __future__ import annotations

import gc
import logging
import signal
from types import FrameType

from worker import assemble, config, logs
from worker.commands.options import ConfigFile

log = logging.getLogger(__name__)


def run(config_file: ConfigFile = None) -> None:
    """Consume, infer, publish, until SIGTERM or Ctrl-C; then finish what was taken in, commit, leave, exit 0."""
    settings = config.load(config_file)
    logs.set_up(settings.logging)
    stop_signals = (signal.SIGTERM, signal.SIGINT)
    with assemble.build(settings) as service:

        def stop(number: int, _frame: FrameType | None) -> None:
            log.info("%s: draining", signal.Signals(number).name)
            for each in stop_signals:
                signal.signal(each, signal.SIG_DFL)  # a second one ends the process at once
            service.stop()

        for each in stop_signals:
            signal.signal(each, stop)
        gc.collect()
        gc.freeze()  # what start-up made stays; and the loop makes no cycles, so looking for them seldom is enough
        gc.set_threshold(50_000, 20, 50)
        service.run()
    log.info("done")
