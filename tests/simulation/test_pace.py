"""What the gate costs those that fit, and what it saves those that do not, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import pytest

from fakes import Blocking, PodMemory, in_virtual_time
from sluice.rollout.batches import Rollout
from sluice.rollout.costs import Cost
from sluice.rollout.gate import Bounds
from sluice.settings import MIB
from sluice.workflow import WorkflowKey

_KEEP = MIB // 5
_COMPILE_S, _ASSEMBLE_S, _SUBSCRIBE_S = 1.0, 0.05, 2.0
_READING_S = 0.002


class _Permit(Protocol):
    cost: Cost

    def compiled(self) -> None: ...


@dataclass(slots=True)
class _Let:
    cost: Cost

    def compiled(self) -> None:
        pass


class Ungated:
    """The same permits without a gate: whoever is next starts."""

    def __init__(self, starts_max: int) -> None:
        self._permits = asyncio.Semaphore(starts_max)

    @asynccontextmanager
    async def admit(
        self, _key: WorkflowKey, _priority: int, cost: Callable[[], Cost]
    ) -> AsyncIterator[_Let]:
        async with self._permits:
            yield _Let(cost())

    async def compile_cap(self, _permit: _Let) -> int:
        return 512 * MIB


class Reboot:
    """Sixty workflows, each a module of its own that peaks at 60 MiB, all wanted at once."""

    def __init__(self, cost: Callable[[], Cost], limit: int = 4096) -> None:
        self.memory, self._cost = PodMemory(100 * MIB, limit * MIB), cost
        self._slot = asyncio.Lock()
        self.peak = 0

    async def wall(self, gated: bool) -> float:
        blocking = Blocking(_READING_S)
        rollout = (
            Rollout(Bounds(), self.memory, self.memory.trim, run_blocking=blocking)
            if gated
            else Ungated(12)
        )
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(3600):
            await asyncio.gather(*(self._start(rollout, i) for i in range(60)))
        return asyncio.get_running_loop().time() - began

    async def _start(self, rollout: Rollout | Ungated, i: int) -> None:
        async with rollout.admit(WorkflowKey("team", str(i)), 0, self._cost) as permit:
            await asyncio.sleep(_ASSEMBLE_S)
            if permit.cost.compile_bytes:
                await self._compile(rollout, permit)
            permit.compiled()
            self._take(_KEEP)
            await asyncio.sleep(_SUBSCRIBE_S)

    async def _compile(self, rollout: Rollout | Ungated, permit: _Permit) -> None:
        async with self._slot:
            assert await rollout.compile_cap(permit) >= 60 * MIB  # type: ignore[arg-type]
            self._take(60 * MIB)
            await asyncio.sleep(_COMPILE_S)
            self._take(-60 * MIB)

    def _take(self, bytes_: int) -> None:
        self.memory.used += bytes_
        self.peak = max(self.peak, self.memory.used)


def known() -> Cost:
    return Cost(60 * MIB, MIB, known=True)


def unknown() -> Cost:
    return Cost(512 * MIB, MIB, known=False)


def cached() -> Cost:
    return Cost(0, MIB, known=True)


@pytest.mark.parametrize("cost", [known, unknown, cached])
def test_a_rollout_that_fits_is_slowed_by_less_than_two_percent(cost: Callable[[], Cost]) -> None:
    """Where memory is no question, neither is the gate: first start, restart, from the cache."""
    free = in_virtual_time(Reboot(cost).wall(gated=False))
    gated = in_virtual_time(Reboot(cost).wall(gated=True))
    assert gated <= free * 1.02, (gated, free)


@pytest.mark.parametrize(("limit", "slower"), [(256, 1.02), (230, 1.2)])
def test_a_rollout_that_does_not_fit_is_held_completes_and_stays_below_its_limit(
    limit: int, slower: float
) -> None:
    """Twelve compiles at once would need 820 MiB; one at a time needs 160, and little longer."""

    async def live() -> float:
        reboot = Reboot(known, limit)
        wall = await reboot.wall(gated=True)
        assert reboot.peak <= limit * MIB
        return wall

    free = in_virtual_time(Reboot(known).wall(gated=False))
    assert in_virtual_time(live()) <= free * slower
