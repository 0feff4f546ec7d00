"""What a CRE guest has asked for and not yet been given: calls under way, and how it waits.

The texts are those that a guest sees, and some of them are looked for in it.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from sluice.outcome import OutcomeKind
from sluice.wasm.interrupt import Leash

_T = TypeVar("_T")


class CallError(Exception):
    """What a guest is told in place of an answer."""


class Patience:
    """How the guest of one execution waits: for something to be so, or for its own end."""

    def __init__(self, leash: Leash) -> None:
        self._leash = leash
        self.bell = threading.Event()

    def until(self, so: Callable[[], bool]) -> None:
        """Block until ``so`` says yes; who makes it so rings the bell.

        Raises:
            CallError: the guest has to end.

        """
        while not so():
            if self._leash.over():
                raise CallError(self._why())
            self._leash.wait(self.bell)

    def _why(self) -> str:
        why = self._leash.why
        late = why is not None and why.kind is OutcomeKind.TIMED_OUT
        return "context deadline exceeded" if late else "context canceled"


class Slots:
    """At most ``most`` calls of one workflow under way, over all of its executions.

    A slot is given back when its call is over, whether or not anybody has asked for the answer.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: set[threading.Event] = set()
        self._lock = threading.Lock()

    def take(self, patience: Patience) -> None:
        """Take a slot; blocks until there is one. Raises CallError where the guest has to end."""
        if self._taken(patience.bell):
            return
        try:
            patience.until(lambda: self._taken(patience.bell))
        finally:
            with self._lock:
                self._waiting.discard(patience.bell)

    def give_back(self) -> None:
        with self._lock:
            self._free += 1
            for bell in self._waiting:
                bell.set()

    def _taken(self, bell: threading.Event) -> bool:
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return True
            self._waiting.add(bell)
            return False


class Calls(Generic[_T]):
    """The calls of one execution in one namespace of ids."""

    def __init__(self, slots: Slots, patience: Patience, most: int) -> None:
        self._slots, self._patience, self._most = slots, patience, most
        self._used: set[int] = set()
        self._futures: dict[int, Future[_T]] = {}

    def begin(self, call_id: int, start: Callable[[], Future[_T]]) -> None:
        """Start a call in a slot. Raises CallError where it may not be."""
        self._slots.take(self._patience)
        try:
            self._check(call_id)
            future = start()
        except BaseException:
            self._slots.give_back()
            raise
        self._used.add(call_id)
        self._futures[call_id] = future
        future.add_done_callback(self._over)

    def _check(self, call_id: int) -> None:
        if call_id in self._used:
            raise CallError("duplicate callback id not allowed")
        if len(self._used) >= self._most:
            raise CallError(f"more than {self._most} calls in one execution")

    def _over(self, _future: Future[_T]) -> None:
        self._slots.give_back()
        self._patience.bell.set()

    def answers(self, call_ids: Iterable[int]) -> Iterator[tuple[int, Future[_T]]]:
        """Yield each call when it is over, strictly in this order, and forget it.

        Raises:
            CallError: one is not known, or not any more; or the guest has to end.

        """
        for call_id in call_ids:
            future = self._futures.get(call_id)
            if future is None:
                raise CallError(f"failed to get call from store : {call_id}")
            try:
                self._patience.until(future.done)
            except CallError as e:
                raise CallError(f"failed to wait for capability response {call_id} : {e}") from None
            del self._futures[call_id]
            yield call_id, future

    def cancel(self) -> None:
        """Give up what nobody will ask for any more."""
        for future in self._futures.values():
            future.cancel()
