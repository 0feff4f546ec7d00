"""What the fleet knows of one workflow at one moment, for everyone who shows it."""

from dataclasses import dataclass
from datetime import datetime

from sluice.outcome import Outcome
from sluice.reasons import Reason
from sluice.workflow import WorkflowKey


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition without its type and times; ``ok`` None is Unknown."""

    ok: bool | None
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Serving:
    """The revision that runs executions now: not always the one that is wanted."""

    digest: str
    generation: int
    abi: str
    size_bytes: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """One finished execution."""

    id: str
    trigger: str
    started: datetime
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """``runs`` are the last few, the newest first."""

    key: WorkflowKey
    uid: str
    generation: int
    digest: str
    ready: Verdict
    admitted: Verdict
    source: Verdict
    serving: Serving | None
    runs: tuple[Run, ...]
    handled_run_at: str | None
    busy: bool

    @property
    def settled(self) -> bool:
        """Whether nothing is under way that would change the answer: Ready, suspended, failed."""
        return self.ready.reason not in {Reason.STARTING, Reason.WAITING_FOR_TURN}
