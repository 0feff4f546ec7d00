"""A WASI command's world: three streams, a clock, randomness, and nothing of the host.

wasmtime's own preview 1 serves all but four functions, which are shadowed here (6 us a call):

* ``fd_read`` and ``fd_write`` of the standard streams, so that no file is needed and every byte
  is counted against its bound as it is written;
* ``poll_oneoff``, because wasmtime's sleeps in the host, where no epoch can interrupt it: a guest
  could sleep for an hour under a time limit of a second. Ours wakes at its end, whatever ends it;
* ``proc_exit``, because wasmtime's takes a code over 125 for a failure of the host.

No exception leaves a host function: wasmtime would take what lies around for a trap, and the
process would die. It is kept with the streams, and a guest that is to end gets its epoch deadline
pulled in. No call copies more than its bound,
however the guest overlaps its vectors: a host function cannot be interrupted.
"""

import ctypes
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from sluice.wasm import quick
from sluice.wasm.abi import WASI_MODULE
from sluice.wasm.interrupt import NO_FINALIZER, Leash

_SUCCESS, _BADF, _FAULT, _FBIG, _INVAL, _NOTSUP = 0, 8, 21, 22, 28, 58  # wasi/api.h, errno
_IOVECS_MAX = 1024
_SUBSCRIPTIONS_MAX = 128
_SUBSCRIPTION, _EVENT = 48, 32  # bytes of the two structures
_CLOCK, _FD_READ, _FD_WRITE = 0, 1, 2
_STREAMS_OF = {_FD_READ: {0}, _FD_WRITE: {1, 2}}
_REALTIME = 0
# Whoever lets go of the interpreter and takes it back at once has it for 5 ms before anybody else
# gets it (sys.getswitchinterval). A guest that does nothing but call us would stand in everybody's
# way, so it rests now and then, for as long as it takes to wake the next in line.
_CALLS_UNTIL_REST, _REST_S = 16, 20e-6
_SLEEP_S_MAX = 86_400.0  # a lock's timeout overflows; guests look at their clock after a wait


@dataclass(slots=True)
class Streams:
    """One execution's standard streams, and the leash it runs on."""

    stdin: memoryview
    response_bytes_max: int
    log_bytes_max: int
    log_lines_max: int
    leash: Leash
    stdout: bytearray = field(default_factory=bytearray)
    overflowed: bool = False
    exit_code: int | None = None  # what proc_exit was called with
    host_error: BaseException | None = None  # ours, not the guest's
    memory: Any = None  # the guest's, once it has called
    calls: int = 0
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
        log = bytes(self._log[-self.log_bytes_max :])
        if log.count(b"\n") < self.log_lines_max:
            return log
        return b"".join(log.splitlines(keepends=True)[-self.log_lines_max :])


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

    def __init__(self, caller: Any, streams: Streams) -> None:
        self.streams = streams
        self._context = quick.caller_context(caller)
        if streams.memory is None:
            streams.memory = _memory(caller)
        # Asked each time: a memory that grows may move.
        self._base = quick.memory_data(self._context, streams.memory) or 0
        self._size = quick.memory_data_size(self._context, streams.memory)

    def read(self, at: int, size: int) -> bytes:
        return ctypes.string_at(self._base + self._checked(at, size), size)

    def write(self, at: int, data: bytes) -> None:
        quick.copy(self._base + self._checked(at, len(data)), data, len(data))

    def end(self) -> None:
        _end(self._context, self.streams)

    def _checked(self, at: int, size: int) -> int:
        if at + size > self._size:
            raise IndexError
        return at


def _memory(caller: Any) -> Any:
    item, name = ffi.wasmtime_extern_t(), b"memory"
    found = quick.caller_export_get(caller, name, len(name), ctypes.byref(item))
    assert found, "a module without a memory"  # the compile child has looked
    return item.of.memory


def _end(context: Any, streams: Streams) -> None:
    """End the guest at its next loop or call: it has no more business here."""
    streams.leash.finished = True
    quick.context_set_epoch_deadline(context, 0)


def define(linker: wasmtime.Linker) -> None:
    """Give a linker the whole of preview 1 with our four functions in front."""
    linker.allow_shadowing = True
    linker.define_wasi()
    i32 = wasmtime.ValType.i32
    for name, (params, callback) in _CALLBACKS.items():
        kind = wasmtime.FuncType([i32()] * params, [i32()] if params > 1 else [])
        error = ffi.wasmtime_linker_define_func_unchecked(
            linker.ptr(), WASI_MODULE.encode(), len(WASI_MODULE), name.encode(), len(name),
            kind.ptr(), callback, None, NO_FINALIZER,
        )  # fmt: skip
        assert not error, f"{name} could not be defined"


def _callback(function: Callable[..., int | None], params: int) -> Any:
    """Make native code of ``function``, which is given unsigned numbers.

    It takes the place of the binding's trampoline, in which a call spends 35 us of 45 on finding
    out and converting what is the same each time (docs/speed.md).
    """
    unpack = struct.Struct("<" + "I12x" * params).unpack  # values lie 16 bytes apart

    def called(_data: object, caller: Any, values: Any, _count: int) -> int:
        streams: Streams = _current.streams
        streams.calls += 1
        try:
            if not streams.calls % _CALLS_UNTIL_REST:
                time.sleep(_REST_S)
            arguments = unpack(ctypes.string_at(values, 16 * params))
            answer = function(_Guest(caller, streams), *arguments)
        except IndexError:
            answer = _FAULT
        except BaseException as e:  # noqa: BLE001 - not one may leave; see the module's docstring
            answer, streams.host_error = _NOTSUP, e
            _end(quick.caller_context(caller), streams)
        if answer is not None:
            values.contents.i32 = answer
        return 0  # no trap

    return ffi.wasmtime_func_unchecked_callback_t(called)


def _proc_exit(guest: _Guest, code: int) -> None:
    # The code is a signed number to all who look at it.
    guest.streams.exit_code = code - (1 << 32) if code >> 31 else code
    guest.end()  # compilers put an `unreachable` behind it, so most never get that far


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
        ready = _sleep(subscriptions, guest.streams.leash)
        if guest.streams.leash.over():
            guest.end()
    guest.write(out, b"".join(ready))
    guest.write(nevents, struct.pack("<I", len(ready)))
    return _SUCCESS


def _sleep(subscriptions: list[bytes], leash: Leash) -> list[bytes]:
    """Wait for the first clock, or for the guest's end; return the events that are due."""
    waits = [_clock_wait_s(s) for s in subscriptions]
    wait_s = min(waits)
    leash.sleep(min(wait_s, _SLEEP_S_MAX))
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


# Made once: native code has to outlive every linker that it is in.
_CALLBACKS = {
    "fd_read": (4, _callback(_fd_read, 4)),
    "fd_write": (4, _callback(_fd_write, 4)),
    "poll_oneoff": (4, _callback(_poll_oneoff, 4)),
    "proc_exit": (1, _callback(_proc_exit, 1)),
}
