"""The executions of the fleet's objects: what asks for them, and what is told of their ends."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from sluice import triggers
from sluice.desire import RunRequest
from sluice.errors import EngineRefused, WorkflowInvalid
from sluice.event import Event, new_id
from sluice.executions import Executions
from sluice.executions.acceptance import Accepted, Fire
from sluice.executions.journal import Journal
from sluice.life import Life, brief, names, requested_event
from sluice.metrics import Metrics
from sluice.outcome import OutcomeKind
from sluice.settings import Settings
from sluice.sinks import Sink
from sluice.snapshot import Run, Verdict
from sluice.workflow import WorkflowKey

log = logging.getLogger(__name__)
# Ends come by the hundred a second; a snapshot for each would cost more than its guest.
_TOLD_AFTER_S = 0.05
# A trigger that is faster than its workflow is refused all the time, and told of now and then.
_REFUSED_AGAIN_S = 60.0


class Runs:
    """Hands in what is asked for, and takes note of each end in the life that it belongs to.

    ``tell`` is called with a life that has changed, ``note`` with what no condition shows.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        metrics: Metrics,
        lives: Mapping[WorkflowKey, Life],
        sink: Sink | None,
        tell: Callable[[Life], None],
        note: Callable[[Life, Verdict], None],
        wake: Callable[[WorkflowKey], None],
    ) -> None:
        self.executions = Executions(journal, settings, metrics, self._finished, wake)
        self._settings, self._lives, self._sink = settings, lives, sink
        self._tell, self._note = tell, note
        self._untold: set[WorkflowKey] = set()
        self._refused_at: dict[WorkflowKey, float] = {}
        self.closing = False

    @asynccontextmanager
    async def arming(self, life: Life) -> AsyncIterator[Fire]:
        """Give what the triggers of a revision fire with; in the block it is not there yet.

        What fires in the block waits for the revision, which is attached right after it; or for
        nothing, where it could not be armed.
        """
        armed = False

        async def fire(event: Event, *, cursor: str | None = None) -> Accepted:
            if not armed:
                self.executions.arming(life.key, True)
            return await self.fire(life, event, cursor)

        try:
            yield fire
        except BaseException:
            self.executions.arming(life.key, False)
            if life.alive:  # which goes on by its own rules
                self.executions.open(life.alive.workflow)
            raise
        finally:
            armed = True

    async def fire(self, life: Life, event: Event, cursor: str | None = None) -> Accepted:
        """Hand in an event of one of the object's triggers; raises EngineRefused, and tells it."""
        try:
            return await self.executions.accept(life.key, event, cursor)
        except EngineRefused as e:
            self._refused(life, e)
            raise

    def hold_off(self, life: Life, doors: triggers.Doors) -> None:
        """Take nothing for a workflow that does not serve; its http callers are to come back."""
        self.executions.suspend(life.key)
        life.held_off.close()
        if workflow := life.desire.workflow:
            fire, find = partial(self.fire, life), partial(self.executions.find, life.key)
            with suppress(WorkflowInvalid):  # what cannot be opened is told by its condition
                life.held_off = triggers.hold_off(workflow, doors, fire, find)

    async def now(self, life: Life) -> asyncio.Future[Run] | None:
        """Hand in a run with the data of the spec; None where nobody serves or would take it."""
        try:
            event = requested_event(life, RunRequest(new_id()))
            return (await self.executions.accept(life.key, event)).finished
        except EngineRefused:
            return None

    def take_up(self, life: Life) -> Coroutine[Any, Any, None] | None:
        """Return what hands in the run that an annotation asks for, unless that was done."""
        request = life.desire.run
        if request is None or request.token == life.requested:
            return None
        life.requested = request.token
        return self._request(life, request)

    async def _request(self, life: Life, request: RunRequest) -> None:
        try:
            accepted = await self.executions.accept(life.key, requested_event(life, request))
        except EngineRefused as e:
            if not self.closing:  # or it is left to the next operator
                life.handled = request.token
                self._refused(life, e, asked=True)
            return
        if accepted.finished is None:  # an earlier process ended it and had no time to say so
            self._handled(life, request.token)
        else:
            accepted.finished.add_done_callback(
                lambda end: self._handled(
                    life, request.token, None if end.cancelled() else end.result()
                )
            )

    def _handled(self, life: Life, token: str, run: Run | None = None) -> None:
        # Only when it is over: a process that ends before leaves it to the next one.
        if self.closing and run and run.outcome.kind is OutcomeKind.CANCELLED:
            return
        life.handled = token
        if self._lives.get(life.key) is life:
            self._tell(life)

    def _refused(self, life: Life, error: EngineRefused, *, asked: bool = False) -> None:
        now = asyncio.get_running_loop().time()
        if not asked and now < self._refused_at.get(life.key, -math.inf) + _REFUSED_AGAIN_S:
            return
        if self.closing or self._lives.get(life.key) is not life:
            return
        self._refused_at[life.key] = now
        log.warning("%s: %s", error.reason, error.message, extra=names(life.key))
        self._note(life, Verdict(False, error.reason, error.message))
        self._tell(life)

    def forget(self, key: WorkflowKey) -> None:
        """Cancel what waits; what runs may end within the grace."""
        self._refused_at.pop(key, None)
        self.executions.detach(key)

    def _finished(self, key: WorkflowKey, run: Run) -> None:
        life = self._lives.get(key)
        if life is None:
            return
        life.runs.appendleft(brief(run, self._settings.result_bytes_max))
        life.judge(run.outcome, self._settings.failures_max)
        workflow = life.alive.workflow if life.alive else life.desire.workflow
        if self._sink and workflow:
            self._sink.deliver(workflow, run)
        if not self._untold:
            asyncio.get_running_loop().call_later(_TOLD_AFTER_S, self.tell)
        self._untold.add(key)

    def tell(self) -> None:
        """Tell of all that ended since the last time."""
        untold, self._untold = self._untold, set()
        for key in untold:
            if life := self._lives.get(key):
                self._tell(life)
