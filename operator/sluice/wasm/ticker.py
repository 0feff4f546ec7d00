"""The thread that makes time pass for guests, and rests while none runs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TICK_S = 0.01


class Ticker:
    """Calls ``tick`` every 10 ms while at least one ``running`` block is open.

    1 ms was measured to be worse: the thread then fights the guests for the interpreter. A tick
    that came late is made up for, so that a busy process does not stretch the guests' time.
    """

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._active = 0
        self._closed = False
        self._wake = threading.Condition()
        self._rest = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sluice-ticker", daemon=True)
        self._thread.start()

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._wake:
            self._active += 1
            self._wake.notify()
        try:
            yield
        finally:
            with self._wake:
                self._active -= 1

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._rest.set()
        self._thread.join()

    def _run(self) -> None:
        due = 0.0
        while True:
            with self._wake:
                if not self._active:
                    self._wake.wait_for(lambda: self._active or self._closed)
                    due = time.monotonic()
                if self._closed:
                    return
            self._tick()
            due += TICK_S
            self._rest.wait(max(0.0, due - time.monotonic()))
