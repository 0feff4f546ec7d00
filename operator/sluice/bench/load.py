"""What was measured of executions that follow one another, and how it is measured.

Those of the operator are kept waiting in its queue for the rate, and sent one by one for the
latency: with a queue, a latency would say how long the queue is.
"""

import asyncio
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

_WARM_UP_S = 0.2
_IN_FLIGHT = 40  # of what queue_max lets wait
_LAG_LOOK_S = 0.005
_STACK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One guest, run one way on so many cores."""

    guest: str
    way: str
    cores: int
    per_s: float
    p50_s: float
    p99_s: float
    cpu_s: float  # of the whole process, for each execution
    busy: float  # of the cores, by this process
    others: float  # of the machine, by everybody else meanwhile
    lag_p99_s: float | None  # of the event loop; None: there is none


@dataclass(slots=True)
class Spent:
    """What a stretch of time took; whole once its block is left."""

    count: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    others: float = 0.0

    @property
    def per_s(self) -> float:
        return self.count / self.wall_s


def percentile(values: Sequence[float], part: float) -> float:
    """Return the least of ``values`` that ``part`` of them do not pass; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


@contextmanager
def spent() -> Iterator[Spent]:
    found = Spent()
    wall, cpu, machine = time.monotonic(), time.process_time(), _machine_s()
    yield found
    found.wall_s, found.cpu_s = time.monotonic() - wall, time.process_time() - cpu
    all_s = found.wall_s * (os.cpu_count() or 1)
    found.others = max(0.0, (_machine_s() - machine - found.cpu_s) / all_s)


def _machine_s() -> float:
    """Return the CPU seconds that all processes of the machine have taken so far."""
    user, nice, system, _idle, _wait, irq, soft, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def on_threads(once: Callable[[], object], cores: int, seconds: float) -> tuple[Spent, list[float]]:
    """Call ``once`` again and again on as many threads as cores; return how long each call took."""
    took: list[list[float]] = [[] for _ in range(cores)]

    def work(mine: list[float], until: float) -> None:
        while (began := time.monotonic()) < until:
            once()
            mine.append(time.monotonic() - began)

    def run(stretch_s: float) -> None:
        until = time.monotonic() + stretch_s
        threads = [threading.Thread(target=work, args=(mine, until)) for mine in took]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    before = threading.stack_size(_STACK_BYTES)
    try:
        run(_WARM_UP_S)
        for mine in took:
            mine.clear()
        with spent() as stretch:
            run(seconds)
    finally:
        threading.stack_size(before)
    stretch.count = sum(map(len, took))
    return stretch, [each for mine in took for each in mine]


Once = Callable[[], Awaitable[object]]


async def in_loop(once: Once, cores: int, seconds: float) -> tuple[Spent, list[float], list[float]]:
    """Return the stretch in which the queue is never empty, and the latencies and lags of both."""
    await _repeat(once, _IN_FLIGHT, _WARM_UP_S)
    async with lag() as lags:
        with spent() as stretch:
            stretch.count = len(await _repeat(once, _IN_FLIGHT, seconds))
        took = await _repeat(once, cores, seconds)
    return stretch, took, lags


async def _repeat(once: Once, in_flight: int, seconds: float) -> list[float]:
    took: list[float] = []
    until = time.monotonic() + seconds

    async def work() -> None:
        while (began := time.monotonic()) < until:
            await once()
            took.append(time.monotonic() - began)

    await asyncio.gather(*(work() for _ in range(in_flight)))
    return took


@asynccontextmanager
async def lag() -> AsyncIterator[list[float]]:
    """Yield by how much the loop is late whenever somebody's time has come; grows in the block."""
    lags: list[float] = []

    async def look() -> None:
        while True:
            due = time.monotonic() + _LAG_LOOK_S
            await asyncio.sleep(_LAG_LOOK_S)
            lags.append(max(0.0, time.monotonic() - due))

    task = asyncio.create_task(look())
    try:
        yield lags
    finally:
        task.cancel()
