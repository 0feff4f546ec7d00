"""A WASI command's world: three streams, a clock, randomness, and nothing of the host.

wasmtime's own preview 1 serves all but four functions, which are shadowed here (123 us for a
whole execution, against 163 us with files and 173 us with pipes):

* ``fd_read`` and ``fd_write`` of the standard streams, so that no file is needed and every byte
  is counted against its bound as it is written;
* ``poll_oneoff``, because wasmtime's sleeps in the host, where no epoch can interrupt it: a guest
  could sleep for an hour under a time limit of a second. Ours wakes at the deadline;
* ``proc_exit``, because wasmtime's takes a code over 125 for a failure of the host.

No exception leaves a host function: the binding keeps it in a module global that another thread
may pick up (reproduced). It is kept with the streams, and a guest that is to end gets its epoch
deadline pulled in. No call copies more than its bound, however the guest overlaps its vectors: a
host function cannot be interrupted.
"""

import ctypes
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import wasmtime

from sluice.wasm.abi import WASI_MODULE

_SUCCESS, _BADF, _FAULT, _FBIG, _INVAL, _NOTSUP = 0, 8, 21, 22, 28, 58  # wasi/api.h, errno
_IOVECS_MAX = 1024
_SUBSCRIPTIONS_MAX = 128
_SUBSCRIPTION, _EVENT = 48, 32  # bytes of the two structures
_CLOCK, _FD_READ, _FD_WRITE = 0, 1, 2
_STREAMS_OF = {_FD_READ: {0}, _FD_WRITE: {1, 2}}
_REALTIME = 0
_SLEEP_S_MAX = 86_400.0  # time.sleep overflows; guests look at their clock after a wait


@dataclass(slots=True)
class Streams:
    """One execution's standard streams and the moment it has to be over."""

    stdin: memoryview
    response_bytes_max: int
    log_bytes_max: int
    deadline: float  # of time.monotonic()
    stdout: bytearray = field(default_factory=bytearray)
    overflowed: bool = False
    exit_code: int | None = None  # what proc_exit was called with
    host_error: Exception | None = None  # ours, not the guest's
    _log: bytearray = field(default_factory=bytearray)

    def read(self, size: int) -> bytes:
        taken, self.stdin = bytes(self.stdin[:size]), self.stdin[size:]
        return taken

    def write_log(self, data: bytes) -> None:
        """Keep the tail: the last words of a failing guest are the useful ones."""
        self._log += data
        # Cut at twice the bound, so that writes of a byte do not move the whole each time.
        if len(self._log) >= 2 * self.log_bytes_max:
            del self._log[: -self.log_bytes_max]

    @property
    def log(self) -> bytes:
        return bytes(self._log[-self.log_bytes_max :])


# A guest runs on one thread from beginning to end, so the linker can be shared by all of them.
_current = threading.local()


class current:  # noqa: N801 - read as a statement, `with current(streams):`
    """Make ``streams`` those of the guest that runs on this thread."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def __enter__(self) -> None:
        _current.streams = self._streams

    def __exit__(self, *_: object) -> None:
        del _current.streams


class _Guest:
    """The guest that calls: its streams, and its memory, bounds-checked (IndexError outside)."""

    def __init__(self, caller: wasmtime.Caller) -> None:
        # Every module that gets here exports a memory: the compile child has looked.
        memory = cast("wasmtime.Memory", caller["memory"])
        self.streams: Streams = _current.streams
        self._caller = caller
        self._base = ctypes.addressof(memory.data_ptr(caller).contents)
        self._size = memory.data_len(caller)

    def read(self, at: int, size: int) -> bytes:
        return ctypes.string_at(self._base + self._checked(at, size), size)

    def write(self, at: int, data: bytes) -> None:
        ctypes.memmove(self._base + self._checked(at, len(data)), data, len(data))

    def end(self) -> None:
        _end(self._caller)

    def _checked(self, at: int, size: int) -> int:
        if at + size > self._size:
            raise IndexError
        return at


def _end(caller: wasmtime.Caller) -> None:
    """Interrupt the guest at its next loop or call: it has no more business here."""
    wasmtime._ffi.wasmtime_context_set_epoch_deadline(caller._context(), 0)  # noqa: SLF001


def define(linker: wasmtime.Linker) -> None:
    """Give a linker the whole of preview 1 with our four functions in front."""
    linker.allow_shadowing = True
    linker.define_wasi()
    i32 = wasmtime.ValType.i32()
    kind = wasmtime.FuncType([i32] * 4, [i32])
    functions: dict[str, Callable[..., int]] = {
        "fd_read": _fd_read,
        "fd_write": _fd_write,
        "poll_oneoff": _poll_oneoff,
    }
    for name, function in functions.items():
        linker.define_func(WASI_MODULE, name, kind, _guarded(function), access_caller=True)
    exits = wasmtime.FuncType([i32], [])
    linker.define_func(WASI_MODULE, "proc_exit", exits, _proc_exit, access_caller=True)


def _guarded(function: Callable[..., int]) -> Callable[..., int]:
    def guarded(caller: wasmtime.Caller, *args: int) -> int:
        try:
            # The binding hands out i32s, which are signed; addresses and counts are not.
            unsigned = (arg & 0xFFFFFFFF for arg in args)
            return function(_Guest(caller), *unsigned)
        except IndexError:
            return _FAULT
        except Exception as e:  # noqa: BLE001 - not one may leave; see the module's docstring
            _current.streams.host_error = e
            _end(caller)
            return _NOTSUP

    return guarded


def _proc_exit(caller: wasmtime.Caller, code: int) -> None:
    _current.streams.exit_code = code
    _end(caller)  # compilers put an `unreachable` behind it, so most never get that far


def _iovecs(guest: _Guest, at: int, count: int) -> list[tuple[int, int]]:
    if count > _IOVECS_MAX:
        raise IndexError
    flat = struct.unpack(f"<{2 * count}I", guest.read(at, 8 * count))
    if sum(flat[1::2]) > 0xFFFFFFFF:  # the count of bytes could not be told
        raise IndexError
    return list(zip(flat[::2], flat[1::2], strict=True))


def _fd_read(guest: _Guest, fd: int, iovs: int, count: int, nread: int) -> int:
    if fd != 0:
        return _BADF  # nothing else is open: no directory is given to a guest
    total = 0
    for at, size in _iovecs(guest, iovs, count):
        data = guest.streams.read(size)
        guest.write(at, data)
        total += len(data)
        if len(data) < size:
            break
    guest.write(nread, struct.pack("<I", total))
    return _SUCCESS


def _fd_write(guest: _Guest, fd: int, iovs: int, count: int, written: int) -> int:
    if fd not in {1, 2}:
        return _BADF
    streams, iovecs = guest.streams, _iovecs(guest, iovs, count)
    total = sum(size for _, size in iovecs)
    if fd == 2:
        streams.write_log(_tail(guest, iovecs, streams.log_bytes_max))
    elif len(streams.stdout) + total > streams.response_bytes_max:
        streams.overflowed = True
        guest.end()
        return _FBIG
    else:
        for at, size in iovecs:
            streams.stdout += guest.read(at, size)
    guest.write(written, struct.pack("<I", total))
    return _SUCCESS


def _tail(guest: _Guest, iovecs: list[tuple[int, int]], bytes_max: int) -> bytes:
    """Return the last ``bytes_max`` bytes of what the vectors name, and copy no others."""
    pieces: list[bytes] = []
    for at, size in reversed(iovecs):
        taken = min(size, bytes_max)
        pieces.append(guest.read(at + size - taken, taken))
        bytes_max -= taken
    return b"".join(reversed(pieces))


def _poll_oneoff(guest: _Guest, subscribed: int, out: int, count: int, nevents: int) -> int:
    if not 0 < count <= _SUBSCRIPTIONS_MAX:
        return _INVAL
    raw = guest.read(subscribed, _SUBSCRIPTION * count)
    subscriptions = [raw[i : i + _SUBSCRIPTION] for i in range(0, len(raw), _SUBSCRIPTION)]
    # Streams are always ready; only a wait for clocks alone is a wait.
    ready = [_event(s) for s in subscriptions if s[8] != _CLOCK]
    if not ready:
        ready = _sleep(subscriptions, guest.streams.deadline)
        if time.monotonic() >= guest.streams.deadline:
            guest.end()
    guest.write(out, b"".join(ready))
    guest.write(nevents, struct.pack("<I", len(ready)))
    return _SUCCESS


def _sleep(subscriptions: list[bytes], deadline: float) -> list[bytes]:
    """Wait for the first clock, or for the guest's deadline; return the events that are due."""
    waits = [_clock_wait_s(s) for s in subscriptions]
    wait_s = min(waits)
    time.sleep(max(0.0, min(wait_s, deadline - time.monotonic(), _SLEEP_S_MAX)))
    return [_event(s) for s, w in zip(subscriptions, waits, strict=True) if w <= wait_s]


def _clock_wait_s(subscription: bytes) -> float:
    clock: int
    timeout: int
    clock, timeout, _precision, flags = struct.unpack_from("<I4xQQH", subscription, 16)
    if not flags & 1:
        return timeout / 1e9
    now = time.time_ns() if clock == _REALTIME else time.monotonic_ns()
    return max(0.0, (timeout - now) / 1e9)


def _event(subscription: bytes) -> bytes:
    kind, fd = subscription[8], struct.unpack_from("<I", subscription, 16)[0]
    if kind not in {_CLOCK, _FD_READ, _FD_WRITE}:
        error = _NOTSUP
    else:
        error = _SUCCESS if kind == _CLOCK or fd in _STREAMS_OF[kind] else _BADF
    return subscription[:8] + struct.pack("<HB5xQH6x", error, kind, 1, 0)
