"""An intake process, started by the engine process (intake/process.py): `python -m worker.assemble_intake FD FD FD`.

It is a whole member of the consumer group, and runs the same code as a worker of one process; only its backend is
another one: seats in shared memory. Neither TensorRT nor ONNX Runtime is loaded here.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from worker import logs
from worker.assemble_member import Member, open_member, quiet_the_collector
from worker.config import Settings
from worker.errors import FatalError
from worker.health import Heartbeat
from worker.intake.backend import EngineGone, SeatBackend
from worker.intake.hello import unpack
from worker.intake.link import Link
from worker.intake.memory import SeatMemory
from worker.kafka.transactions import transactional_id
from worker.merging import snapshot
from worker.metrics import Metrics

log = logging.getLogger("worker.assemble_intake")  # not __main__

STAY_S = 0.05  # between looks whether all have drained
WITHOUT_S = 10.0  # no partitions for so long: others have them all


def main() -> None:
    """Serve until told to stop, or until the engine process is gone."""
    channel, link_end, memory = (int(text) for text in sys.argv[1:4])
    link = Link(socket.socket(fileno=link_end))
    try:
        serve(link, socket.socket(fileno=channel), memory)
    except EngineGone as error:
        log.error("%s", error)
        sys.exit(error.exit_code)
    except FatalError as error:
        link.tell_fatal(error)  # the engine process says it, and ends with this code
        sys.exit(error.exit_code)


def serve(link: Link, channel: socket.socket, memory: int) -> None:
    """Everything that this process does.

    Raises:
        FatalError: no restart would help.
    """
    hello = unpack(link.hello())
    multiprocessing.current_process().name = f"intake-{hello.index}"  # the log shows it
    settings = settings_of(hello.index, hello.settings)
    logs.set_up(settings.logging)
    metrics, heartbeat = Metrics(), Heartbeat()
    seats = SeatMemory(memory, hello.seats, hello.seat_bytes)
    backend = SeatBackend(channel, seats, hello.model, hello.labels, hello.lanes, settings.engine.lane_timeout_s)
    with open_member(settings, backend, metrics, heartbeat) as member:
        member.delivery.check()
        since_s = time.monotonic()

        def report() -> Mapping[str, Any]:
            return {
                "metrics": snapshot(metrics.registry),
                "status": member.observer.status(),
                "is_up": member.connection.is_up,
                "heartbeat_age_s": heartbeat.age_s,
            }

        link.report = report
        link.is_calm = lambda: _is_calm(member, since_s)
        link.stop = member.pipeline.stop
        # A terminal's Ctrl-C is the engine process's; whoever ends a whole control group sends us this one, too.
        signal.signal(signal.SIGTERM, lambda _number, _frame: member.pipeline.stop())
        link.tell({"serving": True})  # before it joins: who is killed while it joins is missed only by its session
        member.delivery.join()
        link.start()
        quiet_the_collector()
        member.pipeline.run()
        link.tell({"drained": True})
        while not link.may_leave.is_set():
            member.delivery.stay(STAY_S)
    backend.close()


def settings_of(index: int, settings: Settings) -> Settings:
    """The service's settings, with names of our own where two members must not have the same."""
    own_id = f"{transactional_id(settings.kafka, settings.delivery)}-{index}"
    kafka = settings.kafka
    sections = {
        name: {**section, "group.instance.id": f"{section['group.instance.id']}-{index}"}
        for name, section in (("client", kafka.client), ("consumer", kafka.consumer))
        if "group.instance.id" in section
    }
    return settings.model_copy(
        update={
            "delivery": settings.delivery.model_copy(update={"transactional_id": own_id}),
            "kafka": kafka.model_copy(update=sections),
        }
    )


def _is_calm(member: Member, since_s: float) -> bool:
    if member.delivery.is_calm:
        return True
    return not member.delivery.consumer.ledgers and time.monotonic() - since_s > WITHOUT_S


if __name__ == "__main__":
    main()
