"""What is measured in a process of its own: each task returns figures that travel as JSON."""

import asyncio
import contextlib
import gc
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sluice.bench import guests
from sluice.bench.load import Figures, Spent, in_loop, lag, on_threads, percentile, spent
from sluice.bench.place import Place
from sluice.bench.profile import profile
from sluice.event import Event
from sluice.executions import Executions
from sluice.executions.journal import Journal
from sluice.metrics import Metrics
from sluice.rollout.memory import trim
from sluice.spec import CronSpec
from sluice.triggers.cron import Cron
from sluice.wasm.engine import Execution
from sluice.workflow import WorkflowKey

_EVENT_BYTES = 8192  # in all more than may be in memory, so that what is there shows
_QUEUED = 10_000
_CRONS = 500
# An innocent workflow, in so many starts a second beside whatever the others do.
_PACE_S = 0.05
_INNOCENT = WorkflowKey("innocent", "guest")
_OFFENDER = WorkflowKey("offender", "guest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One task; paths are texts because it travels as JSON."""

    task: str
    data_dir: str
    seconds: float
    cores: int = 1
    guests: dict[str, str]  # by name, as text
    offender: str = ""


def run(order: Order) -> list[dict[str, Any]]:
    # So that one core is one core for all of us, the loop and the journal included.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order.cores])
    found: list[dict[str, Any]] = TASKS[order.task](order)
    return found


# The same guest in four ways, each of which does more


def _bare(order: Order) -> list[dict[str, Any]]:
    with _place(order) as place:
        return [_threads(order, name, place.bare(wat)) for name, wat in order.guests.items()]


def _engine(order: Order) -> list[dict[str, Any]]:
    execution = Execution(event=b'{"specversion":"1.0"}')
    with _place(order) as place:
        engines = {name: place.engine(wat) for name, wat in order.guests.items()}
        return [
            _threads(order, name, lambda engine=engine: engine.run(execution))  # type: ignore[misc]
            for name, engine in engines.items()
        ]


def _threads(order: Order, guest: str, once: Callable[[], object]) -> dict[str, Any]:
    stretch, took = on_threads(once, order.cores, order.seconds)
    return _figures(order, guest, stretch, took, [])


def _memory(order: Order) -> list[dict[str, Any]]:
    return asyncio.run(_queued(order, None))


def _durable(order: Order) -> list[dict[str, Any]]:
    return asyncio.run(_queued(order, Path(order.data_dir) / f"{order.cores}-durable.db"))


async def _queued(order: Order, journal: Path | None) -> list[dict[str, Any]]:
    found = []
    with _place(order, workers=order.cores) as place:
        async with _executions(place, journal) as executions:
            for name, wat in order.guests.items():
                key = _attach(executions, place, wat)
                stretch, took, lags = await in_loop(
                    lambda key=key: _once(executions, key),  # type: ignore[misc]
                    order.cores,
                    order.seconds,
                )
                found.append(_figures(order, name, stretch, took, lags))
    return found


def _figures(
    order: Order, guest: str, stretch: Spent, took: list[float], lags: list[float]
) -> dict[str, Any]:
    return asdict(
        Figures(
            guest=guest,
            way=order.task,
            cores=order.cores,
            per_s=stretch.per_s,
            p50_s=percentile(took, 0.50),
            p99_s=percentile(took, 0.99),
            cpu_s=stretch.cpu_s / max(1, stretch.count),
            busy=stretch.cpu_s / stretch.wall_s / order.cores,
            others=stretch.others,
            lag_p99_s=percentile(lags, 0.99) if lags else None,
        )
    )


# At rest


def _queue(order: Order) -> list[dict[str, Any]]:
    return [asyncio.run(_waiting(order))]


async def _waiting(order: Order) -> dict[str, Any]:
    """Accept ten thousand events that nobody runs, and say what they hold of memory."""
    data = "x" * _EVENT_BYTES
    with _place(order) as place:
        async with _executions(place, Path(order.data_dir) / "queue.db") as executions:
            each, keys = place.settings.queue_max, []
            # As many callers at once as the trigger port lets in.
            callers = asyncio.Semaphore(place.settings.http_connections_max)
            for n in range(_QUEUED // each):
                workflow = place.workflow(guests.EMPTY, f"w{n}", "bench")
                executions.open(workflow)  # it takes events, and no engine is there to run them
                keys.append(workflow.key)
            before = _resident()
            async with lag() as lags:
                with spent() as stretch:
                    await asyncio.gather(
                        *(_fill(executions, key, each, data, callers) for key in keys)
                    )
            gc.collect()
            trim()
            return {
                "events": _QUEUED,
                "event_bytes": _EVENT_BYTES,
                "memory_bytes": _resident() - before,
                "accepted_per_s": _QUEUED / stretch.wall_s,
                "lag_p99_s": percentile(lags, 0.99),
            }


async def _fill(
    executions: Executions, key: WorkflowKey, count: int, data: str, callers: asyncio.Semaphore
) -> None:
    for _ in range(count):
        async with callers:
            await executions.accept(key, Event(kind="manual", trigger="manual", data=data))


def _rest(order: Order) -> list[dict[str, Any]]:
    return [asyncio.run(_armed(order))]


async def _armed(order: Order) -> dict[str, Any]:
    """Arm hundreds of schedules of which none is due, and say what CPU they take."""
    found: dict[str, Any] = {"crons": _CRONS}
    for name, count in (("cpu_none", 0), ("cpu_armed", _CRONS)):
        with ExitStack() as armed:
            for n in range(count):
                spec = CronSpec(schedule=f"{n % 60} {n % 24} 29 2 *")
                armed.enter_context(Cron(f"c{n}", spec, lambda _: None))
            with spent() as stretch:
                await asyncio.sleep(order.seconds)
            found[name] = stretch.cpu_s / stretch.wall_s
    return found


# Beside an offender


def _neighbours(order: Order) -> list[dict[str, Any]]:
    return [asyncio.run(_beside(order))]


async def _beside(order: Order) -> dict[str, Any]:
    """Send to an innocent workflow while an offender's queue is never empty."""
    # The offender is held to one of two workers: with both it makes its neighbours wait for its
    # whole time limit, which no measurement has to find out.
    with _place(order, workers=2, running_max=1) as place:
        async with _executions(place, None) as executions:
            innocent = _attach(executions, place, order.guests["5 ms"], _INNOCENT)
            running: list[asyncio.Task[None]] = []
            if offender := guests.OFFENDERS.get(order.offender):
                key = _attach(executions, place, offender.wat, _OFFENDER, limits=offender.limits)
                running = [asyncio.create_task(_for_ever(executions, key)) for _ in range(4)]
            async with lag() as lags:
                took = await _paced(lambda: _once(executions, innocent), order.seconds)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    return {
        "offender": order.offender,
        "p50_s": percentile(took, 0.50),
        "p99_s": percentile(took, 0.99),
        "lag_p99_s": percentile(lags, 0.99),
    }


async def _for_ever(executions: Executions, key: WorkflowKey) -> None:
    while True:
        await _once(executions, key)


async def _paced(once: Callable[[], Any], seconds: float) -> list[float]:
    """Start one each time it is due, whether the last one has ended or not."""
    took: list[float] = []

    async def one() -> None:
        began = time.monotonic()
        await once()
        took.append(time.monotonic() - began)

    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for n in itertools.count():
            due = begin + n * _PACE_S
            if due > begin + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(one())
    return took


def _profile(order: Order) -> list[dict[str, Any]]:
    with _place(order) as place:
        return [asdict(found) for found in profile(place, order.guests)]


# What the tasks stand on


def _place(order: Order, **settings: Any) -> AbstractContextManager[Place]:
    return contextlib.closing(Place(Path(order.data_dir), **settings))


@asynccontextmanager
async def _executions(place: Place, journal: Path | None) -> AsyncIterator[Executions]:
    settings, metrics = place.settings, Metrics()
    executions = Executions(
        Journal(journal, settings, metrics), settings, metrics, lambda _, __: None
    )
    try:
        yield executions
    finally:
        await executions.drain()
        await executions.close()


def _attach(
    executions: Executions,
    place: Place,
    wat: str,
    key: WorkflowKey = WorkflowKey("bench", "guest"),  # noqa: B008 - a tuple
    **spec: Any,
) -> WorkflowKey:
    workflow = place.workflow(wat, key.name, key.namespace, **spec)
    executions.attach(workflow, place.engine(wat, key.name, key.namespace, **spec))
    return key


async def _once(executions: Executions, key: WorkflowKey) -> None:
    accepted = await executions.accept(key, Event(kind="manual", trigger="manual"))
    assert accepted.finished
    await accepted.finished


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


TASKS: dict[str, Callable[[Order], list[dict[str, Any]]]] = {
    "bare": _bare,
    "engine": _engine,
    "memory": _memory,
    "durable": _durable,
    "queue": _queue,
    "rest": _rest,
    "neighbours": _neighbours,
    "profile": _profile,
}
