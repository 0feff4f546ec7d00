"""One object from its first sight to its deletion, and what is told of it."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field, replace
from itertools import takewhile

from sluice.desire import Desire, RunRequest
from sluice.errors import EngineRefused
from sluice.event import Event
from sluice.executions.performing import Guest
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.rollout.batches import Rollout
from sluice.settings import MIB
from sluice.snapshot import Run, Serving, Snapshot, Verdict
from sluice.wasm.lending import Lending
from sluice.workflow import Workflow, WorkflowKey

WAITING = Verdict(False, Reason.WAITING_FOR_TURN, "not admitted yet")
NOT_ADMITTED = Verdict(False, Reason.WAITING_FOR_TURN, "in the line of those that are to start")
ADMITTED = Verdict(True, Reason.ADMITTED, "admitted")
NOT_READ = Verdict(False, Reason.NOT_STARTED, "the ConfigMaps have not been read yet")
SUSPENDED = Verdict(False, Reason.SUSPENDED, "spec.suspend is true; set it to false to resume")


@dataclass(eq=False, slots=True)
class Alive:
    """A revision that serves: its engine, its armed triggers, and what it was made from."""

    guest: Guest
    config: str
    armed: AsyncExitStack
    seen: dict[str, str | None] = field(default_factory=dict)  # as ``supply.Supplied`` has it
    note: str = ""  # why it serves from the tier that it does, where that is worth a word

    @property
    def workflow(self) -> Workflow:
        """Return the revision, with the triggers that its guest brought if it is a CRE workflow."""
        return self.guest.workflow

    @property
    def engine(self) -> Lending:
        return self.guest.engine

    @property
    def facts(self) -> Serving:
        entry, workflow = self.engine.entry, self.workflow
        return Serving(
            workflow.digest,
            workflow.generation,
            entry.record["abi"],
            workflow.spec.module.size,
            str(entry.tier),
        )

    @property
    def praise(self) -> Verdict:
        record = self.engine.entry.record
        how = f"compiled in {record['seconds']:.1f} s, peak {record['peak_bytes'] / MIB:.0f} MiB"
        tier = f"{self.engine.entry.tier}, {how}"
        note = f"; {self.note}" if self.note else ""
        text = f"serving sha256:{self.workflow.digest[:12]}… ({tier}){note}"
        return Verdict(True, Reason.SERVING, text)


@dataclass(eq=False, slots=True)
class Life:
    """Everything that is known of one object."""

    desire: Desire
    ready: Verdict = WAITING
    admitted: Verdict = NOT_ADMITTED
    source: Verdict = NOT_READ
    alive: Alive | None = None
    held_off: ExitStack = field(default_factory=ExitStack)  # open doors of what does not serve
    task: asyncio.Task[None] | None = None
    runs: deque[Run] = field(default_factory=deque)
    succeeding: Verdict | None = None  # None: no execution has told yet
    failed_in_row: int = 0
    requested: str | None = None  # the token of the run on request that was taken up last
    handled: str | None = None  # … and of the one that is over
    state: str = ""  # as it is counted in the metrics, and the tier
    tier: str = ""

    @property
    def key(self) -> WorkflowKey:
        return self.desire.key

    @property
    def up_to_date(self) -> bool:
        """Whether what serves is what the object asks for."""
        alive = self.alive
        return bool(self.ready.ok and alive and alive.workflow.generation == self.desire.generation)

    def judge(self, outcome: Outcome, failures_max: int) -> None:
        """Take note of how an execution went; what is told changes only where it turns."""
        if outcome.ok:
            self.failed_in_row = 0
            self.succeeding = Verdict(
                True,
                Reason.RUNS_SUCCEEDING,
                f"fewer than {failures_max} executions in a row failed (failures_max)",
            )
        elif outcome.kind is not OutcomeKind.CANCELLED:
            self.failed_in_row += 1
            if self.failed_in_row == failures_max:
                newest = f"{outcome.kind}: {outcome.message}" if outcome.message else outcome.kind
                self.succeeding = Verdict(
                    False,
                    Reason.RUNS_FAILING,
                    f"the last {failures_max} executions failed, the newest of them {newest}",
                )

    def remember(self, runs: Sequence[Run], kept_max: int) -> None:
        """Take over what an earlier process told of runs, the newest first."""
        self.runs = deque(runs, kept_max)
        failed = takewhile(lambda run: not run.outcome.ok, runs)
        self.failed_in_row = sum(run.outcome.kind is not OutcomeKind.CANCELLED for run in failed)

    def snapshot(self, rollout: Rollout) -> Snapshot:
        workflow = self.desire.workflow
        ready, admitted = self.ready, self.admitted
        waits = None if ready.ok else rollout.explain(self.key)
        if waits:
            admitted, ready = waits, waits
        return Snapshot(
            key=self.key,
            uid=self.desire.uid,
            generation=self.desire.generation,
            digest=workflow.digest if workflow else None,
            ready=ready,
            admitted=admitted,
            source=self.source,
            serving=self.alive.facts if self.alive else None,
            runs=tuple(self.runs),
            handled_run_at=self.handled,
            succeeding=self.succeeding,
            parked=waits is not None and rollout.parked(self.key),
        )


def reading(workflow: Workflow) -> Verdict:
    """Return what is told of one that has its permit."""
    return Verdict(False, Reason.STARTING, f"reading and compiling sha256:{workflow.digest[:12]}…")


def requested_event(life: Life, request: RunRequest) -> Event:
    """Return the event of a run on request; raises EngineRefused where it cannot be."""
    workflow = life.alive.workflow if life.alive else life.desire.workflow
    if request.problem:
        raise EngineRefused(Reason.RUN_REFUSED, request.problem)
    if life.alive is None or workflow is None:
        raise EngineRefused(Reason.RUN_REFUSED, "the workflow is suspended")
    trigger = next((t for t in workflow.spec.triggers if t.manual), None)
    if trigger is None or trigger.manual is None:
        raise EngineRefused(
            Reason.RUN_REFUSED, "spec.triggers has no manual trigger; add one to run on request"
        )
    # The token is the id: where a run is repeated after a death, the guest can tell.
    return Event(
        kind="manual",
        trigger=trigger.name,
        data=trigger.manual.data if request.data is None else request.data,
        id=request.token,
    )


def brief(run: Run, result_bytes_max: int) -> Run:
    """Return what is kept of a run: history is in memory for every workflow, results add up."""
    outcome = replace(run.outcome, result=run.outcome.result[:result_bytes_max], log=b"")
    return replace(run, outcome=outcome)


def names(key: WorkflowKey) -> dict[str, str]:
    """Return the fields by which a line of the log is found."""
    return {"namespace": key.namespace, "workflow": key.name}
