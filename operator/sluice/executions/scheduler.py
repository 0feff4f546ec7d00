"""Begins executions when it is their turn, judges how each attempt ended, and writes both down."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from sluice.errors import EngineRefused, SluiceError
from sluice.event import Event
from sluice.executions.journal import Journal
from sluice.executions.line import Entry, Line, Phase
from sluice.executions.performing import Perform
from sluice.executions.pool import Pool
from sluice.executions.retries import next_attempt
from sluice.executions.tables import Tables
from sluice.executions.turns import Turns
from sluice.executions.waiting import Queues
from sluice.metrics import Metrics
from sluice.outcome import Outcome, OutcomeKind
from sluice.settings import Settings
from sluice.snapshot import Run
from sluice.wasm.interrupt import Cancel
from sluice.wasm.lending import Lending
from sluice.workflow import WorkflowKey

log = logging.getLogger(__name__)
# Beyond drain_s: a guest that is cancelled ends at the next tick.
_CANCELLED_S_MAX = 2.0


class Scheduler:
    """Runs what the lines hold on a few threads, by turns.

    A guest may sleep, or loop, for as long as its time limit allows. So no workflow takes the last
    thread that its namespace may have, and no namespace the last one of all.

    ``done`` is told of each end once it is on disk. Where an engine's module is unmapped, ``wake``
    is called once, and the line waits for it.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        metrics: Metrics,
        done: Callable[[WorkflowKey, Run], None],
        wake: Callable[[WorkflowKey], None],
    ) -> None:
        self._journal, self._settings, self._metrics = journal, settings, metrics
        self._done, self._wake = done, wake
        self._loop = asyncio.get_running_loop()
        workers, spare = settings.workers, settings.workers_spare
        self.turns = Turns(
            min(settings.running_max, workers), min(settings.namespace_running_max, workers + spare)
        )
        self.queues = Queues(journal, settings, self.offer, self._end_hopeless)
        self._free = workers + 2 * spare
        self._pool = Pool(self._free)
        self._running: dict[Entry, Line] = {}
        self._held: list[Line] = []
        self._suspect: Entry | None = None  # the one that runs of those beside which we have died
        self._rested: asyncio.Future[None] | None = None
        self._outcomes = {kind: metrics.executions.labels(kind) for kind in OutcomeKind}
        again = "; it runs again at the next start" if journal.durable else ""
        self._stopping = f"the operator is stopping{again}"
        self.closing = False

    @property
    def running(self) -> int:
        return len(self._running)

    def offer(self, line: Line) -> None:
        """Begin what a line has to begin, when it is its turn."""
        self.turns.offer(line)
        self.pump()

    def pump(self) -> None:
        """Begin what can be begun. While nothing can be written, nothing begins."""
        while self._free and not self.closing and self._journal.failure is None:
            line = self.turns.take()
            if line is None:
                return
            if self._may_begin(line):
                self._begin(line)
            self.turns.offer(line)

    def end_waiting(self, line: Line, outcome: Outcome) -> None:
        """End all that waits with one outcome."""
        for entry in list(line.entries.values()):
            self._end_waiting(line, entry, outcome)

    def cancel_running(self, line: Line, message: str) -> None:
        """End what runs at its next tick."""
        for entry, of in list(self._running.items()):
            if of is line and entry.cancel:
                entry.cancel.cancel(OutcomeKind.CANCELLED, message)

    def replace(self, line: Line, entry: Entry) -> None:
        """Let one execution take the place of the others of its trigger."""
        message = f"replaced by {entry.id}"
        for other in line.of_trigger(entry.trigger):
            if other is entry:
                continue
            if other.phase is Phase.RUNNING and other.cancel:
                other.cancel.cancel(OutcomeKind.CANCELLED, message)
            self._end_waiting(line, other, Outcome(OutcomeKind.CANCELLED, message))

    def drop(self, line: Line, entry: Entry) -> None:
        """Take an execution that is over, or never was, out of all counts."""
        if line.entries.get(entry.id) is entry:
            del line.entries[entry.id]
        self.queues.load.entries -= 1
        self.queues.load.bytes -= entry.size

    async def drain(self) -> bool:
        """Begin nothing any more, let what runs end within ``drain_s``, then cut it off.

        What was cut off, and what waits, is on disk for the next start. Return whether nothing had
        to be cut off.
        """
        self.closing = True
        self.queues.close()
        drained = await self._rest(self._settings.drain_s)
        for entry in self._running:
            if entry.cancel:
                entry.cancel.cancel(OutcomeKind.CANCELLED, self._stopping)
        await self._rest(_CANCELLED_S_MAX)
        self._pool.close()
        return drained

    def leave(self, line: Line) -> None:
        """Tell those who wait for the end of what is left on disk that it comes later."""
        for entry in line.entries.values():
            if entry.phase is Phase.ENDING:
                continue  # its end is on the way
            entry.stop_timer()
            if entry.finished and not entry.finished.done():
                outcome = Outcome(OutcomeKind.CANCELLED, self._stopping)
                entry.finished.set_result(_run_of(entry, outcome, None))

    async def _rest(self, within_s: float) -> bool:
        """Return once nothing runs, or False where something still does."""
        if self._running:
            self._rested = self._loop.create_future()
            await asyncio.wait([self._rested], timeout=within_s)
        return not self._running

    # One attempt

    def _may_begin(self, line: Line) -> bool:
        """Whether the first of a line can begin now; those that never will are ended."""
        self._end_hopeless(line)
        if not line.waiting or line.engine is None:
            return False
        if line.waiting[0].deaths and self._suspect:
            line.held = True
            self._held.append(line)
            return False
        if not line.engine.mapped:
            line.waking = True
            self._wake(line.key)
            return False
        return True

    def _end_hopeless(self, line: Line) -> None:
        """End what will never begin; the first of a line has waited longest."""
        if line.engine is None or self._journal.failure is not None:
            return  # while it could not run it does not grow old
        while line.waiting and (outcome := self._hopeless(line, line.waiting[0])):
            self._end_waiting(line, line.waiting[0], outcome)

    def _end_waiting(self, line: Line, entry: Entry, outcome: Outcome) -> None:
        if entry.phase in {Phase.WAITING, Phase.LATER}:
            self.queues.remove(line, entry)
            self._finish(line, entry, outcome)

    def _hopeless(self, line: Line, entry: Entry) -> Outcome | None:
        settings, kind = self._settings, OutcomeKind.REFUSED
        if entry.deaths >= settings.attempts_max:
            return Outcome(kind, f"the operator's process ended {entry.deaths} times while it ran "
                           "(attempts_max)")  # fmt: skip
        left_s = line.policy.left_s(entry.accepted, time.time())
        if left_s is not None and left_s <= 0:
            return Outcome(OutcomeKind.TIMED_OUT, _past_deadline(line))
        waited_s = time.monotonic() - max(entry.since, line.attached_at)
        if waited_s > settings.queue_ttl_s:
            return Outcome(kind, f"waited longer than {settings.queue_ttl_s:g} s (queue_ttl_s)")
        return None

    def _begin(self, line: Line) -> None:
        entry = line.waiting[0]
        payload = self.queues.remove(line, entry)
        self.turns.began(line)
        self._free -= 1
        self._running[entry] = line
        entry.phase, entry.cancel = Phase.RUNNING, Cancel()
        entry.attempts += 1
        if entry.deaths:
            self._suspect = entry
        if payload is None or entry.recovered:
            # On disk first: what kills the process at once must not escape being counted for ever.
            self._journal.write(
                partial(Tables.begin, owner=line.owner, id_=entry.id, attempts=entry.attempts),
                partial(self._launch, line, entry), partial(self._not_begun, line, entry),
            )  # fmt: skip
        else:
            entry.begun = self._journal.write(
                partial(Tables.begun, owner=line.owner, id_=entry.id, attempts=entry.attempts),
                lazy=True,
            )
            self._launch(line, entry, payload)
        self.queues.read_ahead(line)

    def _launch(self, line: Line, entry: Entry, payload: bytes | None) -> None:
        engine, cancel = line.engine, entry.cancel
        assert cancel is not None
        if payload is None:
            lost = "its event is lost: the journal was corrupt and had to be set aside"
            self._over(line, entry, None, Outcome(OutcomeKind.REFUSED, lost))
            return
        if engine is None or self.closing:  # suspended or stopped while it was read
            self._not_begun(line, entry)
            return
        left_s = line.policy.left_s(entry.accepted, time.time())
        if left_s is not None:
            entry.timer = self._loop.call_later(
                left_s, cancel.cancel, OutcomeKind.TIMED_OUT, _past_deadline(line)
            )
        source = f"/{line.owner.namespace}/{line.owner.name}"
        self._pool.run(
            partial(_attempt, line.perform, engine, payload, source, entry.attempts, cancel),
            partial(self._over, line, entry, datetime.now(UTC)),
        )

    def _not_begun(self, line: Line, entry: Entry, _: EngineRefused | None = None) -> None:
        """Put back what could not be read; it is first again when its line's turn comes."""
        entry.attempts -= 1
        self._again(line, entry, 0.0)
        self._free_worker(line, entry)
        if line.gone:
            self._finish(line, entry, Outcome(OutcomeKind.CANCELLED, "not started"))
            return
        self.queues.put_back(line, entry)

    def _over(self, line: Line, entry: Entry, started: datetime | None, outcome: Outcome) -> None:
        # Before anybody is told: what fails there must not cost a worker.
        self._free_worker(line, entry)
        try:
            self._judge(line, entry, started, outcome)
        finally:
            self.pump()

    def _free_worker(self, line: Line, entry: Entry) -> None:
        del self._running[entry]
        entry.stop_timer()
        self._free += 1
        line.used_at = time.monotonic()
        if self._suspect is entry:
            self._suspect = None
            held, self._held = self._held, []
            for other in held:
                other.held = False
                self.turns.offer(other)
        self.turns.ended(line)
        if self._rested and not self._running and not self._rested.done():
            self._rested.set_result(None)

    def _judge(self, line: Line, entry: Entry, started: datetime | None, outcome: Outcome) -> None:
        if entry.begun:
            entry.begun.work = None  # if it is not written yet, it need not be any more
        if self.closing and outcome.kind is OutcomeKind.CANCELLED and not line.gone:
            self._again(line, entry, 0.0)
            if entry.finished and not entry.finished.done():
                entry.finished.set_result(_run_of(entry, outcome, started))
            return
        now = time.time()
        at = next_attempt(
            line.policy, outcome.kind, entry.failures + 1, entry.accepted, now,
            random.random(),  # noqa: S311 - jitter
        )  # fmt: skip
        if at is None or line.gone:
            self._finish(line, entry, outcome, started)
            return
        entry.failures += 1
        self._metrics.retries.inc()
        self._again(line, entry, at)
        self.queues.postpone(line, entry, at)
        log.info(
            "execution %s: attempt %d %s %s; the next one in %.1f s", entry.id, entry.attempts,
            outcome.kind, outcome.message, at - now, extra=line.names | {"execution": entry.id},
        )  # fmt: skip

    def _again(self, line: Line, entry: Entry, not_before: float) -> None:
        self._journal.write(partial(
            Tables.again, owner=line.owner, id_=entry.id, attempts=entry.attempts,
            failures=entry.failures, not_before=not_before,
        ))  # fmt: skip

    def _finish(
        self, line: Line, entry: Entry, outcome: Outcome, started: datetime | None = None
    ) -> None:
        """Write an end down, and tell of it once it is there."""
        entry.phase, entry.run = Phase.ENDING, _run_of(entry, outcome, started)
        line.ending += 1
        if line.gone:
            self._told(line, entry, bool(started))
            return
        self._journal.write(
            partial(Tables.finish, owner=line.owner, run=entry.run),
            lambda _: self._told(line, entry, bool(started)),
        )

    def _told(self, line: Line, entry: Entry, began: bool) -> None:
        run = entry.run
        assert run is not None
        line.ending -= 1
        self.drop(line, entry)
        outcome = run.outcome
        self._outcomes[outcome.kind].inc()
        if began:
            self._metrics.execution_seconds.observe(outcome.duration_s)
        log.info(
            "execution %s: %s %s", run.id, outcome.kind, outcome.message,
            extra=line.names | {"execution": run.id},
        )  # fmt: skip
        if entry.finished and not entry.finished.done():
            entry.finished.set_result(run)
        if not line.gone:  # or it would be told of a workflow that was made anew under the name
            self._done(line.key, run)


def _past_deadline(line: Line) -> str:
    return f"not over {line.policy.deadline_s:g} s after its event (spec.activeDeadlineSeconds)"


def _run_of(entry: Entry, outcome: Outcome, started: datetime | None) -> Run:
    return Run(entry.id, entry.trigger, started or datetime.now(UTC), outcome, entry.attempts)


def _attempt(
    perform: Perform, engine: Lending, payload: bytes, source: str, attempt: int, cancel: Cancel
) -> Outcome:
    try:
        return perform(engine, Event.load(payload), source, attempt, cancel)
    except SluiceError as e:
        return Outcome(OutcomeKind.REFUSED, e.message)
    except Exception:
        log.exception("an execution failed inside the operator")
        return Outcome(OutcomeKind.REFUSED, "the operator failed; its log says how")
