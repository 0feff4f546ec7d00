"""Where results go beside the history: one line for each workflow, a few tries for each result.

Results of one workflow go in the order in which they ended, one at a time, so that a sink that
answers nobody holds up its own workflow and takes one place of ``sinks_sending_max``.

What is promised: a result whose delivery fails for good is told (SinkFailed), and stays in the
history. What is not: what waits here is in memory alone. If the process dies before a delivery is
over, that result is not sent again; if it dies between a delivery and the journal's next commit
the execution runs again, and its result is sent again under the same id.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import stamina

from sluice.metrics import Metrics
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.snapshot import Run, Verdict
from sluice.workflow import Workflow, WorkflowKey

log = logging.getLogger(__name__)
Kind = Literal["http", "configMap"]
_PAUSE_S_MIN, _PAUSE_S_MAX = 1.0, 60.0
# What one that waits costs beside its result, roughly.
_ENTRY_BYTES = 1024
# A sink that is down fails result after result, and is told of now and then.
_TOLD_AGAIN_S = 60.0
# At the end, beside drain_s within the grace of a pod.
_CLOSE_S_MAX = 2.0


class Sink(Protocol):
    """Who is told of an execution that has ended for good."""

    def deliver(self, workflow: Workflow, run: Run) -> None:
        """Record and return at once; a workflow without ``spec.sink`` is nothing to do."""
        ...


class Undelivered(Exception):  # noqa: N818 - named for what it says, as errors.py's are
    """A try that failed; ``passing``: another one may not. ``message`` holds nothing secret."""

    def __init__(
        self, message: str, *, passing: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.passing, self.retry_after_s = message, passing, retry_after_s


class Door(Protocol):
    """One kind of sink."""

    async def put(self, workflow: Workflow, run: Run) -> None:
        """Deliver, once; raises Undelivered."""
        ...


@dataclass(eq=False, slots=True)
class _Line:
    """What waits for one workflow's sink; the first is being sent."""

    waiting: deque[tuple[Workflow, Run]] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class Deliveries:
    """A ``Sink`` through ``doors``; ``told`` hears of what was not delivered. ``close`` it."""

    def __init__(
        self,
        doors: Mapping[Kind, Door],
        settings: Settings,
        metrics: Metrics,
        told: Callable[[WorkflowKey, Verdict], None],
    ) -> None:
        stamina.instrumentation.set_on_retry_hooks([])  # the last failure is told, by us
        self._doors, self._settings, self._told = doors, settings, told
        self._count = metrics.sink_deliveries.labels
        self._lines: dict[WorkflowKey, _Line] = {}
        self._sending = asyncio.Semaphore(settings.sinks_sending_max)
        self._told_at: dict[WorkflowKey, float] = {}
        self._bytes = 0
        self._closing = False

    def deliver(self, workflow: Workflow, run: Run) -> None:
        kind = _kind(workflow)
        if kind is None or self._closing:
            return
        run = replace(run, outcome=replace(run.outcome, log=b""))
        line = self._lines.setdefault(workflow.key, _Line())
        if kind == "configMap":
            self._supersede(line)
        if problem := self._no_room(line, run):
            self._count(kind, "dropped").inc()
            self._tell(workflow, run, problem)
            return
        self._bytes += _size(run)
        line.waiting.append((workflow, run))
        if line.task is None:
            name = f"sink {workflow.key}"
            line.task = asyncio.create_task(self._drain(workflow.key, line), name=name)

    async def close(self) -> None:
        """Let what waits go out, as far as it does so soon."""
        self._closing = True
        tasks = [line.task for line in self._lines.values() if line.task]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=_CLOSE_S_MAX)
        lost = sum(len(line.waiting) for line in self._lines.values())
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
            log.warning("%d results were not delivered; they are in the history", lost)

    def _no_room(self, line: _Line, run: Run) -> str | None:
        settings = self._settings
        if len(line.waiting) >= settings.sinks_waiting_max:
            return f"{len(line.waiting)} results wait already (sinks_waiting_max)"
        if self._bytes + _size(run) > settings.sinks_bytes_max:
            return f"{self._bytes:,} bytes of results wait already (sinks_bytes_max)"
        return None

    def _supersede(self, line: _Line) -> None:
        """Leave out what a newer result would overwrite at once; not what is being written."""
        while len(line.waiting) > 1 and _kind(line.waiting[-1][0]) == "configMap":
            self._bytes -= _size(line.waiting.pop()[1])
            self._count("configMap", "superseded").inc()

    async def _drain(self, key: WorkflowKey, line: _Line) -> None:
        while line.waiting:
            workflow, run = line.waiting[0]
            kind = _kind(workflow)
            assert kind is not None
            problem = await self._send(kind, workflow, run)
            self._count(kind, "failed" if problem else "delivered").inc()
            line.waiting.popleft()
            self._bytes -= _size(run)
            if problem:
                self._tell(workflow, run, problem)
            if kind == "configMap" and not self._closing:
                await asyncio.sleep(self._settings.sink_config_map_s)
        del self._lines[key]

    async def _send(self, kind: Kind, workflow: Workflow, run: Run) -> str | None:
        """Try until it is delivered, or hopeless; return what was wrong with the last try."""
        door = self._doors.get(kind)
        if door is None:
            return f"a sink of kind {kind} needs a cluster"
        settings, problem = self._settings, "no try was over in time (sink_s_max)"
        tries = stamina.retry_context(
            on=_again, attempts=settings.sink_tries_max, timeout=None,
            wait_initial=_PAUSE_S_MIN, wait_max=_PAUSE_S_MAX,
        )  # fmt: skip
        try:
            async with asyncio.timeout(settings.sink_s_max):
                async for attempt in tries:
                    with attempt:
                        try:
                            async with self._sending:
                                await door.put(workflow, run)
                        except Undelivered as e:
                            problem = e.message
                            raise
        except (TimeoutError, Undelivered):
            return problem
        except Exception:
            log.exception("a delivery failed inside the operator", extra=_names(workflow))
            return "the operator's log says how"
        return None

    def _tell(self, workflow: Workflow, run: Run, problem: str) -> None:
        now = asyncio.get_running_loop().time()
        self._told_at = {k: at for k, at in self._told_at.items() if now < at + _TOLD_AGAIN_S}
        if workflow.key in self._told_at:
            return
        self._told_at[workflow.key] = now
        message = f"the result of execution {run.id} was not delivered: {problem}"
        log.warning("%s: %s", Reason.SINK_FAILED, message, extra=_names(workflow))
        self._told(workflow.key, Verdict(False, Reason.SINK_FAILED, message))


def _again(error: Exception) -> bool | float:
    if not isinstance(error, Undelivered) or not error.passing:
        return False
    return min(error.retry_after_s, _PAUSE_S_MAX) if error.retry_after_s else True


def _kind(workflow: Workflow) -> Kind | None:
    sink = workflow.spec.sink
    if sink is None:
        return None
    return "http" if sink.http else "configMap"


def _size(run: Run) -> int:
    return len(run.outcome.result) + _ENTRY_BYTES


def _names(workflow: Workflow) -> dict[str, str]:
    return {"namespace": workflow.key.namespace, "workflow": workflow.key.name}
