"""The demo from start to end."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from worker.assemble import Service
from worker.config import Settings
from worker.demo.digits import MODEL, TOLERANCE_FP32, TOLERANCE_TF32, Digits
from worker.demo.resident import Resident, resident
from worker.demo.stage import Stage, open_stage
from worker.demo.summary import Batches, say_how_to_go_on, summarise
from worker.demo.tally import Tally
from worker.demo.traffic import Traffic
from worker.demo.view import Snapshot, View, open_view
from worker.errors import KafkaRefused

STALLED_S = 20.0  # without any answer: what is missing will not come
JOIN_S = 30.0
IDLE_RATE = 20.0  # requests a second, once the demo keeps running
RECENT = 1000  # answers whose latency the view shows


Check = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may choose."""

    requests: int = 2000
    rate: float | None = None  # requests a second; None: as fast as answers come
    bootstrap_servers: str | None = None  # None: an embedded broker
    keep_running: bool = False


def run_demo(options: Options, console: Console, go_on: Check, model: Path = MODEL) -> bool:
    """Play the whole system; returns whether every answer came, once, and right.

    Args:
        go_on: called often; what it raises ends the demo, and leaves here when all is stopped and deleted.
        model: what the worker serves; whatever it is, answers are compared with those of the demo's own model.

    Raises:
        FatalError: a part could not start, or failed.
    """
    with ExitStack() as stack:
        with open_view(console) as view:
            view.say("running the model directly, to know the answers")
            digits, tally = Digits(), Tally()
            go_on()
            view.say("opening Kafka topics")
            stage = stack.enter_context(open_stage(options.bootstrap_servers))
            go_on()
            view.say("starting the worker")
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trt-worker-demo-"))
            worker = stack.enter_context(resident(settings_for(stage, model, Path(folder))))
            service = _await_group(worker, view, go_on)
            status = service.status()
            engine, lanes = status["engine"], status["lanes"]["all"]
            tolerance = TOLERANCE_TF32 if engine.get("tensorrt") else TOLERANCE_FP32
            traffic = stack.enter_context(Traffic(stage, digits, tally, tolerance))
            view.say(f"handwritten digits through {stage.where}")
            player = Player(worker, service, traffic, tally, digits, go_on)
            player.play(view, options.requests, options.rate)
            if not options.keep_running:
                worker.stop()  # what it publishes while it drains would be a second answer
                worker.check()
            traffic.read_to_the_end(STALLED_S)
        summarise(
            console,
            stage=stage,
            digits=digits,
            tally=tally,
            metrics=service.metrics,
            engine=engine,
            lanes=lanes,
            is_bounded=options.rate is None,
        )
        if not tally.is_perfect:
            return False
        say_how_to_go_on(console)
        if options.keep_running:
            _keep_running(console, player, service.http_port)
            console.print(f"no answer for {STALLED_S:g} s", style="bold red")
            return False
    return True


def _keep_running(console: Console, player: Player, port: int) -> None:
    """Slow traffic until Ctrl-C; returns only when answers stop coming."""
    console.print(f"\nRunning until Ctrl-C, with {IDLE_RATE:.0f} requests a second:", style="bold")
    for path in ("/", "/status", "/metrics", "/readyz", "/healthz"):
        console.print(f"  http://127.0.0.1:{port}{path}", highlight=False)
    with open_view(console) as view:
        view.say("Ctrl-C ends it")
        player.play(view, None, IDLE_RATE)


class Player:
    """Publishes at the wanted rate, and shows how it goes."""

    def __init__(
        self, worker: Resident, service: Service, traffic: Traffic, tally: Tally, digits: Digits, go_on: Check
    ) -> None:
        self._worker = worker
        self._service = service
        self._traffic = traffic
        self._tally = tally
        self._digits = digits
        self._go_on = go_on

    def play(self, view: View, requests: int | None, rate: float | None) -> None:
        """Publish so many requests (None: without end) at this rate (None: as fast as answers come), await the answers.

        Returns when every request has an answer, or when no answer has come for STALLED_S.
        """
        tally, first = self._tally, self._tally.published
        start_s = moved_s = time.monotonic()
        answered = tally.answered
        while requests is None or tally.answered < first + requests:
            now_s = time.monotonic()
            due = sys.maxsize if rate is None else first + 1 + int((now_s - start_s) * rate)
            due = due if requests is None else min(due, first + requests)
            self._traffic.step(due - tally.published)
            self._worker.check()
            self._go_on()
            if tally.answered > answered or not tally.waiting:
                answered, moved_s = tally.answered, now_s
            elif now_s - moved_s > STALLED_S:
                return
            if view.is_due():
                view.show(self._snapshot(None if requests is None else first + requests))

    def _snapshot(self, wanted: int | None) -> Snapshot:
        tally, last = self._tally, self._traffic.last
        lanes = self._service.status()["lanes"]
        return Snapshot(
            published=tally.published,
            answered=tally.answered,
            wanted=wanted,
            faults=tally.wrong + tally.duplicates,
            rate=tally.rate,
            latency_ms=(tally.latency_ms(0.5, RECENT), tally.latency_ms(0.99, RECENT)),
            mean_rows=Batches.of(self._service.metrics).mean_rows,
            lanes=(lanes["busy"], lanes["all"]),
            image=None if last is None else self._digits.images[last[0]],
            label=None if last is None else last[1],
        )


def _await_group(worker: Resident, view: View, go_on: Check) -> Service:
    """The service, once it has partitions: from then on it answers at once.

    Raises:
        FatalError: it could not be built, or has no partitions after JOIN_S.
    """
    while (service := worker.await_start(0.2)) is None:
        go_on()
    view.say("the worker joins its consumer group")
    due_s = time.monotonic() + JOIN_S
    while not service.status()["kafka"]["partitions"]:
        worker.check()
        go_on()
        if time.monotonic() > due_s:
            raise KafkaRefused(f"the worker was given no partitions in {JOIN_S:g} s; is the broker overloaded?")
        time.sleep(0.02)
    return service


def settings_for(stage: Stage, model: Path, folder: Path) -> Settings:
    """The service's settings; TRT_WORKER__… variables are for the user's own service and do not reach it."""
    return Settings(
        _env_prefix="TRT_WORKER_DEMO__",
        model={"name": "digits", "version": "1", "onnx": model},
        engine={"repository": folder, "build_if_missing": True},
        kafka={
            "bootstrap_servers": stage.bootstrap_servers,
            "group_id": stage.name,
            "input_topics": (stage.requests,),
            "output_topic": stage.results,
            "dead_letter_topic": stage.dead_letters,
            "consumer": {**stage.consumer, **stage.group},
        },
        delivery={"drain_timeout_s": 5.0},
        http={"host": "127.0.0.1", "port": 0},
    )
