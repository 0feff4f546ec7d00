import os
import threading
from types import SimpleNamespace

import pytest

from sluice.wasm import ticker as module
from sluice.wasm.ticker import TICK_S, Ticker


class _Count:
    """Counts ticks and lets a test wait for a number of them."""

    def __init__(self) -> None:
        self.ticks = 0
        self._moved = threading.Condition()

    def tick(self) -> None:
        with self._moved:
            self.ticks += 1
            self._moved.notify_all()

    def wait_for(self, ticks: int) -> bool:
        with self._moved:
            return self._moved.wait_for(lambda: self.ticks >= ticks, 10)


class _Time(threading.Event):
    """A clock that only waiting and stalling move."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        return self.is_set()


def test_time_passes_while_a_guest_runs() -> None:
    """Ticks come for as long as any block is open, the inner of two included."""
    count = _Count()
    ticker = Ticker(count.tick)
    with ticker.running():
        with ticker.running():
            assert count.wait_for(2)
        assert count.wait_for(count.ticks + 2)
    ticker.close()


def test_an_idle_ticker_rests() -> None:
    """Without a guest the thread waits until it is called: it wakes for nothing."""
    count = _Count()
    ticker = Ticker(count.tick)
    for _ in range(3):
        with ticker.running():
            assert count.wait_for(count.ticks + 1)
        while not ticker._wake._waiters:  # type: ignore[attr-defined]
            os.sched_yield()
    ticker.close()


def test_ticks_that_came_late_are_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy process does not stretch the time of its guests: so many ticks for so much time."""
    time, count = _Time(), _Count()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=time.monotonic))

    def tick() -> None:
        if count.ticks == 5:
            time.now += 0.3  # the interpreter was held by somebody else
        count.tick()

    ticker = Ticker(tick)
    ticker._rest = time
    with ticker.running():
        assert count.wait_for(100)
    ticker.close()
    assert time.now == pytest.approx(count.ticks * TICK_S)


def test_a_closed_ticker_ends_though_guests_run() -> None:
    """Closing does not wait for anybody's block."""
    ticker = Ticker(_Count().tick)
    with ticker.running():
        ticker.close()
        assert not ticker._thread.is_alive()
