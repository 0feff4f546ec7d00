"""What is wanted, what is alive, and the one path between them."""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from sluice import triggers
from sluice.desire import Desire, RunRequest
from sluice.errors import ContentInvalid, EngineRefused, SluiceError, WorkflowInvalid
from sluice.event import Event, new_id
from sluice.executions import Executions
from sluice.metrics import Metrics
from sluice.reasons import ABOUT_THE_MODULE, Reason
from sluice.rollout.batches import Rollout
from sluice.settings import MIB, Settings
from sluice.snapshot import Reporter, Run, Serving, Snapshot, Verdict
from sluice.supply import Supplied, Supply
from sluice.upkeep import VERIFIED, Upkeep
from sluice.wasm.engine import Engine
from sluice.wasm.runtime import Runtime
from sluice.workflow import Workflow, WorkflowKey

log = logging.getLogger(__name__)
_NOT_ADMITTED = Verdict(False, Reason.WAITING_FOR_TURN, "in the line of those that are to start")
_WAITING = Verdict(False, Reason.WAITING_FOR_TURN, "not admitted yet")
_ADMITTED = Verdict(True, Reason.ADMITTED, "admitted")
_NOT_READ = Verdict(False, Reason.NOT_STARTED, "the ConfigMaps have not been read yet")
_SUSPENDED = Verdict(False, Reason.SUSPENDED, "spec.suspend is true; set it to false to resume")
Subscribe = Callable[[Engine], Awaitable[None]]


async def subscribe_nothing(_: Engine) -> None:
    """Return at once: a WASI program has no interface to subscribe through."""


@dataclass(eq=False, slots=True)
class _Alive:
    """A revision that serves: its engine, its armed triggers, and what it was made from."""

    workflow: Workflow
    config: str
    engine: Engine
    armed: ExitStack
    facts: Serving


@dataclass(eq=False, slots=True)
class _Life:
    """One object from its first sight to its deletion."""

    desire: Desire
    ready: Verdict
    admitted: Verdict = _NOT_ADMITTED
    source: Verdict = _NOT_READ
    alive: _Alive | None = None
    task: asyncio.Task[None] | None = None
    runs: deque[Run] = field(default_factory=deque)
    requested: str | None = None  # the token of the run on request that was taken up last
    handled: str | None = None  # … and of the one that is over
    state: str = ""

    @property
    def key(self) -> WorkflowKey:
        return self.desire.key


class Fleet:
    """Keeps what is alive equal to what is wanted.

    Every public method but ``close`` records and returns at once; one task for each object does
    the work, always toward the latest desire. All belongs to one event loop.
    """

    def __init__(
        self,
        supply: Supply,
        runtime: Runtime,
        rollout: Rollout,
        settings: Settings,
        metrics: Metrics,
        reporter: Reporter,
        subscribe: Subscribe = subscribe_nothing,
    ) -> None:
        self._supply, self._runtime, self._rollout = supply, runtime, rollout
        self._settings, self._metrics, self._reporter = settings, metrics, reporter
        self._subscribe = subscribe
        self._upkeep = Upkeep(supply, settings)
        self._executions = Executions(settings, metrics, self._finished)
        self._lives: dict[WorkflowKey, _Life] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def want(self, desire: Desire, handled: str | None = None, runs: tuple[Run, ...] = ()) -> None:
        """Record what is wanted.

        ``handled`` and ``runs`` are what an earlier process knew; they count at first sight only.
        """
        life = self._lives.get(desire.key)
        if life and life.desire.uid != desire.uid:
            self.forget(desire.key)  # deleted and made anew while nobody looked
            life = None
        if life is None:
            life = _Life(desire, _WAITING, handled=handled, requested=handled)
            life.runs = deque(runs, self._settings.runs_kept_max)
            self._lives[desire.key] = life
            self._begin(life)
            return
        if desire.generation < life.desire.generation:
            return  # an old word that came late
        changed, life.desire = desire.supersedes(life.desire), desire
        if changed:
            self._begin(life)
        else:
            self._take_up_request(life)

    def forget(self, key: WorkflowKey, uid: str | None = None) -> None:
        """End a workflow at once; with ``uid``, only if it is still that object."""
        life = self._lives.get(key)
        if life is None or (uid is not None and life.desire.uid != uid):
            return
        del self._lives[key]
        self._end(life)
        self._count(life, "")
        self._reporter.gone(key)

    def keys(self) -> dict[WorkflowKey, str]:
        """Return the uid of every object that is known."""
        return {key: life.desire.uid for key, life in self._lives.items()}

    def run_manually(self, key: WorkflowKey) -> "asyncio.Future[Run] | None":
        """Queue a run with the data of the spec; None where nobody serves or would take it."""
        life = self._lives[key]
        try:
            event = _requested_event(life, RunRequest(new_id()))
            return self._executions.submit(key, event)
        except EngineRefused:
            return None

    def snapshot(self, key: WorkflowKey) -> Snapshot | None:
        life = self._lives.get(key)
        return self._snapshot(life) if life else None

    def snapshots(self) -> list[Snapshot]:
        return [self._snapshot(life) for _, life in sorted(self._lives.items())]

    async def close(self) -> bool:
        """Stop everything; what runs may end within the grace. Return whether all did."""
        for life in self._lives.values():
            self._stop_task(life)
            if life.alive:
                life.alive.armed.close()
        drained = await self._executions.drain()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._executions.close()
        return drained

    # The life of one object

    def _begin(self, life: _Life) -> None:
        self._stop_task(life)
        workflow = life.desire.workflow
        if workflow and workflow.spec.suspend:
            self._end(life)
            life.ready, life.admitted = _SUSPENDED, replace(_SUSPENDED, message="suspended")
            self._settle(life)
            return
        life.task = asyncio.create_task(self._live(life), name=str(life.key))
        self._tasks.add(life.task)
        life.task.add_done_callback(self._tasks.discard)

    def _end(self, life: _Life) -> None:
        self._stop_task(life)
        self._executions.detach(life.key)
        if life.alive:
            life.alive.armed.close()
            life.alive = None

    @staticmethod
    def _stop_task(life: _Life) -> None:
        if life.task:
            life.task.cancel()
            life.task = None

    async def _live(self, life: _Life) -> None:
        """Converge until it holds, keep it so, and wait in the right way after each failure."""
        failures = 0
        while True:
            # The wait is outside of the except: an error that is kept keeps what its frames hold.
            failures += 1
            try:
                await self._converge(life)
                failures = 0
                wait = self._keep(life)
            except ContentInvalid as e:
                life.source = Verdict(False, e.reason, e.message)
                self._failed(life, e)
                wait = self._upkeep.until_changed(life.key.namespace, e.seen)
            except WorkflowInvalid as e:
                if e.reason in ABOUT_THE_MODULE:
                    life.source = VERIFIED
                self._failed(life, e)
                return
            except SluiceError as e:
                self._failed(life, e)
                wait = asyncio.sleep(self._pause_s(failures))
            except Exception:
                log.exception("a start failed inside the operator", extra=_names(life.key))
                error = EngineRefused(Reason.ENGINE_REFUSED, "the operator's log says how")
                self._failed(life, error)
                wait = asyncio.sleep(self._pause_s(failures))
            await wait

    async def _converge(self, life: _Life) -> None:
        """Walk the path of one workflow from its desire to an engine that serves."""
        if problem := life.desire.problem:
            raise WorkflowInvalid(problem.reason, problem.message)
        workflow = life.desire.workflow
        assert workflow is not None
        self._starting(life, _NOT_ADMITTED, _WAITING)
        # 1 the permit first: whoever waits holds a desire and nothing else
        async with self._rollout.admit(life.key, workflow.spec.priority):
            self._starting(life, _ADMITTED, _reading(workflow))
            # 2 the config, then the binary: one part in memory at a time, none if it is cached
            config = await self._supply.config(workflow)
            # 3 the module: mapped, from the cache or from a child that compiles it
            supplied = await self._supply.module(workflow)
            # 4 the engine, what it subscribes to, and its triggers all or none
            engine = Engine(self._runtime, supplied.module, workflow, config)
            await self._subscribe(engine)
            armed = triggers.arm(workflow, lambda event: self._fire(life, event))
            # 5 only now it takes the place of the one before
            self._serve(life, _Alive(workflow, config, engine, armed, _facts(workflow, supplied)))
        # 6 what was asked for meanwhile
        self._settle(life)

    def _starting(self, life: _Life, admitted: Verdict, ready: Verdict) -> None:
        # A start for a changed config alone: what serves is what the object asks for, all along.
        if not (
            life.ready.ok and life.alive and life.alive.facts.generation == life.desire.generation
        ):
            life.admitted, life.ready = admitted, ready
            self._changed(life)

    def _serve(self, life: _Life, alive: _Alive) -> None:
        # No await in here: no trigger fires between the two revisions, and none fires in both.
        before, life.alive = life.alive, alive
        self._executions.attach(life.key, alive.engine)
        if before:
            before.armed.close()
        life.admitted, life.ready = _ADMITTED, Verdict(True, Reason.SERVING, _praise(alive))
        life.source = VERIFIED
        log.info("%s", life.ready.message, extra=_names(life.key))

    async def _keep(self, life: _Life) -> None:
        """Look at the ConfigMaps of what serves; return when its config has changed."""
        alive = life.alive
        assert alive is not None
        async for verdict in self._upkeep.watch(alive.workflow, alive.config):
            if verdict != life.source:
                life.source = verdict
                self._changed(life)

    def _failed(self, life: _Life, error: SluiceError) -> None:
        life.ready = Verdict(False, error.reason, error.message)
        log.warning("%s: %s", error.reason, error.message, extra=_names(life.key))
        self._settle(life)

    def _settle(self, life: _Life) -> None:
        self._take_up_request(life)
        self._changed(life)

    def _pause_s(self, failures: int) -> float:
        longest = min(2.0**failures, self._settings.retry_s_max)
        return random.uniform(longest / 2, longest)  # noqa: S311 - jitter, no secret

    # Executions

    def _take_up_request(self, life: _Life) -> None:
        """Start the run that an annotation asks for, once, when there is somebody to run it."""
        request = life.desire.run
        if request is None or request.token == life.requested:
            return
        snapshot = self._snapshot(life)
        if not snapshot.settled or (life.alive is None and not _hopeless(snapshot)):
            return  # it is taken up when the start is over; a failed one may still be healed
        life.requested = request.token
        try:
            finished = self._executions.submit(life.key, _requested_event(life, request))
        except EngineRefused as e:
            life.handled = request.token
            self._refused(life, e)
            return
        finished.add_done_callback(lambda _: self._handled(life, request.token))

    def _handled(self, life: _Life, token: str) -> None:
        # Only when it is over: a process that dies before asks for it again.
        life.handled = token
        if self._lives.get(life.key) is life:
            self._changed(life)

    def _fire(self, life: _Life, event: Event) -> None:
        try:
            self._executions.submit(life.key, event)
        except EngineRefused as e:
            self._refused(life, e)

    def _refused(self, life: _Life, error: SluiceError) -> None:
        log.warning("%s: %s", error.reason, error.message, extra=_names(life.key))
        self._reporter.event(self._snapshot(life), Verdict(False, error.reason, error.message))
        self._changed(life)

    def _finished(self, key: WorkflowKey, run: Run) -> None:
        if life := self._lives.get(key):
            life.runs.appendleft(self._brief(run))
            self._changed(life)

    def _brief(self, run: Run) -> Run:
        # History is kept in memory for every workflow: whole results would add up.
        size = self._settings.result_bytes_max
        outcome = replace(run.outcome, result=run.outcome.result[:size], log=b"")
        return replace(run, outcome=outcome)

    # Telling

    def _changed(self, life: _Life) -> None:
        snapshot = self._snapshot(life)
        self._count(life, snapshot.state)
        if life.key in self._lives:
            self._reporter.changed(snapshot)

    def _count(self, life: _Life, state: str) -> None:
        if life.state != state:
            for name, step in ((life.state, -1), (state, 1)):
                if name:
                    self._metrics.workflows.labels(name).inc(step)
            life.state = state

    def _snapshot(self, life: _Life) -> Snapshot:
        workflow = life.desire.workflow
        return Snapshot(
            key=life.key,
            uid=life.desire.uid,
            generation=life.desire.generation,
            digest=workflow.digest if workflow else None,
            ready=life.ready,
            admitted=life.admitted,
            source=life.source,
            serving=life.alive.facts if life.alive else None,
            runs=tuple(life.runs),
            handled_run_at=life.handled,
        )


def _reading(workflow: Workflow) -> Verdict:
    return Verdict(False, Reason.STARTING, f"reading and compiling sha256:{workflow.digest[:12]}…")


def _facts(workflow: Workflow, supplied: Supplied) -> Serving:
    abi = supplied.module.entry.record["abi"]
    return Serving(workflow.digest, workflow.generation, abi, workflow.spec.module.size)


def _praise(alive: _Alive) -> str:
    record = alive.engine.module.entry.record
    return (
        f"serving sha256:{alive.facts.digest[:12]}… (compiled in {record['seconds']:.1f} s, "
        f"peak {record['peak_bytes'] / MIB:.0f} MiB)"
    )


def _hopeless(snapshot: Snapshot) -> bool:
    """Whether a run cannot be hoped for until somebody changes the object."""
    return snapshot.ready.reason is Reason.SUSPENDED


def _requested_event(life: _Life, request: RunRequest) -> Event:
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


def _names(key: WorkflowKey) -> dict[str, str]:
    return {"namespace": key.namespace, "workflow": key.name}
