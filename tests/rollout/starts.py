"""Workflows that ask a rollout for a permit, in virtual time, with a pod's memory at hand."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fakes import Blocking, PodMemory, in_virtual_time
from sluice.rollout.batches import Permit, Rollout
from sluice.rollout.costs import FREE, Cost
from sluice.rollout.gate import Bounds
from sluice.settings import MIB
from sluice.workflow import WorkflowKey

if TYPE_CHECKING:
    from sluice.rollout.holds import HoldEvent


def key(name: object) -> WorkflowKey:
    return WorkflowKey("team", str(name))


def cost(mib: int, *, known: bool = True) -> Cost:
    return Cost(mib * MIB, MIB, known=known)


def virtually(
    live: Callable[[], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    """Let a test live in virtual time: what waits for nothing fails, and no wait takes any."""

    @functools.wraps(live)
    def test() -> None:
        in_virtual_time(live())

    del test.__wrapped__  # or pytest would take it for a coroutine
    return test


class Starts:
    """Workflows that ask a rollout for a permit, and hold it until they are told to go on.

    Of 512 MiB: high water 410, low water 384.
    """

    def __init__(self, starts_max: int = 12, used: int = 100, **bounds: Any) -> None:
        self.memory, self.blocking = PodMemory(used * MIB, 512 * MIB), Blocking()
        self.events: list[HoldEvent] = []
        self.rollout = Rollout(
            Bounds(
                starts_max=starts_max, low_fraction=384 / 512, high_fraction=410 / 512, **bounds
            ),
            self.memory,
            self.memory.trim,
            told=self.events.append,
            run_blocking=self.blocking,
        )
        self.admitted: list[str] = []
        self.permits: dict[str, Permit] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    def ask(
        self, name: str, what: Cost | Callable[[], Cost] = FREE, priority: int = 0, **more: bool
    ) -> None:
        self._ends[name] = asyncio.Event()
        admit = self.rollout.admit(key(name), priority, what, **more)
        self.tasks[name] = asyncio.create_task(self._start(name, admit))

    async def _start(self, name: str, admit: Any) -> None:
        async with admit as permit:
            self.admitted.append(name)
            self.permits[name] = permit
            await self._ends[name].wait()

    def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()

    @property
    def counts(self) -> tuple[int, int, int]:
        """Who wait, who are under way, and the batches so far."""
        statistics = self.rollout.statistics()
        return statistics.waiting, statistics.in_flight, statistics.batches


async def settled(seconds: float = 0.01) -> None:
    """Let everything happen that needs nobody's help, and no look at memory."""
    await asyncio.sleep(seconds)
