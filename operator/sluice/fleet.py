"""What is wanted, what is alive, and the one path between them."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from sluice import triggers
from sluice.desire import Desire
from sluice.errors import (
    ContentInvalid,
    EngineRefused,
    HeadroomExceeded,
    SluiceError,
    SourceUnavailable,
    WorkflowInvalid,
)
from sluice.executions import Executions
from sluice.executions.journal import Journal
from sluice.guests import Guests
from sluice.idle import Idle
from sluice.life import (
    ADMITTED,
    NOT_ADMITTED,
    SUSPENDED,
    WAITING,
    Alive,
    Life,
    names,
    reading,
)
from sluice.metrics import Metrics, move
from sluice.overview import overview
from sluice.provision import Choice, Provision
from sluice.reasons import ABOUT_THE_MODULE, Reason
from sluice.rollout.batches import Rollout
from sluice.rollout.gate import Bounds
from sluice.rollout.holds import HoldEvent
from sluice.runs import Runs
from sluice.settings import Settings
from sluice.sinks import Sink
from sluice.snapshot import Reporter, Run, Snapshot, Verdict
from sluice.supply import Supply
from sluice.triggers import Doors
from sluice.upkeep import VERIFIED, Upkeep, pause
from sluice.wasm.config import Tier
from sluice.wasm.lending import Lending
from sluice.workflow import Workflow, WorkflowKey

log = logging.getLogger(__name__)
# A hold tells those at the head of the line at once why they wait; the others, when they are.
_TOLD_OF_A_HOLD = 50
# Under pressure, what has not run for so long is let go of at once.
_IDLE_UNDER_PRESSURE_S = 10.0
Subscribe = Callable[[Lending], Awaitable[None]]


async def subscribe_nothing(_: Lending) -> None:
    """Return at once: a WASI program has no interface to subscribe through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a fleet is given to live by; whoever made it closes it."""

    supply: Supply
    guests: Guests
    rollout: Rollout
    provision: Provision
    journal: Journal
    doors: Doors
    sink: Sink | None


class Fleet:
    """Keeps what is alive equal to what is wanted.

    Every public method but ``close`` records and returns at once; one task for each object does
    the work, always toward the latest desire. All belongs to one event loop.
    """

    def __init__(
        self,
        means: Means,
        settings: Settings,
        metrics: Metrics,
        reporter: Reporter,
        subscribe: Subscribe = subscribe_nothing,
    ) -> None:
        self._supply, self._guests, self._rollout = means.supply, means.guests, means.rollout
        self._settings, self._metrics, self._reporter = settings, metrics, reporter
        self._provision, self._subscribe = means.provision, subscribe
        self._upkeep, self._doors = Upkeep(means.supply, settings), means.doors
        self._lives: dict[WorkflowKey, Life] = {}
        self._runs = Runs(
            means.journal, settings, metrics, self._lives, means.sink,
            self._changed, self._note, self._wake,
        )  # fmt: skip
        self._executions = self._runs.executions
        self._idle = Idle(self._executions, means.provision, means.rollout)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping = self._spawn(self._sweep(), "sweep")

    def want(self, desire: Desire, handled: str | None = None, runs: tuple[Run, ...] = ()) -> None:
        """Record what is wanted.

        ``handled`` and ``runs`` are what an earlier process knew; they count at first sight only.
        """
        life = self._lives.get(desire.key)
        if life and life.desire.uid != desire.uid:
            self.forget(desire.key)  # deleted and made anew while nobody looked
            life = None
        if life is None:
            life = Life(desire, handled=handled, requested=handled)
            life.remember(runs, self._settings.runs_kept_max)
            self._lives[desire.key] = life
            self._executions.know(desire.key, desire.uid)
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
        self._runs.forget(key)
        self._count(life, "", "")
        self._reporter.gone(key)

    def keys(self) -> dict[WorkflowKey, str]:
        """Return the uid of every object that is known."""
        return {key: life.desire.uid for key, life in self._lives.items()}

    @property
    def executions(self) -> Executions:
        """What is accepted, runs and is over, for whoever shows it."""
        return self._executions

    async def run_manually(self, key: WorkflowKey) -> "asyncio.Future[Run] | None":
        """Hand in a run with the data of the spec; None where nobody serves or would take it."""
        return await self._runs.now(self._lives[key])

    def note(self, key: WorkflowKey, note: Verdict) -> None:
        """Tell of something about an object that no condition shows."""
        if life := self._lives.get(key):
            self._note(life, note)

    def snapshot(self, key: WorkflowKey) -> Snapshot | None:
        life = self._lives.get(key)
        return life.snapshot(self._rollout) if life else None

    def snapshots(self) -> list[Snapshot]:
        return [life.snapshot(self._rollout) for _, life in sorted(self._lives.items())]

    def overview(self) -> dict[str, Any]:
        """Return the whole fleet on one screen."""
        rollout = self._rollout
        return overview(
            self.snapshots(), rollout.statistics(), rollout.reading(), Bounds.of(self._settings),
            self._executions.failure,
        )  # fmt: skip

    def held(self, event: HoldEvent) -> None:
        """Tell of a hold of the rollout that has begun or ended, and make room where it began."""
        reason = Reason.ROLLOUT_HELD if event.begun else Reason.ROLLOUT_RESUMED
        log.warning("%s: %s", reason, event.message)
        self._reporter.rollout(Verdict(not event.begun, reason, event.message))
        if event.begun:
            self._idle.unmap(self._lives.values(), _IDLE_UNDER_PRESSURE_S)
            waiting = (life for life in self._lives.values() if not life.ready.ok)
            for life in [w for w in waiting if self._rollout.place(w.key)][:_TOLD_OF_A_HOLD]:
                self._changed(life)

    async def close(self) -> bool:
        """Stop everything; what runs may end within the grace. Return whether all did."""
        self._runs.closing = True
        for life in self._lives.values():
            self._stop_task(life)
            if life.alive:
                self._disarm(life.alive)
        self._sweeping.cancel()
        drained = await self._executions.drain()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._executions.close()
        self._runs.tell()
        return drained

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._settings.idle_unmap_s / 4)
            self._idle.unmap(self._lives.values(), self._settings.idle_unmap_s)

    def _wake(self, key: WorkflowKey) -> None:
        self._spawn(self._idle.bring_back(self._lives[key]), f"wake {key}")

    # The life of one object

    def _begin(self, life: Life) -> None:
        self._stop_task(life)
        workflow = life.desire.workflow
        if workflow and workflow.spec.suspend:
            self._end(life)
            self._runs.hold_off(life, self._doors)
            life.ready, life.admitted = SUSPENDED, replace(SUSPENDED, message="suspended")
            self._settle(life)
            return
        life.task = self._spawn(self._live(life), str(life.key))

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _end(self, life: Life) -> None:
        self._stop_task(life)
        life.held_off.close()
        if life.alive:
            self._disarm(life.alive)
            life.alive = None

    def _disarm(self, alive: Alive) -> None:
        # Nobody waits for it: it may have to close a connection, and a deletion acts at once.
        self._spawn(alive.armed.aclose(), f"disarm {alive.workflow.key}")

    @staticmethod
    def _stop_task(life: Life) -> None:
        if life.task:
            life.task.cancel()
            life.task = None

    async def _live(self, life: Life) -> None:
        """Converge until it holds, keep it so, and wait in the right way after each failure."""
        failures = 0
        while True:
            # The wait is outside of the except: an error that is kept keeps what its frames hold.
            failures += 1
            try:
                await self._converge(life)
                await self._optimize(life)
                failures = 0
                wait = self._keep(life)
            except HeadroomExceeded as e:
                # Back into the line, which knows now what it needs and waits for that much.
                log.info("%s: %s", e.reason, e.message, extra=names(life.key))
                continue
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
                wait = self._pause(failures, e)
            except Exception:
                log.exception("a start failed inside the operator", extra=names(life.key))
                error = EngineRefused(Reason.ENGINE_REFUSED, "the operator's log says how")
                self._failed(life, error)
                wait = self._pause(failures, error)
            await wait

    async def _converge(self, life: Life) -> None:
        """Walk the path of one workflow from its desire to an engine that serves."""
        if problem := life.desire.problem:
            raise WorkflowInvalid(problem.reason, problem.message)
        workflow = life.desire.workflow
        assert workflow is not None
        self._starting(life, NOT_ADMITTED, WAITING)
        choice, served = Choice(self._provision, workflow), life.alive is not None
        # 1 the permit first, for what the start is predicted to take: who waits holds a desire
        async with self._rollout.admit(
            life.key, workflow.spec.priority, choice.cost, served_before=served
        ) as permit:
            self._starting(life, ADMITTED, reading(workflow))
            # 2 the config, then the binary: one part in memory at a time, none if it is cached
            config = await self._supply.config(workflow)
            # 3 the module: mapped, from the cache or from a child under a cap of its own
            supplied = await self._provision.module(workflow, choice.tier, permit)
            permit.compiled()
            # 4 the engine, what it subscribes to, and its triggers all or none
            guest = await self._guests.open(supplied.module, workflow, config)
            await self._subscribe(guest.engine)
            armed = await self._arm(life, guest.workflow)
            # 5 only now it takes the place of the one before
            self._serve(life, Alive(guest, config, armed, supplied.seen))
        # 6 what was asked for meanwhile
        self._settle(life)

    async def _optimize(self, life: Life) -> None:
        """Compile what serves from the baseline tier anew behind it, after all others, and swap."""
        alive = life.alive
        assert alive is not None
        workflow, tier = alive.workflow, alive.engine.entry.tier
        if not self._provision.optimizes(workflow, tier):
            return
        cost = functools.partial(self._provision.cost, workflow, Tier.OPTIMIZING)
        while True:
            try:
                async with self._rollout.admit(
                    life.key, workflow.spec.priority, cost, lowest=True
                ) as permit:
                    supplied = await self._provision.optimized(workflow, permit)
                alive.engine.map(supplied.module)
            except HeadroomExceeded:
                continue  # back into the line, which knows now what it needs
            except SluiceError as e:
                alive.note = f"the optimising compiler failed: {e.message}"
            break
        life.ready = alive.praise
        self._changed(life)

    async def _arm(self, life: Life, workflow: Workflow) -> AsyncExitStack:
        self._executions.open(workflow)
        async with self._runs.arming(life) as fire:
            find = functools.partial(self._executions.find, life.key)
            cursor = functools.partial(self._executions.cursor, life.key)
            return await triggers.arm(workflow, self._doors, fire, find, cursor)

    def _starting(self, life: Life, admitted: Verdict, ready: Verdict) -> None:
        # A start for a changed config alone: what serves is what the object asks for, all along.
        if not life.up_to_date:
            life.admitted, life.ready = admitted, ready
            self._changed(life)

    def _serve(self, life: Life, alive: Alive) -> None:
        # No await in here: nothing comes between. For a moment both revisions are armed, and what
        # fires in both has one id.
        before, life.alive = life.alive, alive
        self._executions.attach(alive.workflow, alive.engine, alive.guest.perform)
        life.held_off.close()
        if before:
            self._disarm(before)
        life.admitted, life.ready, life.source = ADMITTED, alive.praise, VERIFIED
        log.info("%s", life.ready.message, extra=names(life.key))

    async def _keep(self, life: Life) -> None:
        """Look at the ConfigMaps of what serves; return when its config has changed."""
        alive = life.alive
        assert alive is not None
        async for verdict in self._upkeep.watch(alive.workflow, alive.config, alive.seen):
            if verdict != life.source:
                life.source = verdict
                self._changed(life)

    def _failed(self, life: Life, error: SluiceError) -> None:
        life.ready = Verdict(False, error.reason, error.message)
        log.warning("%s: %s", error.reason, error.message, extra=names(life.key))
        if life.alive is None:
            self._runs.hold_off(life, self._doors)
        self._settle(life)

    def _settle(self, life: Life) -> None:
        self._take_up_request(life)
        self._changed(life)

    def _pause(self, failures: int, error: SluiceError) -> Coroutine[Any, Any, None]:
        # The cluster's failures pass for many at once, so what is back is noticed soon.
        settings, passing = self._settings, isinstance(error, SourceUnavailable)
        return pause(failures, settings.source_retry_s_max if passing else settings.retry_s_max)

    def _take_up_request(self, life: Life) -> None:
        """Start the run that an annotation asks for, once, when there is somebody to run it."""
        settled = life.snapshot(self._rollout).settled
        if not settled or (life.alive is None and life.ready.reason is not Reason.SUSPENDED):
            return  # it is taken up when the start is over; a failed one may still be healed
        if handing_in := self._runs.take_up(life):
            self._spawn(handing_in, f"run {life.key}")

    # Telling

    def _note(self, life: Life, note: Verdict) -> None:
        self._reporter.event(life.snapshot(self._rollout), note)

    def _changed(self, life: Life) -> None:
        snapshot = life.snapshot(self._rollout)
        self._count(life, snapshot.state, snapshot.serving.tier if snapshot.serving else "")
        if life.key in self._lives:
            self._reporter.changed(snapshot)

    def _count(self, life: Life, state: str, tier: str) -> None:
        move(self._metrics.workflows, life.state, state)
        move(self._metrics.serving, life.tier, tier)
        life.state, life.tier = state, tier
