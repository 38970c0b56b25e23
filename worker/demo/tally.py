"""Which answers came, how often, how fast, and whether they are right."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field

KEPT_LATENCIES = 1_000_000


@dataclass(slots=True)
class Tally:
    """The demo's account of its requests, which are numbered from 0 in the order of publishing."""

    published: int = 0
    answered: int = 0  # requests with an answer, right or wrong
    correct_labels: int = 0  # answers that give the image's true label
    wrong: int = 0
    duplicates: int = 0
    first_fault: str = ""
    started_s: float = 0.0  # of the first request, on the clock of time.perf_counter
    ended_s: float = 0.0  # of the last answer
    waiting: dict[int, tuple[int, float]] = field(default_factory=dict)  # number -> (image, time of publishing)
    latencies_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_LATENCIES))

    def publish(self, image: int) -> int:
        """Open the account of a request; returns its number."""
        number, now_s = self.published, time.perf_counter()
        if number == 0:
            self.started_s = now_s
        self.waiting[number] = (image, now_s)
        self.published += 1
        return number

    def answer(self, number: int) -> int | None:
        """Close the account of a request; returns its image, or None where this is not its first answer."""
        image, published_s = self.waiting.pop(number, (None, 0.0))
        if image is None:
            if 0 <= number < self.published:
                self.duplicates += 1
            else:
                self.blame(f"an answer to request {number}, which was never published")
            return None
        self.ended_s = time.perf_counter()
        self.answered += 1
        self.latencies_s.append(self.ended_s - published_s)
        return image

    def blame(self, fault: str) -> None:
        """Count a wrong answer."""
        self.wrong += 1
        self.first_fault = self.first_fault or fault

    @property
    def missing(self) -> int:
        return len(self.waiting)

    @property
    def is_perfect(self) -> bool:
        """Every answer came, once, and right."""
        return self.published == self.answered > 0 and not (self.wrong or self.duplicates)

    @property
    def accuracy(self) -> float:
        """Share of the answers that give the true label."""
        return self.correct_labels / max(1, self.answered)

    @property
    def rate(self) -> float:
        """Answers a second, from the first request to the last answer."""
        return self.answered / (self.ended_s - self.started_s) if self.ended_s > self.started_s else 0.0

    def latency_ms(self, share: float, last: int | None = None) -> float:
        """Within how many milliseconds `share` of the answers (or of the `last` ones) came; 0 without any."""
        latencies = sorted(self.latencies_s if last is None else list(self.latencies_s)[-last:])
        if not latencies:
            return 0.0
        return latencies[max(0, math.ceil(share * len(latencies)) - 1)] * 1000
