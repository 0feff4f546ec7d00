"""The waiting line and its permits: who starts next, and what happens after each batch."""

import asyncio
import bisect
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sluice.rollout.gate import Start, decide
from sluice.workflow import WorkflowKey

log = logging.getLogger(__name__)
# A trim holds the interpreter for most of its time: it may have a fifth of it.
_TRIM_RESTS = 4


@dataclass(eq=False, slots=True)
class _Batch:
    number: int
    size: int
    open: int


@dataclass(eq=False, slots=True)
class _Waiter:
    key: WorkflowKey
    rank: tuple[int, int]
    admitted: asyncio.Future[_Batch]


@dataclass(eq=False, slots=True)
class Permit:
    """The right to start one engine. ``settle`` as soon as the engine needs no more of it."""

    batch: int
    _settle: Callable[[], None] | None = field(repr=False)

    def settle(self) -> None:
        settle, self._settle = self._settle, None
        if settle:
            settle()


@dataclass(frozen=True, slots=True)
class Statistics:
    waiting: int
    in_flight: int
    batches: int


class Rollout:
    """A line with ``starts_max`` permits, released in batches; ``trim`` runs after each batch.

    The order is priority, then arrival. Whoever stops waiting (cancelled) leaves the line at
    once and holds nothing. A higher ``starts_max`` costs memory, a lower one time.
    """

    def __init__(self, starts_max: int, trim: Callable[[], None]) -> None:
        self._starts_max, self._trim = starts_max, trim
        self._line: list[_Waiter] = []
        self._arrivals = itertools.count()
        self._in_flight = 0
        self._batches = 0
        self._untrimmed = False
        self._trimming = False
        self._pump_scheduled = False

    def statistics(self) -> Statistics:
        return Statistics(len(self._line), self._in_flight, self._batches)

    def place(self, key: WorkflowKey) -> int | None:
        """Return how many stand before ``key``, itself included; None: it does not wait."""
        places = (i for i, w in enumerate(self._line, 1) if w.key == key)
        return next(places, None)

    @asynccontextmanager
    async def admit(self, key: WorkflowKey, priority: int) -> AsyncIterator[Permit]:
        """Wait for a permit, hold it in the block, give it back at its end or at ``settle``."""
        waiter = _Waiter(
            key, (-priority, next(self._arrivals)), asyncio.get_running_loop().create_future()
        )
        bisect.insort(self._line, waiter, key=lambda w: w.rank)
        self._wake()
        try:
            batch = await waiter.admitted
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise
        permit = Permit(batch.number, lambda: self._settled(batch))
        try:
            yield permit
        finally:
            permit.settle()

    def _withdraw(self, waiter: _Waiter) -> None:
        with contextlib.suppress(ValueError):
            self._line.remove(waiter)
        if waiter.admitted.done() and not waiter.admitted.cancelled():
            self._settled(waiter.admitted.result())  # released and cancelled in the same breath

    def _wake(self) -> None:
        # Once per turn of the loop, so that what is asked together goes as one batch.
        if not self._pump_scheduled:
            self._pump_scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        # Who was cancelled a moment ago has not run yet to leave, and would keep a permit for ever.
        self._line = [waiter for waiter in self._line if not waiter.admitted.cancelled()]
        decision = decide(len(self._line), self._in_flight, self._starts_max)
        if not isinstance(decision, Start):
            return
        released, self._line = self._line[: decision.count], self._line[decision.count :]
        self._batches += 1
        batch = _Batch(self._batches, len(released), len(released))
        self._in_flight += len(released)
        log.info("batch %d starts %d workflows, %d wait", batch.number, batch.size, len(self._line))
        for waiter in released:
            waiter.admitted.set_result(batch)

    def _settled(self, batch: _Batch) -> None:
        self._in_flight -= 1
        batch.open -= 1
        if batch.open == 0:
            self._untrimmed = True
            if not self._trimming:
                self._trim_now()
        self._wake()

    def _trim_now(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()

        def rest(_: asyncio.Future[None]) -> None:
            loop.call_later((loop.time() - began) * _TRIM_RESTS, self._rested)

        self._untrimmed, self._trimming = False, True
        loop.run_in_executor(None, self._trim).add_done_callback(rest)

    def _rested(self) -> None:
        # A batch that ended meanwhile gets its trim too; all that did share one.
        self._trimming = False
        if self._untrimmed:
            self._trim_now()
