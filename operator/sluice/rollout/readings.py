"""Readings of memory for who has to decide on one, and the trims before them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sluice.rollout.memory import MemoryReading, MemorySource

log = logging.getLogger(__name__)
_T = TypeVar("_T")
# A trim holds the interpreter for most of its time: it may have a fifth of it.
_TRIM_RESTS = 4


class RunBlocking(Protocol):
    """Runs what blocks where it holds nobody up."""

    def __call__(self, what: Callable[[], _T], /) -> Awaitable[_T]: ...


@dataclass(frozen=True, slots=True)
class Look:
    """A reading for one decision; ``gave_back``: by the trim before it, None: there was none."""

    reading: MemoryReading
    gave_back: int | None = None


class Readings:
    """Reads, and trims not more often than it may; counts what the trims gave back."""

    def __init__(
        self, source: MemorySource, trim: Callable[[], object], run_blocking: RunBlocking
    ) -> None:
        self._source, self._trim, self._run_blocking = source, trim, run_blocking
        self._one_trim = asyncio.Lock()
        self.rests_until = 0.0
        self._owed: asyncio.Task[None] | None = None
        self._owes = False
        self.last: MemoryReading | None = None
        self.trims = self.trimmed_bytes = 0

    @property
    def rested(self) -> bool:
        return asyncio.get_running_loop().time() >= self.rests_until

    async def look(self) -> Look:
        """Read without a trim: never less than there is."""
        self.last = reading = await self._run_blocking(self._source.read)
        return Look(reading)

    async def trimmed(self) -> Look:
        """Trim, then read."""
        async with self._one_trim:
            loop = asyncio.get_running_loop()
            began = loop.time()
            before, after = await self._run_blocking(self._around_trim)
            self.last = after
            self.rests_until = loop.time() + (loop.time() - began) * _TRIM_RESTS
        gave_back = max(0, before.used - after.used)
        self.trims += 1
        self.trimmed_bytes += gave_back
        return Look(after, gave_back)

    def owe_a_trim(self) -> None:
        """Trim soon; what is owed during a trim or its rest is paid by one after it."""
        self._owes = True
        if self._owed is None or self._owed.done():
            self._owed = asyncio.get_running_loop().create_task(self._pay())

    async def _pay(self) -> None:
        while self._owes:
            self._owes = False
            try:
                await self.trimmed()
            except Exception:
                log.exception("memory could not be read after a trim")
            rest_s = self.rests_until - asyncio.get_running_loop().time()
            if rest_s > 0:
                await asyncio.sleep(rest_s)

    def _around_trim(self) -> tuple[MemoryReading, MemoryReading]:
        before = self._source.read()
        try:
            self._trim()
        except Exception:
            log.exception("a trim failed")
        return before, self._source.read()
