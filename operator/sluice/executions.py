"""Bounded queues, worker threads, and fairness between workflows."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from sluice.errors import EngineRefused, SluiceError
from sluice.event import Event
from sluice.metrics import Metrics
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.snapshot import Run
from sluice.wasm.engine import Engine, Execution
from sluice.workflow import WorkflowKey

log = logging.getLogger(__name__)
# wasmtime's guests use up to 512 KiB of it; with 512 KiB or less their recursion kills the process.
_STACK_BYTES = 8 << 20


@dataclass(eq=False, slots=True)
class _Line:
    """One workflow's engine, what waits for it and what runs on it."""

    engine: Engine
    used_at: float
    waiting: deque[tuple[Event, asyncio.Future[Run]]] = field(default_factory=deque)
    running: int = 0
    waking: bool = False


class Executions:
    """Runs guests on ``workers`` threads: per workflow ``running_max`` at once, ``queue_max`` wait.

    Workflows take turns, so that one flood delays its neighbours by one execution a turn.
    A replaced engine lives until its last execution is over; what waits goes to its successor.
    Where the engine's module is unmapped, ``wake`` is called once and what waits waits on.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        done: Callable[[WorkflowKey, Run], None],
        wake: Callable[[WorkflowKey], None] = lambda _: None,
    ) -> None:
        self._settings, self._metrics, self._done, self._wake = settings, metrics, done, wake
        self._lines: dict[WorkflowKey, _Line] = {}
        self._turns: deque[WorkflowKey] = deque()
        self._free = settings.workers
        self._running: set[asyncio.Future[Outcome]] = set()
        self._pool = _pool(settings.workers)

    def attach(self, key: WorkflowKey, engine: Engine) -> None:
        """Run what comes from now on, and what waits, on ``engine``."""
        if line := self._lines.get(key):
            line.engine, line.waking = engine, False
            self._take_turn(key, line)
            self._pump()
        else:
            self._lines[key] = _Line(engine, time.monotonic())

    def awake(self, key: WorkflowKey) -> None:
        """Go on with what waited for the engine's module to be mapped again."""
        if line := self._lines.get(key):
            self.attach(key, line.engine)

    def refuse(self, key: WorkflowKey, message: str) -> None:
        """End what waits for a module that could not be mapped again."""
        if line := self._lines.get(key):
            line.waking = False
            waiting, line.waiting = line.waiting, deque()
            for event, finished in waiting:
                self._finish(key, event, finished, Outcome(OutcomeKind.REFUSED, message))

    def idle_s(self, key: WorkflowKey) -> float:
        """Return for how long nothing of ``key`` has waited or run."""
        line = self._lines.get(key)
        if line is None or line.waiting or line.running:
            return 0.0
        return time.monotonic() - line.used_at

    def detach(self, key: WorkflowKey) -> None:
        """Cancel what waits; what runs ends within its own limits."""
        line = self._lines.pop(key, None)
        for event, finished in line.waiting if line else ():
            self._finish(key, event, finished, Outcome(OutcomeKind.CANCELLED, "not started"))

    def submit(self, key: WorkflowKey, event: Event) -> asyncio.Future[Run]:
        """Queue one execution and return its end to wait for.

        Raises:
            EngineRefused: RunRefused, where nothing serves or the queue is full.

        """
        line = self._lines.get(key)
        if line is None:
            raise EngineRefused(Reason.RUN_REFUSED, "nothing serves this workflow now")
        if len(line.waiting) >= self._settings.queue_max:
            raise EngineRefused(
                Reason.RUN_REFUSED,
                f"{len(line.waiting)} executions wait already (queue_max); a trigger is faster "
                "than the workflow",
            )
        finished: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        line.waiting.append((event, finished))
        self._take_turn(key, line)
        self._pump()
        return finished

    async def drain(self) -> bool:
        """Cancel what waits, let what runs end within ``drain_s``; return whether all did."""
        for key in list(self._lines):
            self.detach(key)
        running = list(self._running)
        if running:
            await asyncio.wait(running, timeout=self._settings.drain_s)
        return not self._running

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _take_turn(self, key: WorkflowKey, line: _Line) -> None:
        if line.waking:
            return
        if line.waiting and line.running < self._settings.running_max and key not in self._turns:
            self._turns.append(key)

    def _pump(self) -> None:
        while self._free and self._turns:
            key = self._turns.popleft()
            line = self._lines.get(key)
            if line and line.waiting and line.engine.mapped:
                self._start(key, line)
                self._take_turn(key, line)
            elif line and line.waiting and not line.waking:
                line.waking = True
                self._wake(key)

    def _start(self, key: WorkflowKey, line: _Line) -> None:
        event, finished = line.waiting.popleft()
        self._free -= 1
        line.running += 1
        started = datetime.now(UTC)
        future = asyncio.get_running_loop().run_in_executor(
            self._pool, _run, line.engine, event, f"/{key.namespace}/{key.name}"
        )
        self._running.add(future)
        future.add_done_callback(partial(self._over, key, line))
        future.add_done_callback(
            lambda future: self._finish(key, event, finished, _outcome(future), started)
        )

    def _over(self, key: WorkflowKey, line: _Line, future: asyncio.Future[Outcome]) -> None:
        # Before anybody is told: what fails there must not cost a worker.
        self._running.discard(future)
        self._free += 1
        line.running -= 1
        line.used_at = time.monotonic()
        if self._lines.get(key) is line:
            self._take_turn(key, line)
        self._pump()

    def _finish(
        self, key: WorkflowKey, event: Event, finished: asyncio.Future[Run],
        outcome: Outcome, started: datetime | None = None,
    ) -> None:  # fmt: skip
        run = Run(event.id, event.trigger, started or datetime.now(UTC), outcome)
        self._metrics.executions.labels(outcome.kind).inc()
        if started:
            self._metrics.execution_seconds.observe(outcome.duration_s)
        log.info(
            "execution %s: %s %s", event.id, outcome.kind, outcome.message,
            extra={"namespace": key.namespace, "workflow": key.name, "execution": event.id},
        )  # fmt: skip
        if not finished.done():
            finished.set_result(run)
        try:
            self._done(key, run)
        except Exception:
            log.exception("the end of an execution was not taken note of")


def _outcome(future: asyncio.Future[Outcome]) -> Outcome:
    if future.cancelled():  # `close` came between its submission and its thread
        return Outcome(OutcomeKind.CANCELLED, "not started")
    return future.result()


def _run(engine: Engine, event: Event, source: str) -> Outcome:
    try:
        encoded = event.encode(source)
    except (TypeError, ValueError) as e:
        return Outcome(OutcomeKind.REFUSED, f"the data of the event is not JSON: {e}")
    try:
        return engine.run(Execution(event=encoded))
    except SluiceError as e:
        return Outcome(OutcomeKind.REFUSED, e.message)
    except Exception:
        log.exception("an execution failed inside the operator")
        return Outcome(OutcomeKind.REFUSED, "the operator failed; its log says how")


def _pool(workers: int) -> ThreadPoolExecutor:
    """Return a pool whose threads exist already, with stacks deep enough for guests."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="sluice-guest")
    before = threading.stack_size(_STACK_BYTES)
    try:
        # Threads are made when work is submitted and none is idle: keep each busy until all are.
        everyone = threading.Barrier(workers + 1)
        for _ in range(workers):
            pool.submit(everyone.wait)
        everyone.wait()
    finally:
        threading.stack_size(before)
    return pool
