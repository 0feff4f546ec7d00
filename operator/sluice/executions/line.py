"""One workflow's executions: what waits, what runs, and by which rules."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto

from sluice.executions.acceptance import Pending
from sluice.executions.journal import Ask
from sluice.executions.performing import Perform, command
from sluice.executions.retries import Policy
from sluice.executions.tables import Owner
from sluice.snapshot import Run
from sluice.wasm.interrupt import Cancel
from sluice.wasm.lending import Lending
from sluice.workflow import Workflow, WorkflowKey


class Phase(Enum):
    COMMITTING = auto()  # its event is on the way to the disk
    WAITING = auto()
    LATER = auto()  # between two attempts
    RUNNING = auto()
    ENDING = auto()  # its end is on the way to the disk


@dataclass(eq=False, slots=True)
class Entry:
    """One execution from its acceptance until its end is on disk; its event may be on disk only."""

    id: str
    trigger: str
    accepted: float  # by the wall clock: it outlives this process
    size: int
    phase: Phase
    since: float = 0.0  # by the monotonic clock: when it began to wait
    payload: bytes | None = None
    attempts: int = 0
    failures: int = 0
    deaths: int = 0
    recovered: bool = False  # an earlier process accepted it
    asked: list[asyncio.Future[bool]] = field(default_factory=list)
    finished: asyncio.Future[Run] | None = None
    cancel: Cancel | None = None
    begun: Ask | None = None  # the note of it, while it may not be on disk yet
    timer: asyncio.TimerHandle | None = None  # its next attempt, or its deadline
    run: Run | None = None  # its end

    @property
    def end(self) -> asyncio.Future[Run]:
        """The end to wait for."""
        if self.finished is None:
            self.finished = asyncio.get_running_loop().create_future()
            if self.run:
                self.finished.set_result(self.run)
        return self.finished

    def pending(self) -> Pending:
        running = self.phase is Phase.RUNNING
        accepted = datetime.fromtimestamp(self.accepted, UTC)
        attempt = self.attempts if running else self.attempts + 1
        return Pending(self.id, self.trigger, accepted, running, attempt)

    def stop_timer(self) -> None:
        if self.timer:
            self.timer.cancel()
            self.timer = None


@dataclass(eq=False, slots=True, weakref_slot=True)
class Space:
    """One namespace: its lines that have something to begin, and how many of them run."""

    lines: deque["Line"] = field(default_factory=deque)
    running: int = 0
    listed: bool = False


@dataclass(eq=False, slots=True)
class Line:
    """One workflow. Without an engine what waits stays; where it is gone, nothing does."""

    owner: Owner
    space: Space
    used_at: float
    engine: Lending | None = None
    perform: Perform = command
    policy: Policy = field(default_factory=Policy)
    concurrency: dict[str, str] = field(default_factory=dict)  # of its cron triggers
    open: bool = False  # takes events
    gone: bool = False
    waking: bool = False  # its module is being mapped
    arming: bool = False  # what fired while a revision is armed waits for it
    held: bool = False  # what is first may have killed the process, and another such one runs
    reading: bool = False
    offered: bool = False
    attached_at: float = 0.0
    entries: dict[str, Entry] = field(default_factory=dict)
    waiting: deque[Entry] = field(default_factory=deque)
    running: int = 0
    ending: int = 0

    @property
    def key(self) -> WorkflowKey:
        return WorkflowKey(self.owner.namespace, self.owner.name)

    @property
    def names(self) -> dict[str, str]:
        return {"namespace": self.owner.namespace, "workflow": self.owner.name}

    @property
    def queued(self) -> int:
        """How many are accepted and neither run nor end."""
        return len(self.entries) - self.running - self.ending

    def ready(self, running_max: int) -> bool:
        return (
            bool(self.waiting)
            and self.engine is not None
            and self.running < running_max
            and not (self.waking or self.held or self.arming)
        )

    def follow(self, workflow: Workflow) -> None:
        """Go by the rules of this revision from now on."""
        self.policy = Policy.of(workflow.spec)
        self.concurrency = {
            trigger.name: trigger.cron.concurrency_policy
            for trigger in workflow.spec.triggers
            if trigger.cron
        }

    def attach(self, engine: Lending, perform: Perform) -> None:
        if self.engine is None:
            self.attached_at = time.monotonic()  # while nothing served, nothing grew old
        self.engine, self.perform = engine, perform
        self.waking = self.arming = False

    def of_trigger(self, trigger: str) -> list[Entry]:
        """Return what of one trigger is not over."""
        ending = Phase.ENDING
        return [e for e in self.entries.values() if e.trigger == trigger and e.phase is not ending]
