"""The door to executions: here events are accepted, and whoever asks is told of their ends."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial

from sluice.errors import EngineRefused
from sluice.event import Event
from sluice.executions.acceptance import Accepted, Pending
from sluice.executions.journal import Journal
from sluice.executions.line import Entry, Line, Phase
from sluice.executions.performing import Perform, command
from sluice.executions.scheduler import Scheduler
from sluice.executions.tables import Left, Owner, Tables
from sluice.metrics import TRIGGER_KINDS, Metrics
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.snapshot import Run
from sluice.wasm.lending import Lending
from sluice.workflow import Workflow, WorkflowKey

log = logging.getLogger(__name__)


class Executions:
    """Accepts events, keeps them on disk until their executions are over, and the ends for longer.

    A workflow is known from its first sight to its deletion. It takes events from ``open`` to
    ``suspend``, and they run from ``attach`` on. A replaced engine lives until its last execution
    is over; what waits goes to its successor. All belongs to one event loop.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        metrics: Metrics,
        done: Callable[[WorkflowKey, Run], None],
        wake: Callable[[WorkflowKey], None] = lambda _: None,
    ) -> None:
        self._journal, self._settings = journal, settings
        self._scheduler = Scheduler(journal, settings, metrics, done, wake)
        self._load = self._scheduler.queues.load
        self._lines: dict[WorkflowKey, Line] = {}
        # What an earlier process left for workflows that nobody has shown yet.
        self._left: defaultdict[Owner, list[Left]] = defaultdict(list)
        self._all_known = False
        self._events = {
            (trigger, result): metrics.events.labels(trigger, result)
            for trigger in TRIGGER_KINDS
            for result in ("accepted", "duplicate", "refused", "skipped")
        }
        metrics.executions_running.set_function(lambda: self._scheduler.running)
        metrics.executions_waiting.set_function(
            lambda: sum(line.queued for line in self._lines.values())
        )
        journal.start(self._recovered, self._scheduler.pump, lambda: self._load.entries)

    # The lives of workflows

    def know(self, key: WorkflowKey, uid: str) -> None:
        """Take up what an earlier process left for this object, and nothing that was another's."""
        owner = Owner(*key, uid)
        line = self._lines.get(key)
        if line and line.owner == owner:
            return
        if line:
            self.detach(key)
        space = self._scheduler.turns.space(key.namespace)
        self._lines[key] = line = Line(owner, space, used_at=time.monotonic())
        for left in self._left.pop(owner, ()):
            self._place(line, left)

    def all_known(self) -> None:
        """Remove what is on disk of workflows that are not there any more."""
        self._all_known = True
        for left in self._left.values():
            self._load.entries -= len(left)
            self._load.bytes -= sum(one.size for one in left)
        self._left.clear()
        owners = frozenset(line.owner for line in self._lines.values())
        self._journal.write(partial(Tables.keep_only, owners=owners))

    def open(self, workflow: Workflow) -> None:
        """Take events by the rules of this revision; they run once an engine is attached."""
        self.know(workflow.key, workflow.uid)
        line = self._lines[workflow.key]
        line.open = True
        line.follow(workflow)

    def arming(self, key: WorkflowKey, fired: bool) -> None:
        """Let what fires for a revision that is being armed wait for it; or no longer.

        Else the startup of a new revision would run on the one that it replaces.
        """
        if line := self._lines.get(key):
            line.arming = fired
            self._scheduler.offer(line)

    def attach(self, workflow: Workflow, engine: Lending, perform: Perform = command) -> None:
        """Run what comes from now on, and what waits, on ``engine``."""
        self.open(workflow)
        self._lines[workflow.key].attach(engine, perform)
        self.awake(workflow.key)

    def awake(self, key: WorkflowKey) -> None:
        """Go on with what waited for the engine's module to be mapped again."""
        if line := self._lines.get(key):
            line.waking = False
            self._scheduler.offer(line)

    def refuse(self, key: WorkflowKey, message: str) -> None:
        """End what waits for a module that could not be mapped again."""
        if line := self._lines.get(key):
            line.waking = False
            self._scheduler.end_waiting(line, Outcome(OutcomeKind.REFUSED, message))

    def idle_s(self, key: WorkflowKey) -> float:
        """Return for how long nothing of ``key`` has waited or run."""
        line = self._lines.get(key)
        if line is None or line.entries:
            return 0.0
        return time.monotonic() - line.used_at

    def suspend(self, key: WorkflowKey) -> None:
        """Take no events and begin nothing; what waits stays, what runs ends by itself."""
        if line := self._lines.get(key):
            line.open, line.engine = False, None

    def detach(self, key: WorkflowKey) -> None:
        """Forget a workflow: what waits is cancelled, what runs may go on for ``drain_s``."""
        line = self._lines.pop(key, None)
        if line is None:
            return
        line.open, line.gone = False, True
        self._journal.write(partial(Tables.forget, owner=line.owner))
        self._scheduler.end_waiting(line, Outcome(OutcomeKind.CANCELLED, "not started"))
        line.engine = None
        if line.running:
            asyncio.get_running_loop().call_later(
                self._settings.drain_s, self._scheduler.cancel_running, line,
                "the workflow was deleted",
            )  # fmt: skip

    # Events

    async def accept(self, key: WorkflowKey, event: Event, cursor: str | None = None) -> Accepted:
        """Return once the event is on disk, or is known to have been there before.

        An event that its trigger's concurrencyPolicy Forbid drops is no duplicate and has no end.

        Raises:
            EngineRefused: QueueFull, or RunRefused where nothing serves or the disk fails.

        """
        try:
            accepted = await self._accept(key, event, cursor)
        except EngineRefused:
            self._events[event.kind, "refused"].inc()
            raise
        skipped = accepted.finished is None and not accepted.duplicate
        result = "skipped" if skipped else "duplicate" if accepted.duplicate else "accepted"
        self._events[event.kind, result].inc()
        return accepted

    async def _accept(self, key: WorkflowKey, event: Event, cursor: str | None) -> Accepted:
        line = self._lines.get(key)
        if line is None or not line.open or self._scheduler.closing:
            raise EngineRefused(Reason.RUN_REFUSED, "nothing serves this workflow now")
        known = line.entries.get(event.id)
        forbids = line.concurrency.get(event.trigger) == "Forbid"
        if known is None and forbids and line.of_trigger(event.trigger):
            await self._pass(line, event.trigger, cursor)
            return Accepted(event.id, False, None)
        entry = known or self._hand_in(line, event, cursor)
        if known:
            await self._pass(line, event.trigger, cursor)
        if entry.phase is Phase.COMMITTING:
            answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            entry.asked.append(answer)
            if not await answer:
                before = line.entries.get(event.id)
                return Accepted(event.id, True, before.end if before else None)
        return Accepted(entry.id, known is not None, entry.end)

    async def _pass(self, line: Line, trigger: str, cursor: str | None) -> None:
        """Keep where a watch is although the event that it saw makes no execution."""
        if cursor is not None:
            keep = partial(Tables.keep_cursor, owner=line.owner, trigger=trigger, cursor=cursor)
            await self._journal.do(keep)

    def _hand_in(self, line: Line, event: Event, cursor: str | None) -> Entry:
        try:
            payload = event.dump()
        except (TypeError, ValueError, RecursionError) as e:
            raise EngineRefused(
                Reason.RUN_REFUSED, f"the data of the event is not JSON: {e}"
            ) from None
        self._check_room(line, len(payload))
        now = time.time()
        entry = Entry(event.id, event.trigger, now, len(payload), Phase.COMMITTING, payload=payload)
        line.entries[entry.id] = entry
        self._load.entries += 1
        self._load.bytes += entry.size
        self._journal.write(
            partial(
                Tables.accept, owner=line.owner, id_=entry.id, trigger=entry.trigger,
                event=payload, at=now, cursor=cursor,
            ),
            partial(self._committed, line, entry),
            partial(self._not_committed, line, entry),
        )  # fmt: skip
        return entry

    def _check_room(self, line: Line, size: int) -> None:
        settings, load = self._settings, self._load
        problem = None
        if line.queued >= settings.queue_max:
            problem = (
                f"{line.queued} executions wait already (queue_max); a trigger is faster than the "
                "workflow"
            )
        elif load.entries >= settings.accepted_max:
            problem = f"{load.entries:,} executions of all workflows are not over (accepted_max)"
        elif load.bytes + size > settings.journal_bytes_max:
            problem = (
                f"events of {load.bytes:,} bytes of all workflows wait and this one has {size:,} "
                f"more, of at most {settings.journal_bytes_max:,} (journal_bytes_max)"
            )
        if problem:
            raise EngineRefused(Reason.QUEUE_FULL, problem)

    def _committed(self, line: Line, entry: Entry, new: bool) -> None:
        if not new:
            self._scheduler.drop(line, entry)
        elif line.concurrency.get(entry.trigger) == "Replace":
            self._scheduler.replace(line, entry)
        for answer in entry.asked:
            if not answer.done():
                answer.set_result(new)
        entry.asked.clear()
        if new:
            self._scheduler.queues.add(line, entry)
            if line.gone:
                cancelled = Outcome(OutcomeKind.CANCELLED, "not started")
                self._scheduler.end_waiting(line, cancelled)

    def _not_committed(self, line: Line, entry: Entry, error: EngineRefused) -> None:
        self._scheduler.drop(line, entry)
        for answer in entry.asked:
            if not answer.done():
                answer.set_exception(error)

    # What an earlier process left

    def _recovered(self, waiting: list[Left]) -> None:
        owners = {line.owner: line for line in self._lines.values()}
        for left in waiting:
            line = owners.get(left.owner)
            if line is None and self._all_known:
                continue  # the next list of what is there removes it
            self._load.entries += 1
            self._load.bytes += left.size
            if line:
                self._place(line, left)
            else:
                self._left[left.owner].append(left)
        if self._all_known:
            self.all_known()

    def _place(self, line: Line, left: Left) -> None:
        entry = Entry(
            left.id, left.trigger, left.at, left.size, Phase.WAITING, attempts=left.attempts,
            failures=left.failures, deaths=left.deaths, recovered=True,
        )  # fmt: skip
        line.entries[entry.id] = entry
        if left.not_before > time.time():
            self._scheduler.queues.postpone(line, entry, left.not_before)
        else:
            self._scheduler.queues.add(line, entry)

    # What is told

    @property
    def failure(self) -> str | None:
        """Why nothing is accepted or begun just now; None: all is well."""
        return self._journal.failure

    def ends(self, key: WorkflowKey) -> list[asyncio.Future[Run]]:
        """Return the ends to come of what is accepted and not over."""
        line = self._lines.get(key)
        return [entry.end for entry in line.entries.values()] if line else []

    async def find(self, key: WorkflowKey, id_: str) -> Run | Pending | None:
        """Return an execution of a workflow: its end, or where it is; None: nobody knows of it.

        Raises:
            EngineRefused: the disk fails.

        """
        line = self._lines.get(key)
        if line is None:
            return None
        if entry := line.entries.get(id_):
            return entry.run or entry.pending()
        return await self._journal.read(partial(Tables.find, owner=line.owner, id_=id_))

    async def history(self, key: WorkflowKey, limit: int) -> list[Run]:
        """Return the last executions that are over, the newest first: no logs, results cut."""
        line = self._lines.get(key)
        if line is None:
            return []
        settings = self._settings
        return await self._journal.read(partial(
            Tables.page, owner=line.owner, limit=min(limit, settings.history_max),
            result_bytes_max=settings.result_bytes_max,
        ))  # fmt: skip

    async def recent(self, key: WorkflowKey, limit: int) -> list[Run | Pending] | None:
        """Return what is not over and then what is, the newest first; None: no such workflow."""
        line = self._lines.get(key)
        if line is None:
            return None
        pending = [entry.run or entry.pending() for entry in reversed(line.entries.values())]
        return [*pending, *await self.history(key, limit)][:limit]

    async def log(self, key: WorkflowKey, id_: str) -> bytes:
        """Return the tail of what an execution wrote to its log; empty while it is not over."""
        found = await self.find(key, id_)
        return found.outcome.log if isinstance(found, Run) else b""

    async def cursor(self, key: WorkflowKey, trigger: str) -> str | None:
        """Return what was stored last with an event of a trigger."""
        line = self._lines.get(key)
        if line is None:
            return None
        return await self._journal.read(partial(Tables.cursor, owner=line.owner, trigger=trigger))

    async def keep_cursor(self, key: WorkflowKey, uid: str, trigger: str, cursor: str) -> None:
        """Store where a trigger of this object is, without an event."""
        line = self._lines.get(key)
        if line and line.owner.uid == uid:
            await self._pass(line, trigger, cursor)

    # The end

    async def drain(self) -> bool:
        """Begin nothing any more and let what runs end within ``drain_s``; the rest stays on disk.

        Return whether nothing had to be cut off.
        """
        drained = await self._scheduler.drain()
        for line in self._lines.values():
            self._scheduler.leave(line)
        left = sum(line.queued for line in self._lines.values())
        if left and self._journal.durable:
            log.info("executions left for the next start: %d", left)
        return drained

    async def close(self) -> None:
        """Write what is to be written; nothing may be asked any more."""
        await self._journal.close()
