"""Threads that run guests; they tell the event loop of ends, as many as there are at a time."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

log = logging.getLogger(__name__)
_T = TypeVar("_T")
# wasmtime's guests use up to 512 KiB of it; with 512 KiB or less their recursion kills the process.
_STACK_BYTES = 8 << 20


class Pool:
    """A fixed number of threads with stacks deep enough for guests, all there from the beginning.

    ``concurrent.futures`` would make two futures and wake the loop for each execution; here one
    wake-up tells of all that ended meanwhile.
    """

    def __init__(self, workers: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = (
            SimpleQueue()
        )
        self._over: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._due = False  # the loop was asked to look and has not looked yet
        before = threading.stack_size(_STACK_BYTES)
        try:
            self._threads = [
                threading.Thread(target=self._work, name=f"sluice-guest-{n}", daemon=True)
                for n in range(workers)
            ]
            for thread in self._threads:
                thread.start()
        finally:
            threading.stack_size(before)

    def run(self, work: Callable[[], _T], told: Callable[[_T], None]) -> None:
        """Run ``work``, which never raises, on a thread, and tell its result in the loop."""
        self._jobs.put((work, told))

    def close(self) -> None:
        """Let the threads end; one that is in a guest ends after it."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while job := self._jobs.get():
            work, told = job
            self._over.append((told, work()))
            del job, work, told  # an engine is not held by who waits for the next one
            if not self._due:
                self._due = True
                try:
                    self._loop.call_soon_threadsafe(self._tell)
                except RuntimeError:
                    return  # the loop is closed: nobody is left to be told

    def _tell(self) -> None:
        self._due = False  # before: what ends from now on asks for a look of its own
        while self._over:
            told, result = self._over.popleft()
            try:
                told(result)
            except Exception:
                log.exception("the end of an execution was not taken note of")
