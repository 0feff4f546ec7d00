"""The thread that makes time pass for guests, and rests while none runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TICK_S = 0.01


class Ticker:
    """Calls ``tick`` every 10 ms while at least one ``running`` block is open.

    1 ms was measured to be worse: the thread then fights the guests for the interpreter. A tick
    that comes late is not made up for: at each one a guest's time is read from the clock.
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
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._active or self._closed)
                if self._closed:
                    return
            self._tick()
            self._rest.wait(TICK_S)
