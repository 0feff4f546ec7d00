import os
import threading

from sluice.wasm.ticker import Ticker


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


def test_a_closed_ticker_ends_though_guests_run() -> None:
    """Closing does not wait for anybody's block."""
    ticker = Ticker(_Count().tick)
    with ticker.running():
        ticker.close()
        assert not ticker._thread.is_alive()
