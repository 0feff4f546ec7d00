"""A pod, its workflows and those around it, made of one seed and alive in virtual time."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from simulation.oracle import must
from sluice.rollout.batches import Permit, Rollout
from sluice.rollout.costs import Cost, Costs
from sluice.rollout.gate import Bounds
from sluice.rollout.memory import MemoryReading
from sluice.settings import MIB
from sluice.workflow import WorkflowKey

if TYPE_CHECKING:
    from sluice.rollout.holds import HoldEvent

_T = TypeVar("_T")
KEEP_BYTES_MAX = MIB
_CHILD_BYTES_MIN = 40 * MIB
_TIER = "optimizing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a seed decides."""

    seed: int
    workflows: int
    limit: int
    base: int
    bounds: Bounds
    peaks: dict[str, int]  # by digest; some change, so that what was learned is a lie
    lies: bool
    lag_s: float  # of a reading, at most
    stale: bool  # a reading that lags says so
    others_max: int  # what others may take
    failures: float  # chance of a start to fail
    deletions: int
    giants: int
    waits_s: float  # of a subscription, at most


def plan(seed: int) -> Plan:
    """Return what ``seed`` stands for."""
    r = random.Random(seed)
    count = r.choice([1, 5, 12, 13, 30, 60, 60, 60, 100, 100])
    count = {99: 1000, 999: 10_000}.get(seed % 1000, 300 if seed % 50 == 49 else count)
    bounds = Bounds(
        starts_max=r.choice([1, 2, 5, 12, 12, 12]),
        compiles_max=r.choice([1, 1, 1, 2, 3]),
        compile_bytes_max=r.choice([128, 256, 512]) * MIB,
        compile_bytes_min=r.choice([40, 64]) * MIB,
        reserve_bytes=r.choice([16, 32]) * MIB,
        low_fraction=r.choice([0.5, 0.7, 0.8]),
        reading_age_s_max=r.choice([0.1, 1.0]),
    )
    base, room = r.randint(40, 120) * MIB, r.randint(100, 400) * MIB
    kept = count * KEEP_BYTES_MAX
    limit = int((base + kept + room) / bounds.high_fraction) + bounds.reserve_bytes
    largest = min(room * 3 // 4, bounds.compile_bytes_max * 3 // 4)
    modules = max(1, int(count * r.choice([0.1, 0.5, 1.0])))
    giants = r.choice([0, 0, 1, 3, modules // 4])
    peaks = {f"m{i}": r.randint(20 * MIB, largest) for i in range(modules)}
    peaks |= {f"m{i}": r.randint(2, 9) * (limit + 512 * MIB) for i in range(min(giants, modules))}
    return Plan(
        seed=seed, workflows=count, limit=limit, base=base, bounds=bounds, peaks=peaks,
        lies=r.random() < 0.3, lag_s=r.choice([0, 0, 0.05, 0.3]), stale=r.random() < 0.5,
        others_max=r.choice([0, 0, room // 2, room * 2]), failures=r.choice([0, 0, 0.05, 0.3]),
        deletions=r.choice([0, 0, count // 10, count // 2]), giants=min(giants, modules),
        waits_s=r.choice([0.0, 2.0, 30.0]),
    )  # fmt: skip


class Pod:
    """Memory by who holds it; a reading shows what was true ``lag_s`` ago."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._random = plan, random.Random(plan.seed + 2)
        self.kept = self.garbage = self.others = 0
        self.children: dict[object, int] = {}
        self._past: deque[tuple[float, int]] = deque([(0.0, plan.base)])
        self.admitted: dict[object, float] = {}  # the starts under way, since when
        self._others = [(0.0, 0)]

    @property
    def used(self) -> int:
        ours = self.kept + self.garbage + sum(self.children.values())
        return self._plan.base + ours + self.others

    def changed(self) -> None:
        """Hold the pod to its limit; what others took since a start was let in is not ours."""
        if self._others[-1][1] != self.others:
            self._others.append((_now(), self.others))
        if self.admitted:
            ours = self.used - (self.others - self._calm())
            must(ours <= self._plan.limit, f"the pod is over its limit: {self}")
        self._past.append((_now(), self.used))

    def _calm(self) -> int:
        """Return the least that others held since the oldest start under way was decided on."""
        since = min(self.admitted.values()) - self._plan.lag_s - 0.1
        later = [held for at, held in self._others if at >= since]
        before = [held for at, held in self._others if at < since][-1:]
        return min(later + before)

    def trim(self) -> None:
        self.garbage = 0
        self._past.append((_now(), self.used))

    def read(self) -> MemoryReading:
        seen_at = _now() - self._plan.lag_s * self._random.random()
        while len(self._past) > 1 and self._past[1][0] <= seen_at:
            self._past.popleft()
        at = seen_at if self._plan.stale else _now()
        return MemoryReading(
            at=at, used=self._past[0][1], limit=self._plan.limit, working_set=0, anonymous=0,
            kind="simulated",
        )  # fmt: skip

    def __str__(self) -> str:
        parts = {
            "limit": self._plan.limit, "base": self._plan.base, "kept": self.kept,
            "garbage": self.garbage, "children": sum(self.children.values()),
            "others": self.others,
        }  # fmt: skip
        return ", ".join(f"{name} {bytes_ // MIB}" for name, bytes_ in parts.items())


class World:
    """Runs a plan to its end. ``rollout`` is the real one; all around it is made up."""

    def __init__(self, plan: Plan, rollout: Callable[..., Rollout], costs: Path) -> None:
        self.plan, self._random = plan, random.Random(plan.seed + 1)
        self.pod = Pod(plan)
        self.events: list[HoldEvent] = []
        self.rollout = rollout(
            plan.bounds,
            self.pod,
            self.pod.trim,
            told=self.events.append,
            run_blocking=self._blocking,
        )
        self._costs = Costs(costs, plan.bounds.compile_bytes_max)
        self._slot = asyncio.Semaphore(plan.bounds.compiles_max)
        self._cached: set[str] = set()
        self.ready: set[int] = set()
        self.refused: set[int] = set()
        self.deleted: set[int] = set()
        self.in_flight = self.most_in_flight = 0
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.peaks = dict(plan.peaks)
        self._prepare()

    def _prepare(self) -> None:
        for digest, peak in self.peaks.items():
            if self._random.random() < 0.2:
                self._cached.add(digest)
            elif self.plan.lies and self._random.random() < 0.5:  # it took less last time
                self._costs.compiled(digest, self._size(digest), _TIER, peak // 4)

    async def live(self) -> float:
        """Let all happen; return when the last that can be ready was."""
        others = asyncio.create_task(self._others())
        for i in range(self.plan.workflows):
            self.tasks[i] = asyncio.create_task(self._workflow(i))
            if self._random.random() < 0.05:
                await asyncio.sleep(self._random.random() * 3)
        deleting = asyncio.create_task(self._delete())
        await deleting
        await others
        fitting = [t for i, t in self.tasks.items() if not self.giant(i) and not t.cancelled()]
        async with asyncio.timeout(3600 + 120 * self.plan.workflows):
            await asyncio.gather(*fitting, return_exceptions=True)
        ended = _now()
        await self._give_up_giants()
        return ended

    def giant(self, i: int) -> bool:
        return self._digest(i) in {f"m{n}" for n in range(self.plan.giants)}

    async def _give_up_giants(self) -> None:
        await asyncio.sleep(10)
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await asyncio.sleep(1)

    async def _workflow(self, i: int) -> None:
        pause_s = 1.0
        while True:
            try:
                await self._start(i)
            except _Refused:
                self.refused.add(i)
                return
            except _Failed:
                await asyncio.sleep(pause_s * self._random.random())
                pause_s = min(60, pause_s * 2)
            else:
                self.ready.add(i)
                return

    async def _start(self, i: int) -> None:
        digest, r = self._digest(i), self._random
        admit = self.rollout.admit(
            WorkflowKey("team", str(i)), r.choice([0, 0, 0, 5]), lambda: self._cost(digest),
            served_before=r.random() < 0.2, lowest=r.random() < 0.05,
        )  # fmt: skip
        async with admit as permit:
            with self._flight(permit):
                await self._path(digest, permit)

    async def _path(self, digest: str, permit: Permit) -> None:
        r = self._random
        await asyncio.sleep(r.random() * 0.2)
        self._maybe_fail()
        async with self._slot:
            if digest not in self._cached:
                cap = await self.rollout.compile_cap(permit)
                await self._compile(digest, cap)
        permit.compiled()
        self.pod.kept += (keep := r.randint(KEEP_BYTES_MAX // 20, KEEP_BYTES_MAX))
        self.pod.garbage += MIB // 16
        self.pod.changed()
        try:
            await asyncio.sleep(r.random() * self.plan.waits_s)
            self._maybe_fail()
        except BaseException:
            self.pod.kept -= keep
            raise
        self._costs.kept(digest, keep)

    @contextlib.contextmanager
    def _flight(self, start: object) -> Iterator[None]:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.pod.admitted[start] = _now()
        try:
            yield
        finally:
            self.in_flight -= 1
            del self.pod.admitted[start]

    async def _compile(self, digest: str, cap: int) -> None:
        if cap < _CHILD_BYTES_MIN:
            self._costs.failed(digest, self._size(digest), _TIER, cap)
            raise _Failed
        peak, child = self.peaks[digest], object()
        wall_s = 0.2 + self._random.random() * 3
        try:
            for share in (0.3, 1.0):
                self.pod.children[child] = min(cap, int(peak * share))
                self.pod.changed()
                await asyncio.sleep(wall_s / 2)
        finally:
            del self.pod.children[child]
            self.pod.changed()
        if peak > cap:
            self._costs.failed(digest, self._size(digest), _TIER, cap)
            raise _Refused if cap >= self.plan.bounds.compile_bytes_max else _Failed
        self._costs.compiled(digest, self._size(digest), _TIER, peak)
        self._cached.add(digest)

    async def _others(self) -> None:
        for _ in range(12 if self.plan.others_max else 0):
            self.pod.others = self._random.randint(0, self.plan.others_max)
            self.pod.changed()
            await asyncio.sleep(self._random.random() * 15)
        self.pod.others = 0
        self.pod.changed()

    async def _delete(self) -> None:
        for _ in range(self.plan.deletions):
            i = self._random.randrange(self.plan.workflows)
            self.tasks[i].cancel()
            self.deleted.add(i)
            await asyncio.sleep(self._random.random())

    def _maybe_fail(self) -> None:
        if self._random.random() < self.plan.failures:
            raise _Failed

    def _cost(self, digest: str) -> Cost:
        return self._costs.predict(digest, self._size(digest), _TIER, digest in self._cached)

    def _size(self, digest: str) -> int:
        return max(1, self.plan.peaks[digest] // (5 + hash_of(digest) % 30))

    def _digest(self, i: int) -> str:
        return f"m{i % len(self.plan.peaks)}"

    async def _blocking(self, what: Callable[[], _T]) -> _T:
        await asyncio.sleep(self._random.random() * 0.002)
        return what()


def hash_of(text: str) -> int:
    return sum(text.encode())


class _Failed(Exception):  # noqa: N818
    pass


class _Refused(Exception):  # noqa: N818
    pass


def _now() -> float:
    return asyncio.get_running_loop().time()
