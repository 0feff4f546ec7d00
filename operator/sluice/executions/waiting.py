"""What waits for its turn: on disk all of it, in memory as much as there is room for.

In a file of its own, because the scheduler need not know where an event is until it begins.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sluice.errors import EngineRefused
from sluice.executions.journal import Journal
from sluice.executions.line import Entry, Line, Phase
from sluice.executions.tables import Tables
from sluice.settings import Settings

# Events read ahead of one line at a time; whoever is behind them is read when they have gone.
_READ_AHEAD = 32
_SWEEP_S_MAX = 5.0


@dataclass(eq=False, slots=True)
class Load:
    """What is accepted and not over, of all workflows; of it, the bytes that are in memory."""

    entries: int = 0
    bytes: int = 0
    held_bytes: int = 0


class Queues:
    """The queues of all lines. ``offer`` is told of a line in which something waits now.

    ``sweep`` is told now and then of each line in which something waits: it may be too old.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        offer: Callable[[Line], None],
        sweep: Callable[[Line], None],
    ) -> None:
        self._journal, self._settings = journal, settings
        self._offer, self._sweep_line = offer, sweep
        self._lines: set[Line] = set()  # in which something waits
        self._sweeping: asyncio.TimerHandle | None = None
        self.load = Load()

    def add(self, line: Line, entry: Entry) -> None:
        """Let an execution wait behind the others of its line."""
        entry.phase, entry.since = Phase.WAITING, time.monotonic()
        if entry.payload is not None:
            if self.load.held_bytes + len(entry.payload) > self._settings.events_memory_bytes_max:
                entry.payload = None
            else:
                self.load.held_bytes += len(entry.payload)
        line.waiting.append(entry)
        self._waits(line)

    def put_back(self, line: Line, entry: Entry) -> None:
        """Let what could not begin be the first of its line again."""
        entry.phase = Phase.WAITING
        line.waiting.appendleft(entry)
        self._waits(line)

    def postpone(self, line: Line, entry: Entry, not_before: float) -> None:
        """Let it wait until a moment of the wall clock, and then with the others."""
        entry.phase = Phase.LATER
        delay_s = max(not_before - time.time(), 0.0)
        entry.timer = asyncio.get_running_loop().call_later(delay_s, self._due, line, entry)

    def remove(self, line: Line, entry: Entry) -> bytes | None:
        """Take out what waits, and return its event if that is in memory."""
        entry.stop_timer()
        if entry.phase is not Phase.WAITING:
            return None
        if line.waiting[0] is entry:
            line.waiting.popleft()
        else:
            line.waiting.remove(entry)
        if not line.waiting:
            self._lines.discard(line)
        payload, entry.payload = entry.payload, None
        self.load.held_bytes -= len(payload or b"")
        return payload

    def read_ahead(self, line: Line) -> None:
        """Read the events of those that are next, while there is room for them."""
        if line.reading or not line.waiting or line.waiting[0].payload is not None:
            return
        room, batch = self._settings.events_memory_bytes_max - self.load.held_bytes, []
        for entry in list(line.waiting)[:_READ_AHEAD]:
            room -= entry.size
            if room < 0 or entry.recovered or entry.payload is not None:
                break
            batch.append(entry)
        if batch:
            line.reading = True
            self._journal.write(
                partial(Tables.events, owner=line.owner, ids=[entry.id for entry in batch]),
                partial(self._read, line, batch),
                partial(self._not_read, line),
            )

    def close(self) -> None:
        if self._sweeping:
            self._sweeping.cancel()
        self._lines.clear()

    def _read(self, line: Line, batch: list[Entry], payloads: list[bytes | None]) -> None:
        line.reading = False
        for entry, payload in zip(batch, payloads, strict=True):
            if entry.phase is Phase.WAITING and entry.payload is None and payload is not None:
                entry.payload = payload
                self.load.held_bytes += len(payload)

    def _not_read(self, line: Line, _: EngineRefused) -> None:
        line.reading = False

    def _due(self, line: Line, entry: Entry) -> None:
        entry.timer = None
        self.add(line, entry)

    def _waits(self, line: Line) -> None:
        self._lines.add(line)
        if self._sweeping is None:
            self._sweep_later()
        self._offer(line)

    def _sweep_later(self) -> None:
        pause_s = min(self._settings.queue_ttl_s / 10, _SWEEP_S_MAX)
        self._sweeping = asyncio.get_running_loop().call_later(pause_s, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        for line in list(self._lines):
            self._sweep_line(line)
        if self._lines:
            self._sweep_later()
