"""The waiting line and its permits: who starts next, and what happens after each batch."""

import asyncio
import contextlib
import functools
import heapq
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from sluice.reasons import Reason
from sluice.rollout.costs import FREE, Cost
from sluice.rollout.gate import (
    Bounds,
    Decision,
    Flight,
    GateState,
    Hold,
    Start,
    decide,
    headroom,
    need_message,
    ordinal,
    turn_message,
)
from sluice.rollout.holds import HoldEvent, Holds
from sluice.rollout.line import Line, Waiter
from sluice.rollout.memory import MemoryReading, MemorySource
from sluice.rollout.readings import Look, Readings, RunBlocking
from sluice.snapshot import Verdict
from sluice.workflow import WorkflowKey

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Batch:
    number: int
    open: int


@dataclass(eq=False, slots=True, kw_only=True)
class Permit(Flight):
    """The right to start one engine, and to compile it first where its ``cost`` says so.

    Both methods may be called more than once.
    """

    batch: int
    _settle: Callable[[], None] | None = field(repr=False)
    _wake: Callable[[], None] = field(repr=False)

    def compiled(self) -> None:
        """Say that the compile is over: its peak no longer counts."""
        self.done, self.cap_bytes = True, 0
        self._wake()

    def settle(self) -> None:
        """Say that the engine needs no more of the permit."""
        self.done, self.cap_bytes = True, 0
        settle, self._settle = self._settle, None
        if settle:
            settle()


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    waiting: int
    in_flight: int
    batches: int
    batch_size: int  # compiles under way at once, for now
    held: bool  # by memory, and not by what is under way
    hold_reason: Reason | None
    hold_message: str
    hold_seconds: Mapping[Reason, float]
    holds: Mapping[Reason, int]
    trims: int
    trimmed_bytes: int
    reading: MemoryReading | None


class Rollout:
    """A line with ``starts_max`` permits, released in batches as memory and ``bounds`` allow.

    The order is priority, then what served before, then arrival; ``lowest`` comes after all.
    Whoever stops waiting (cancelled) leaves the line at once and holds nothing. Memory is trimmed
    after each batch, and before a reading decides that is not below the low watermark: without a
    trim it only overestimates. A higher ``starts_max`` costs memory, a lower one time.

    All time is the loop's. ``source.read`` and ``trim`` block, and go through ``run_blocking``.
    """

    def __init__(
        self,
        bounds: Bounds,
        source: MemorySource,
        trim: Callable[[], object],
        *,
        told: Callable[[HoldEvent], None] = lambda _: None,
        run_blocking: RunBlocking = asyncio.to_thread,
    ) -> None:
        self._bounds = bounds
        self._line = Line(bounds)
        self._state = GateState.first(bounds)
        self._source = source
        self._readings = Readings(source, trim, run_blocking)
        self._holds = Holds(told)
        self._flights: set[Permit] = set()
        self._starting = 0  # from the line to the end of the block, but for ``lowest`` ones
        self._batches = 0
        self._news = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def admit(
        self,
        key: WorkflowKey,
        priority: int,
        cost: Cost | Callable[[], Cost] = FREE,
        *,
        served_before: bool = False,
        lowest: bool = False,
    ) -> AsyncIterator[Permit]:
        """Wait for a permit, hold it in the block, give it back at its end or at ``settle``.

        A ``cost`` that can be called is asked again while it waits: what others compiled
        meanwhile may be cached by then, or better known. It must be quick, and not raise.
        """
        self._starting += not lowest
        try:
            permit = await self._admitted(key, priority, cost, served_before, lowest)
            try:
                yield permit
            finally:
                permit.settle()
        finally:
            self._starting -= not lowest

    async def _admitted(
        self,
        key: WorkflowKey,
        priority: int,
        cost: Cost | Callable[[], Cost],
        served_before: bool,
        lowest: bool,
    ) -> Permit:
        admitted: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        waiter = self._line.join(
            key, cost, admitted, priority=priority, served_before=served_before, lowest=lowest
        )
        self._wake()
        try:
            return await admitted
        except asyncio.CancelledError:
            self._withdraw(waiter, admitted)
            raise

    async def compile_cap(self, permit: Permit) -> int:
        """Return what a compile child may take that is spawned at once: 0 or more bytes.

        That is what lies below the high watermark, less what others will keep, less what the
        children that run already may take, less the peaks of those that may run beside this one.
        Memory is trimmed first, unless there is enough anyway: a trim takes as long as a tenth of
        a small compile. It may be too little: then the child dies, not the pod.
        """
        before = set(self._flights)
        look = await self._readings.look()
        cap = self._cap(permit, look.reading, before)
        if cap < self._enough(permit.cost):
            before = set(self._flights)
            look = await self._readings.trimmed()
            cap = self._cap(permit, look.reading, before)
        # No await from its reckoning to here: nobody is given the same memory meanwhile.
        permit.cap_bytes = cap
        if cap:  # it was reckoned with all that was admitted until now
            self._state = replace(self._state, beside_bytes=0)
        return cap

    def reading(self) -> MemoryReading:
        """Return memory as it is now, for those who show it; it decides nothing."""
        return self._source.read()

    def statistics(self) -> Statistics:
        reading, holds = self._readings.last, self._holds
        return Statistics(
            waiting=len(self._line),
            in_flight=len(self._flights),
            batches=self._batches,
            batch_size=self._state.batch,
            held=holds.held_since is not None,
            hold_reason=holds.hold.reason if holds.hold else None,
            hold_message=holds.hold.message if holds.hold else "",
            hold_seconds=holds.seconds(_now()),
            holds=dict(holds.counts),
            trims=self._readings.trims,
            trimmed_bytes=self._readings.trimmed_bytes,
            reading=reading,
        )

    def place(self, key: WorkflowKey) -> int | None:
        """Return how many stand before ``key``, itself included; None: it does not wait."""
        waiter = self._line.waiter(key)
        return self._line.place(waiter) if waiter else None

    @property
    def starting(self) -> int:
        """How many wait to serve or are on their way: those that are ``lowest`` are left out."""
        return self._starting

    def parked(self, key: WorkflowKey) -> bool:
        """Whether ``key`` waits for memory that nothing under way will bring."""
        waiter = self._line.waiter(key)
        return waiter is not None and self._line.is_parked(waiter)

    def explain(self, key: WorkflowKey) -> Verdict | None:
        """Return what ``key`` is told while it waits; None: it does not wait."""
        waiter, reading = self._line.waiter(key), self._readings.last
        if waiter is None:
            return None
        hold = self._holds.latest
        held = hold is not None and hold.reason is Reason.WAITING_FOR_MEMORY
        memory = held or self._line.is_parked(waiter)
        if memory and reading:
            message = need_message(reading, waiter.cost, self._bounds)
        else:
            compiling = sum(1 for flight in self._flights if flight.outstanding)
            message = turn_message(len(self._flights), compiling, self._state, self._bounds)
        line = f"{len(self._line)} wait, {ordinal(self._line.place(waiter))} in line"
        reason = Reason.WAITING_FOR_MEMORY if memory else Reason.WAITING_FOR_TURN
        return Verdict(False, reason, f"{message}; {line}")

    def _withdraw(self, waiter: Waiter, admitted: "asyncio.Future[Permit]") -> None:
        if admitted.done() and not admitted.cancelled():
            admitted.result().settle()  # released and cancelled in the same breath
        else:
            self._line.leave(waiter)
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        if len(self._line) and (self._pump is None or self._pump.done()):
            # A task, so that what is asked together goes as one batch.
            self._pump = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._line):
            self._news.clear()
            again: float | None = loop.time() + self._bounds.look_again_s
            try:
                decision = await self._look()
            except Exception:
                log.exception("nobody is admitted for now")
            else:
                if isinstance(decision, Start):
                    continue
                again = decision.until
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(again):
                    await self._news.wait()
        self._holds.nobody_waits(self._readings.last, loop.time())

    async def _look(self) -> Decision:
        """Decide on a fresh reading, on a trimmed one where it matters and the last has rested."""
        if len(self._flights) >= self._bounds.starts_max:
            return self._full()
        flights = set(self._flights)
        look = await self._readings.look()
        low = self._bounds.low(look.reading.limit)
        if look.reading.used > low and self._readings.rested:
            look = await self._readings.trimmed()
        decision = self._decide(look, flights)
        if not isinstance(decision, Hold) or decision.reason is Reason.WAITING_FOR_TURN:
            return decision
        if look.gave_back is None and self._readings.rested:
            flights = set(self._flights)
            return self._decide(await self._readings.trimmed(), flights)
        if look.gave_back is None and decision.until:  # at the latest when a trim is due again
            return replace(decision, until=min(decision.until, self._readings.rests_until))
        return decision

    def _full(self) -> Hold:
        # No reading can change it, so none is taken; a permit that is given back wakes the pump.
        message = turn_message(len(self._flights), 0, self._state, self._bounds)
        message = f"{message}; {len(self._line)} wait"
        hold = Hold(Reason.WAITING_FOR_TURN, message, None, 0, self._state)
        self._holds.decided(hold, None, self._line.parked, _now())
        return hold

    def _decide(self, look: Look, before: set[Permit]) -> Decision:
        """Decide and act on it; ``before``: who was under way when the reading was begun."""
        # The reading may not show what those keep that settled since: they count once more.
        flights = list(before | self._flights)
        free = headroom(look.reading, flights, self._bounds)
        head = self._line.head(free)
        decision = decide(
            look.reading, head, flights, self._state, self._bounds, _now(),
            waits=len(self._line), gave_back=look.gave_back,
        )  # fmt: skip
        self._state = decision.state
        for index in decision.parked:
            self._line.park(head[index])
        if isinstance(decision, Start):
            for index in decision.passed:
                head[index].passes_left -= 1
            self._release([head[index] for index in decision.indexes])
        self._holds.decided(decision, look.reading, self._line.parked, _now())
        return decision

    def _release(self, released: list[Waiter]) -> None:
        self._batches += 1
        batch = _Batch(self._batches, len(released))
        for waiter in released:
            self._line.leave(waiter)
            permit = Permit(
                cost=waiter.cost,
                done=not waiter.cost.compile_bytes,
                batch=batch.number,
                _settle=None,
                _wake=self._wake,
            )
            permit._settle = functools.partial(self._settled, permit, batch)  # noqa: SLF001
            self._flights.add(permit)
            waiter.admitted.set_result(permit)
        log.info("batch %d starts %d workflows, %d wait", batch.number, batch.open, len(self._line))

    def _settled(self, permit: Permit, batch: _Batch) -> None:
        self._flights.discard(permit)
        batch.open -= 1
        if batch.open == 0:
            self._state = self._state.after_batch(self._bounds)
            self._readings.owe_a_trim()
        self._wake()

    def _enough(self, cost: Cost) -> int:
        full = self._bounds.compile_bytes_max
        return min(full, cost.compile_bytes * 5 // 4) if cost.known else full

    def _cap(self, permit: Permit, reading: MemoryReading, before: set[Permit]) -> int:
        others = (before | self._flights) - {permit}
        running = [other.cap_bytes for other in others if other.cap_bytes]
        to_come = (other.outstanding for other in others if not other.cap_bytes)
        beside = heapq.nlargest(self._bounds.compiles_max - 1 - len(running), to_come)
        free = headroom(reading, others, self._bounds) - sum(running) - sum(beside)
        return max(0, min(self._bounds.compile_bytes_max, free))


def _now() -> float:
    return asyncio.get_running_loop().time()
