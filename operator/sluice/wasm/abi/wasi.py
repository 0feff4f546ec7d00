"""A WASI command's world: three streams, a clock, randomness, and nothing of the host.

wasmtime's own preview 1 serves all but three functions, which are shadowed here (123 us for a
whole execution, against 163 us with files and 173 us with pipes):

* ``fd_read`` and ``fd_write`` of the standard streams, so that no file is needed and every byte
  is counted against its bound as it is written;
* ``poll_oneoff``, because wasmtime's sleeps in the host, where no epoch can interrupt it: a guest
  could sleep for an hour under a time limit of a second. Ours wakes at the deadline.

No exception leaves a host function: the binding keeps it in a module global that another thread
may pick up (reproduced). A guest that is to end gets its epoch deadline pulled in instead.
"""

import ctypes
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import wasmtime

from sluice.wasm.abi import WASI_MODULE

_SUCCESS, _BADF, _FAULT, _FBIG, _INVAL, _NOTSUP = 0, 8, 21, 22, 28, 58  # wasi/api.h, errno
_IOVECS_MAX = 1024
_SUBSCRIPTIONS_MAX = 128
_SUBSCRIPTION, _EVENT = 48, 32  # bytes of the two structures
_CLOCK, _FD_READ, _FD_WRITE = 0, 1, 2
_REALTIME = 0


@dataclass(slots=True)
class Streams:
    """One execution's standard streams and the moment it has to be over."""

    stdin: memoryview
    response_bytes_max: int
    log_bytes_max: int
    deadline: float  # of time.monotonic()
    stdout: bytearray = field(default_factory=bytearray)
    overflowed: bool = False
    log_bytes: int = 0
    _log: deque[bytes] = field(default_factory=deque)
    _log_held: int = 0

    def read(self, size: int) -> bytes:
        taken, self.stdin = bytes(self.stdin[:size]), self.stdin[size:]
        return taken

    def write_log(self, data: bytes) -> None:
        """Keep the tail: the last words of a failing guest are the useful ones."""
        self.log_bytes += len(data)
        self._log.append(data[-self.log_bytes_max :])
        self._log_held += len(self._log[-1])
        while self._log_held - len(self._log[0]) >= self.log_bytes_max:
            self._log_held -= len(self._log.popleft())

    @property
    def log(self) -> bytes:
        return b"".join(self._log)[-self.log_bytes_max :]


# A guest runs on one thread from beginning to end, so the linker can be shared by all of them.
_current = threading.local()


class current:  # noqa: N801: read as a statement, `with current(streams):`
    """Make ``streams`` those of the guest that runs on this thread."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def __enter__(self) -> None:
        _current.streams = self._streams

    def __exit__(self, *_: object) -> None:
        del _current.streams


class _Memory:
    """Bounds-checked access to the calling guest's memory; IndexError outside it."""

    def __init__(self, caller: wasmtime.Caller) -> None:
        memory = caller["memory"]
        assert isinstance(memory, wasmtime.Memory)
        self._base = ctypes.addressof(memory.data_ptr(caller).contents)
        self._size = memory.data_len(caller)

    def read(self, at: int, size: int) -> bytes:
        return ctypes.string_at(self._base + self._checked(at, size), size)

    def write(self, at: int, data: bytes) -> None:
        ctypes.memmove(self._base + self._checked(at, len(data)), data, len(data))

    def _checked(self, at: int, size: int) -> int:
        at &= 0xFFFFFFFF  # the binding hands out i32s, which are signed; addresses are not
        if at + size > self._size:
            raise IndexError
        return at


def define(linker: wasmtime.Linker) -> None:
    """Give a linker the whole of preview 1 with our three functions in front."""
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


def _guarded(function: Callable[..., int]) -> Callable[..., int]:
    def guarded(caller: wasmtime.Caller, *args: int) -> int:
        try:
            return function(caller, _Memory(caller), _current.streams, *args)
        except IndexError:
            return _FAULT
        except Exception:  # noqa: BLE001: not one may leave; see the module's docstring
            return _NOTSUP

    return guarded


def _iovecs(memory: _Memory, at: int, count: int) -> list[tuple[int, int]]:
    if not 0 <= count <= _IOVECS_MAX:
        raise IndexError
    flat = struct.unpack(f"<{2 * count}I", memory.read(at, 8 * count))
    return list(zip(flat[::2], flat[1::2], strict=True))


def _fd_read(
    _caller: Any, memory: _Memory, streams: Streams, fd: int, iovs: int, count: int, nread: int
) -> int:
    if fd != 0:
        return _BADF  # nothing else is open: no directory is given to a guest
    total = 0
    for at, size in _iovecs(memory, iovs, count):
        data = streams.read(size)
        memory.write(at, data)
        total += len(data)
        if len(data) < size:
            break
    memory.write(nread, struct.pack("<I", total))
    return _SUCCESS


def _fd_write(
    caller: wasmtime.Caller, memory: _Memory, streams: Streams,
    fd: int, iovs: int, count: int, written: int,
) -> int:  # fmt: skip
    if fd not in {1, 2}:
        return _BADF
    total = 0
    for at, size in _iovecs(memory, iovs, count):
        if fd == 1 and len(streams.stdout) + size > streams.response_bytes_max:
            streams.overflowed = True
            _end(caller)
            return _FBIG
        data = memory.read(at, size)
        if fd == 1:
            streams.stdout += data
        else:
            streams.write_log(data)
        total += size
    memory.write(written, struct.pack("<I", total))
    return _SUCCESS


def _end(caller: wasmtime.Caller) -> None:
    """Interrupt the guest at its next loop or call: it has no more business here."""
    wasmtime._ffi.wasmtime_context_set_epoch_deadline(caller._context(), 0)  # noqa: SLF001


def _poll_oneoff(
    _caller: Any, memory: _Memory, streams: Streams, subs: int, out: int, count: int, nevents: int
) -> int:
    if not 0 < count <= _SUBSCRIPTIONS_MAX:
        return _INVAL
    raw = memory.read(subs, _SUBSCRIPTION * count)
    subscriptions = [raw[i : i + _SUBSCRIPTION] for i in range(0, len(raw), _SUBSCRIPTION)]
    # Streams are always ready; only a wait for clocks alone is a wait.
    ready = [_event(s) for s in subscriptions if s[8] != _CLOCK]
    if not ready:
        ready = _sleep(subscriptions, streams.deadline)
    memory.write(out, b"".join(ready))
    memory.write(nevents, struct.pack("<I", len(ready)))
    return _SUCCESS


def _sleep(subscriptions: list[bytes], deadline: float) -> list[bytes]:
    """Wait for the first clock, or for the guest's deadline; return the events that are due."""
    waits = [_clock_wait_s(s) for s in subscriptions]
    wait_s = min(waits)
    time.sleep(max(0.0, min(wait_s, deadline - time.monotonic())))
    return [_event(s) for s, w in zip(subscriptions, waits, strict=True) if w <= wait_s]


def _clock_wait_s(subscription: bytes) -> float:
    clock, timeout, _precision, flags = struct.unpack_from("<I4xQQH", subscription, 16)
    if not flags & 1:
        return float(timeout / 1e9)
    now = time.time_ns() if clock == _REALTIME else time.monotonic_ns()
    return max(0.0, (timeout - now) / 1e9)


def _event(subscription: bytes) -> bytes:
    error = _SUCCESS if subscription[8] in {_CLOCK, _FD_READ, _FD_WRITE} else _NOTSUP
    return subscription[:8] + struct.pack("<HB5xQH6x", error, subscription[8], 1, 0)
