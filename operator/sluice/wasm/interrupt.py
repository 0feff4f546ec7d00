"""What ends a guest before its own end: a cancel, its time, its CPU; looked at on every tick.

A module of its own because both sides need it: the engine, which holds a store by it, and what a
guest may call, which may be asleep when the end comes.
"""

import ctypes
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from wasmtime import _ffi as ffi

from sluice.outcome import OutcomeKind
from sluice.wasm import quick

_WAIT_S_MAX = 86_400.0  # a lock's timeout overflows; who waits looks again


class Why(NamedTuple):
    kind: OutcomeKind
    message: str


class Cancel:
    """A wish that one execution ends; may come from any thread, before it begins or after it ended.

    The first one counts. It is honoured at the next tick, wherever the guest is.
    """

    def __init__(self) -> None:
        self.why: Why | None = None
        self._first = threading.Lock()
        self._heard: Callable[[], object] = bool
        # Held until somebody cancels: a tenth of what a threading.Event costs, in every execution.
        self._asked = threading.Lock()
        self._asked.acquire()

    def cancel(self, kind: OutcomeKind, message: str) -> None:
        """End the execution as ``kind``, if it has not ended; never blocks."""
        with self._first:
            if self.why is None:
                self.why = Why(kind, message)
                self._asked.release()
                self._heard()

    def tell(self, heard: Callable[[], object]) -> None:
        """Have ``heard``, which neither blocks nor raises, called by whoever cancels first.

        It is called at once where somebody has; a later one takes its place.
        """
        with self._first:
            self._heard = heard
            if self.why:
                heard()

    def wait(self, seconds: float) -> None:
        """Block until somebody cancels, or for ``seconds``."""
        if self._asked.acquire(timeout=seconds):
            self._asked.release()


@dataclass(frozen=True, slots=True)
class Bounds:
    """What every execution of one engine may take of time, and what is said where it took more."""

    timeout_s: float
    timed_out: Why
    cpu_s: float = math.inf
    cpu_used: Why = Why(OutcomeKind.TIMED_OUT, "")  # noqa: RUF009 - it is a frozen tuple


class Leash:
    """What one execution is held by; its time begins here.

    The block is entered on the thread that runs it, and holds all that the guest does.
    """

    def __init__(self, bounds: Bounds, cancel: Cancel) -> None:
        self.why: Why | None = None  # why it was ended, if it was
        self.finished = False  # the guest has no more business here, by its own doing
        self._bounds, self._cancel = bounds, cancel
        self._deadline = time.monotonic() + bounds.timeout_s
        # Of this thread: what the host does for the guest counts as the guest's.
        self._cpu_deadline = time.thread_time() + bounds.cpu_s

    def over(self) -> bool:
        """Look whether the guest has to end, and keep why."""
        if self.why is None:
            if self._cancel.why:
                self.why = self._cancel.why
            elif time.monotonic() >= self._deadline:
                self.why = self._bounds.timed_out
            elif time.thread_time() >= self._cpu_deadline:
                self.why = self._bounds.cpu_used
        return self.finished or self.why is not None

    def sleep(self, seconds: float) -> None:
        """Block for ``seconds``, or until the guest has to end."""
        seconds = min(seconds, self._deadline - time.monotonic())
        if seconds > 0:
            self._cancel.wait(seconds)

    def wait(self, bell: threading.Event) -> None:
        """Block until ``bell`` rings, and a cancel rings it; or until the time is over."""
        self._cancel.tell(bell.set)
        bell.wait(min(max(0.0, self._deadline - time.monotonic()), _WAIT_S_MAX))
        bell.clear()

    def fasten(self, store: Any) -> None:
        """Have the guest of a store, not yet run, asked at every tick."""
        quick.store_epoch_deadline_callback(store, _AT_TICK, None, NO_FINALIZER)
        quick.context_set_epoch_deadline(quick.store_context(store), 1)

    def __enter__(self) -> None:
        _current.leash = self

    def __exit__(self, *_: object) -> None:
        del _current.leash


# A guest runs on one thread from beginning to end, so one callback serves the stores of all, and
# nothing has to keep one alive for as long as its store lives.
_current = threading.local()
NO_FINALIZER = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.POINTER(ffi.wasmtime_context_t),
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ffi.wasmtime_update_deadline_kind_t),
)


def _at_tick(
    _context: object, _data: object, delta: "ctypes._Pointer[ctypes.c_uint64]", _kind: object
) -> int:
    """Answer wasmtime: 0 for another tick, or an error that ends the guest."""
    try:
        delta[0] = 1
        over = _current.leash.over()
    except BaseException as e:  # noqa: BLE001 - what is returned past it would be no error but chance
        over = True
        _current.leash.why = Why(OutcomeKind.REFUSED, f"the host failed the guest: {e!r}")
    return _error() if over else 0


_AT_TICK = _Callback(_at_tick)


def _error() -> int:
    # wasmtime frees it. It is read by nobody: the leash knows why.
    error = ffi.wasmtime_error_new(b"ended by the host")
    return ctypes.cast(error, ctypes.c_void_p).value or 0
