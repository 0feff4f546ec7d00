"""What is made of what: the operator on a cluster, and the same fleet on a folder."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sluice.adapters import http
from sluice.equipment import Equipment
from sluice.errors import WorkflowInvalid
from sluice.executions.journal import Journal
from sluice.fleet import Fleet, Means, Subscribe, subscribe_nothing
from sluice.guests import Guests
from sluice.metrics import Metrics
from sluice.outcome import OutcomeKind
from sluice.provision import Provision
from sluice.reasons import Reason
from sluice.rollout.batches import Rollout
from sluice.rollout.costs import Costs
from sluice.rollout.gate import Bounds
from sluice.rollout.memory import find_source, spare_what_stays, trim
from sluice.settings import Settings
from sluice.sinks import Deliveries, Door, Kind, Sink
from sluice.snapshot import Reporter, Verdict
from sluice.supply import Source, Supply
from sluice.triggers import Doors
from sluice.wasm.runtime import Runtime
from sluice.workflow import API_VERSION, KIND, WorkflowKey

if TYPE_CHECKING:
    from sluice.adapters.directory import Directory
    from sluice.adapters.kubernetes.api import Api
    from sluice.adapters.kubernetes.watch import Watch
    from sluice.adapters.terminal import Terminal
    from sluice.adapters.webhooks import Webhooks

log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOK_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Options of ``sluice operator`` that are no bounds."""

    namespaces: Collection[str]
    http_address: str
    http_port: int
    trigger_address: str
    trigger_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Options of ``sluice run`` that are no bounds."""

    paths: Sequence[Path]
    namespace: str
    once: bool
    output: str


@asynccontextmanager
async def fleet(  # noqa: PLR0913 - most are given by name
    source: Source,
    reporter: Reporter,
    settings: Settings,
    metrics: Metrics,
    subscribe: Subscribe = subscribe_nothing,
    *,
    journal: Path | None = None,
    doors: Doors | None = None,
    sink: Sink | None = None,
    equipment: Equipment | None = None,
) -> AsyncIterator[Fleet]:
    """Open a fleet; at the end of the block it is drained and all that it held is closed.

    Without a path for its ``journal`` what is accepted is gone with the process.
    """
    runtime = await asyncio.to_thread(Runtime, settings)
    memory = find_source(settings.memory_limit_bytes or None)
    bounds = Bounds.of(settings)
    rollout = Rollout(bounds, memory, trim, told=lambda event: alive.held(event))  # noqa: PLW0108 - it is made below
    metrics.rollout.watch(rollout.statistics, memory.read, bounds, lambda: runtime.cache.evictions)
    supply = Supply(source, runtime, settings, metrics)
    costs = Costs(settings.data_dir / "costs", settings.compile_memory_bytes_max)
    provision = Provision(supply, rollout, costs, settings)
    guests = Guests(runtime, supply, equipment)
    means = Means(
        supply=supply,
        guests=guests,
        rollout=rollout,
        provision=provision,
        journal=Journal(journal, settings, metrics),
        doors=doors or Doors(),
        sink=sink,
    )
    alive = Fleet(means, settings, metrics, reporter, subscribe)
    try:
        yield alive
    finally:
        if not await alive.close():
            log.warning("executions were cut off: they ran longer than drain_s allows")
        guests.close()
        runtime.close()


async def operate(options: Operator, settings: Settings) -> None:
    """Run the operator until SIGTERM or SIGINT; raises SluiceError where it cannot begin."""
    from sluice.adapters.kubernetes.api import Api
    from sluice.adapters.kubernetes.reporter import StatusReporter
    from sluice.adapters.kubernetes.secrets import Secrets
    from sluice.adapters.kubernetes.source import ConfigMaps
    from sluice.adapters.kubernetes.watch import Watch
    from sluice.adapters.webhooks import Webhooks

    spare_what_stays()
    metrics, stop = Metrics(), asyncio.Event()
    on_signal(stop.set)
    async with contextlib.AsyncExitStack() as open_:
        api = await Api.connect()
        open_.push_async_callback(api.aclose)
        reporter = StatusReporter(api, settings, metrics, lambda key: alive.snapshot(key))  # noqa: PLW0108 - it is made below
        open_.push_async_callback(reporter.close)
        webhooks = Webhooks(settings, metrics, lambda: starting())  # noqa: PLW0108 - likewise
        doors = _doors(api, settings, metrics, webhooks, lambda: alive)
        sinks = await open_.enter_async_context(_sinks(settings, metrics, lambda: alive, api))
        journal = settings.data_dir / "executions.db"
        equipment = Equipment(settings, metrics, Secrets(api, settings), api.server)
        open_.push_async_callback(equipment.aclose)
        opening = fleet(
            ConfigMaps(api), reporter, settings, metrics,
            journal=journal, doors=doors, sink=sinks, equipment=equipment,
        )  # fmt: skip
        alive = await open_.enter_async_context(opening)
        watch = Watch(api, alive, reporter, settings, options.namespaces)
        starting = _starting(watch, alive)
        probes = http.serving(
            options.http_address,
            options.http_port,
            metrics.registry,
            watch.synced.is_set,
            alive.overview,
            alive.executions,
        )
        port = await open_.enter_async_context(probes)
        log.info("probes and metrics are answered on port %d", port)
        hooks = webhooks.serving(options.trigger_address, options.trigger_port)
        port = await open_.enter_async_context(hooks)
        log.info("http triggers are called on port %d", port)
        await open_.enter_async_context(_beside(_once_synced(watch, alive)))
        await watch.run(stop)
        log.info("stopping: what runs may end within %g s", settings.drain_s)


def _doors(
    api: "Api",
    settings: Settings,
    metrics: Metrics,
    webhooks: "Webhooks",
    alive: Callable[[], Fleet],
) -> Doors:
    """Return what triggers reach a cluster through; ``alive`` is asked once they are armed."""
    from sluice.adapters.kubernetes.secrets import Secrets
    from sluice.adapters.kubernetes.watching import Watches

    async def keep(key: WorkflowKey, uid: str, trigger: str, cursor: str) -> None:
        await alive().executions.keep_cursor(key, uid, trigger, cursor)

    def told(key: WorkflowKey, note: Verdict) -> None:
        alive().note(key, note)

    watches = Watches(api, settings, metrics, keep, told)
    return Doors(http=webhooks, kubernetes=watches, secrets=Secrets(api, settings))


def _starting(watch: "Watch", alive: Fleet) -> Callable[[], bool]:
    """Return what says whether not every workflow has had its turn since the process began."""
    turn_of_all = False

    def starting() -> bool:
        nonlocal turn_of_all
        if not turn_of_all:  # once is enough: what starts later is one workflow's own affair
            turn_of_all = watch.synced.is_set() and all(s.settled for s in alive.snapshots())
        return not turn_of_all

    return starting


@asynccontextmanager
async def _sinks(
    settings: Settings, metrics: Metrics, alive: Callable[[], Fleet], api: "Api | None" = None
) -> AsyncIterator[Deliveries]:
    """Give where results go; what waits at the end of the block goes out, as far as it can soon."""
    from sluice.adapters.egress import Egress
    from sluice.adapters.sink_http import HttpSink

    egress = Egress(settings, metrics, urlsplit(api.server).hostname if api else None)
    doors: dict[Kind, Door] = {"http": HttpSink(egress, settings)}
    if api:
        from sluice.adapters.kubernetes.sink import ConfigMapSink

        doors["configMap"] = ConfigMapSink(api, settings, metrics)
    sinks = Deliveries(doors, settings, metrics, lambda key, note: alive().note(key, note))
    try:
        yield sinks
    finally:
        await sinks.close()
        await egress.aclose()


async def _once_synced(watch: "Watch", alive: Fleet) -> None:
    """Let go of executions whose workflows were deleted while no operator looked."""
    await watch.synced.wait()
    alive.executions.all_known()


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do ``work`` while the block runs."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def run(options: Run, settings: Settings) -> bool:
    """Run the workflows of manifests on disk; return whether all is well.

    With ``once``: until each is ready or failed and has run its manual trigger; the results go
    to stdout. Without: until SIGTERM or SIGINT, and changed files are seen.
    """
    from sluice.adapters.directory import Directory
    from sluice.adapters.terminal import Terminal

    stop = asyncio.Event()
    on_signal(lambda: _begin_to_stop(stop, settings))
    directory = Directory(options.paths, options.namespace)
    desires = directory.scan(settings)
    if not desires:
        _tell_nothing(options)
    metrics = Metrics()
    with Terminal(options.output) as terminal:
        async with (
            _sinks(settings, metrics, lambda: alive) as sinks,
            contextlib.aclosing(Equipment(settings, metrics)) as equipment,
            fleet(directory, terminal, settings, metrics, sink=sinks, equipment=equipment) as alive,
        ):
            terminal.expect(desire.key for desire in desires)
            for desire in desires:
                alive.want(desire)
            if options.once:
                return await _once(alive, terminal, stop)
            await _follow(directory, alive, settings, stop)
            return True


def _begin_to_stop(stop: asyncio.Event, settings: Settings) -> None:
    stop.set()
    log.info("stopping: what runs may end within %g s; a second signal ends it", settings.drain_s)
    for number in _SIGNALS:
        asyncio.get_running_loop().remove_signal_handler(number)


def _tell_nothing(options: Run) -> None:
    """Raise where nothing can come any more, and say it where it can."""
    where = ", ".join(map(str, options.paths))
    message = f"{where}: there is no {KIND} of {API_VERSION} in it"
    if options.once:
        raise WorkflowInvalid(Reason.INVALID_SPEC, message)
    log.warning("%s yet", message)


async def _once(alive: Fleet, terminal: "Terminal", stop: asyncio.Event) -> bool:
    if not await _before(terminal.all_settled(), stop):
        raise KeyboardInterrupt
    asked = {
        snapshot.key: finished
        for snapshot in alive.snapshots()
        if (finished := await alive.run_manually(snapshot.key)) is not None
    }
    # With them whatever a startup trigger began.
    ends = [end for s in alive.snapshots() for end in alive.executions.ends(s.key)]
    if ends and not await _before(asyncio.wait(ends), stop):
        raise KeyboardInterrupt
    snapshots = alive.snapshots()
    runs = {s.key: s.runs[0] for s in snapshots if s.runs}
    runs |= {key: finished.result() for key, finished in asked.items()}
    terminal.results(snapshots, runs)
    suspended = Reason.SUSPENDED
    ready = all(s.ready.ok or s.ready.reason is suspended for s in snapshots)
    return ready and all(run.outcome.ok for s in snapshots for run in s.runs)


async def _before(work: Coroutine[Any, Any, Any], stop: asyncio.Event) -> bool:
    """Await ``work`` unless ``stop`` comes first; return whether it was done."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return not tasks[0].cancelled()


async def _follow(
    directory: "Directory", alive: Fleet, settings: Settings, stop: asyncio.Event
) -> None:
    from watchfiles import awatch

    # What the kernel tells is acted on at once; what it does not tell (another machine's change, a
    # link's target, a folder made anew) is found by looking.
    changes = awatch(
        *directory.folders(), stop_event=stop, watch_filter=None, recursive=False,
        yield_on_timeout=True, rust_timeout=_LOOK_MS,
    )  # fmt: skip
    async for _ in changes:
        try:
            if directory.changed():
                _rescan(directory, alive, settings)
        except OSError as e:
            log.warning("%s cannot be read: %s", e.filename, e.strerror)


def _rescan(directory: "Directory", alive: Fleet, settings: Settings) -> None:
    try:
        desires = directory.scan(settings)
    except WorkflowInvalid as e:
        log.warning("what runs is left as it was: %s", e.message)
        return
    for key in alive.keys().keys() - {desire.key for desire in desires}:
        alive.forget(key)
    for desire in desires:
        alive.want(desire)


@dataclass(frozen=True, slots=True)
class Ended:
    """What is to be printed of a run that was waited for."""

    ok: bool
    text: str


async def trigger(
    name: str, namespace: str | None, data: str | None, wait_s: float | None
) -> Ended:
    """Ask the cluster for one run, and wait for its end if told to; raises SluiceError.

    What is to be printed is the result or what went wrong; without a wait, the execution's id.
    """
    from sluice.adapters.kubernetes import trigger as runs
    from sluice.adapters.kubernetes.api import Api, current_namespace

    key = WorkflowKey(namespace or current_namespace(), name)
    async with contextlib.aclosing(await Api.connect()) as api:
        token = await runs.request(api, key, data)
        if wait_s is None:
            return Ended(True, token)
        try:
            run = await asyncio.wait_for(runs.wait(api, key, token), wait_s)
        except TimeoutError:
            return Ended(False, f"not over after {wait_s:g} s; kubectl describe slw {name}")
    if run is None:
        return Ended(
            False, f"refused; kubectl get events tells why, or kubectl describe slw {name}"
        )
    ok = run["outcome"] == OutcomeKind.COMPLETED
    return Ended(ok, run.get("result", "") if ok else f"{run['outcome']}: {run.get('message', '')}")


def on_signal(act: Callable[[], None]) -> None:
    """Call ``act`` at SIGTERM and SIGINT, from the event loop."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, act)
