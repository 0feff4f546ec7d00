"""What the fleet knows of one workflow at one moment, for everyone who shows it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sluice.outcome import Outcome
from sluice.reasons import Reason
from sluice.workflow import WorkflowKey

UNDER_WAY = frozenset({Reason.STARTING, Reason.WAITING_FOR_TURN, Reason.WAITING_FOR_MEMORY})


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition without its type and times."""

    ok: bool
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Serving:
    """The revision that runs executions now: not always the one that is wanted."""

    digest: str
    generation: int
    abi: str
    size_bytes: int
    tier: str


@dataclass(frozen=True, slots=True)
class Run:
    """One finished execution: its last attempt, and how many there were."""

    id: str
    trigger: str
    started: datetime
    outcome: Outcome
    attempts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """``runs`` are the last few, the newest first, their results cut to ``result_bytes_max``."""

    key: WorkflowKey
    uid: str
    generation: int
    digest: str | None  # None where the object could not be parsed
    ready: Verdict
    admitted: Verdict
    source: Verdict
    serving: Serving | None
    runs: tuple[Run, ...]
    handled_run_at: str | None
    parked: bool = False  # it waits for memory that nothing under way will bring
    succeeding: Verdict | None = None  # None: nothing is known since this process began

    @property
    def settled(self) -> bool:
        """Whether nothing is under way that would change the answer: Ready, suspended, failed."""
        return self.parked or self.ready.reason not in UNDER_WAY

    @property
    def state(self) -> str:
        """The label of the ``sluice_workflows`` metric."""
        if self.ready.ok:
            return "ready"
        if self.ready.reason is Reason.SUSPENDED:
            return "suspended"
        return "starting" if self.ready.reason in UNDER_WAY else "failed"


class Reporter(Protocol):
    """Who is told; every method records and returns at once."""

    def changed(self, snapshot: Snapshot) -> None: ...

    def gone(self, key: WorkflowKey) -> None: ...

    def event(self, snapshot: Snapshot, note: Verdict) -> None:
        """Tell of something that no condition shows."""
        ...

    def rollout(self, note: Verdict) -> None:
        """Tell of a hold of the whole rollout that began or ended."""
        ...
