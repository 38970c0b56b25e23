"""An intake process without Kafka: `python -m tests.intake.seat_user CHANNEL MEMORY SEATS SEAT_BYTES FIRST BATCHES`.

Fills its seats with payloads that nobody else has, all seats at once, and ends with 1 at the first answer that is not
its own.
"""

from __future__ import annotations

import socket
import sys

import numpy as np

from tests.intake.hosts import COLUMNS, MODEL
from worker.intake.backend import SeatBackend, SeatLane
from worker.intake.memory import SeatMemory

MOST_ROWS = 8


def main() -> None:
    channel, memory, seats, seat_bytes, first, batches = map(int, sys.argv[1:])
    backend = SeatBackend(
        socket.socket(fileno=channel), SeatMemory(memory, seats, seat_bytes), MODEL, {}, lanes=1, answer_timeout_s=10.0
    )
    sent: dict[SeatLane, tuple[int, int]] = {}  # seat -> the number in it, rows
    number = 0
    while number < batches or sent:
        while number < batches and (seat := backend.acquire()) is not None:
            rows = 1 + number % MOST_ROWS
            _, (view,) = seat.open(((COLUMNS,),))
            payload = np.full((rows, COLUMNS), first + number, np.float32)
            view[: payload.nbytes] = payload.tobytes()
            seat.launch(rows)
            sent[seat] = (first + number, rows)
            number += 1
        for seat in backend.finished(0.1):
            expected, rows = sent.pop(seat)
            (answer,) = seat.outputs()
            if answer.shape != (rows, COLUMNS) or not (answer == 2 * expected + 1).all():
                sys.exit(f"the answer to {expected} is {answer}")
            seat.release()


if __name__ == "__main__":
    main()
