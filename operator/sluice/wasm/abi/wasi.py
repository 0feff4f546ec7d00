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
from sluice.wasm.abi.env import Signature
from sluice.wasm.interrupt import NO_FINALIZER, Leash

SUCCESS, BADF, FAULT, _FBIG, INVAL, NOTSUP = 0, 8, 21, 22, 28, 58  # wasi/api.h, errno
_IOVECS_MAX = 1024
SUBSCRIPTIONS_MAX = 128
SUBSCRIPTION = 48  # bytes of the structure; an event has 32
CLOCK, FD_READ, FD_WRITE = 0, 1, 2
_STREAMS_OF = {FD_READ: {0}, FD_WRITE: {1, 2}}
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


class Guest:
    """The guest that calls: its streams, and its memory, bounds-checked (IndexError outside)."""

    def __init__(self, caller: Any, streams: Streams) -> None:
        self.streams = streams
        self._context = quick.caller_context(caller)
        if streams.memory is None:
            streams.memory = _memory(caller)
        # Asked each time: a memory that grows may move.
        self._base = quick.memory_data(self._context, streams.memory) or 0
        self.memory_bytes: int = quick.memory_data_size(self._context, streams.memory)

    def read(self, at: int, size: int) -> bytes:
        return ctypes.string_at(self._base + self._checked(at, size), size)

    def write(self, at: int, data: bytes) -> None:
        quick.copy(self._base + self._checked(at, len(data)), data, len(data))

    def end(self) -> None:
        _end(self._context, self.streams)

    def _checked(self, at: int, size: int) -> int:
        if at + size > self.memory_bytes:
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
    for name, (signature, native) in _CALLBACKS.items():
        define_function(linker, WASI_MODULE, name, signature, native)


def define_function(
    linker: wasmtime.Linker, module: str, name: str, signature: Signature, native: Any
) -> None:
    """Give a linker one function of the host; it has to outlive what is linked with it."""
    kind = wasmtime.FuncType(_types(signature.params), _types(signature.result))
    error = ffi.wasmtime_linker_define_func_unchecked(
        linker.ptr(), module.encode(), len(module.encode()), name.encode(), len(name.encode()),
        kind.ptr(), native, None, NO_FINALIZER,
    )  # fmt: skip
    assert not error, f"{name} could not be defined"


def _types(letters: str) -> list[wasmtime.ValType]:
    of = {"I": wasmtime.ValType.i32, "i": wasmtime.ValType.i32, "q": wasmtime.ValType.i64}
    return [of[letter]() for letter in letters]


def callback(function: Callable[..., int | None], signature: Signature) -> Any:
    """Make native code of ``function``, which is given the numbers that its signature says.

    It takes the place of the binding's trampoline, in which a call spends 35 us of 45 on finding
    out and converting what is the same each time (docs/speed.md).
    """
    params = signature.params
    # Values lie 16 bytes apart.
    layout = struct.Struct("<" + "".join("q8x" if p == "q" else f"{p}12x" for p in params))
    unpack, size, wide = layout.unpack, layout.size, signature.result == "q"

    def called(_data: object, caller: Any, values: Any, _count: int) -> int:
        streams: Streams = _current.streams
        streams.calls += 1
        try:
            if not streams.calls % _CALLS_UNTIL_REST:
                time.sleep(_REST_S)
            arguments = unpack(ctypes.string_at(values, size))
            answer = function(Guest(caller, streams), *arguments)
        except IndexError:
            answer = FAULT
        except BaseException as e:  # noqa: BLE001 - not one may leave; see the module's docstring
            answer, streams.host_error = NOTSUP, e
            _end(quick.caller_context(caller), streams)
        if answer is None or not signature.result:
            return 0  # no trap
        if wide:
            values.contents.i64 = answer
        else:
            values.contents.i32 = answer
        return 0

    return ffi.wasmtime_func_unchecked_callback_t(called)


def _proc_exit(guest: Guest, code: int) -> None:
    # The code is a signed number to all who look at it.
    guest.streams.exit_code = code - (1 << 32) if code >> 31 else code
    guest.end()  # compilers put an `unreachable` behind it, so most never get that far


def iovecs(guest: Guest, at: int, count: int) -> list[tuple[int, int]]:
    if count > _IOVECS_MAX:
        raise IndexError
    flat = struct.unpack(f"<{2 * count}I", guest.read(at, 8 * count))
    if sum(flat[1::2]) > 0xFFFFFFFF:  # the count of bytes could not be told
        raise IndexError
    return list(zip(flat[::2], flat[1::2], strict=True))


def _fd_read(guest: Guest, fd: int, iovs: int, count: int, nread: int) -> int:
    if fd != 0:
        return BADF  # nothing else is open: no directory is given to a guest
    total = 0
    for at, size in iovecs(guest, iovs, count):
        data = guest.streams.read(size)
        guest.write(at, data)
        total += len(data)
        if len(data) < size:
            break
    guest.write(nread, struct.pack("<I", total))
    return SUCCESS


def fd_write(guest: Guest, fd: int, iovs: int, count: int, written: int) -> int:
    if fd not in {1, 2}:
        return BADF
    streams, vectors = guest.streams, iovecs(guest, iovs, count)
    total = sum(size for _, size in vectors)
    if fd == 2:
        streams.write_log(_tail(guest, vectors, streams.log_bytes_max))
    elif len(streams.stdout) + total > streams.response_bytes_max:
        streams.overflowed = True
        guest.end()
        return _FBIG
    else:
        for at, size in vectors:
            streams.stdout += guest.read(at, size)
    guest.write(written, struct.pack("<I", total))
    return SUCCESS


def _tail(guest: Guest, iovecs: list[tuple[int, int]], bytes_max: int) -> bytes:
    """Return the last ``bytes_max`` bytes of what the vectors name, and copy no others."""
    pieces: list[bytes] = []
    for at, size in reversed(iovecs):
        taken = min(size, bytes_max)
        pieces.append(guest.read(at + size - taken, taken))
        bytes_max -= taken
    return b"".join(reversed(pieces))


def _poll_oneoff(guest: Guest, subscribed: int, out: int, count: int, nevents: int) -> int:
    if not 0 < count <= SUBSCRIPTIONS_MAX:
        return INVAL
    raw = guest.read(subscribed, SUBSCRIPTION * count)
    subscriptions = [raw[i : i + SUBSCRIPTION] for i in range(0, len(raw), SUBSCRIPTION)]
    # Streams are always ready; only a wait for clocks alone is a wait.
    ready = [_event(s) for s in subscriptions if s[8] != CLOCK]
    if not ready:
        ready = _sleep(subscriptions, guest.streams.leash)
        if guest.streams.leash.over():
            guest.end()
    guest.write(out, b"".join(ready))
    guest.write(nevents, struct.pack("<I", len(ready)))
    return SUCCESS


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
    if kind not in {CLOCK, FD_READ, FD_WRITE}:
        error = NOTSUP
    else:
        error = SUCCESS if kind == CLOCK or fd in _STREAMS_OF[kind] else BADF
    return subscription[:8] + struct.pack("<HB5xQH6x", error, kind, 1, 0)


_FOUR = Signature("IIII", "i")
# Made once: native code has to outlive every linker that it is in.
_CALLBACKS = {
    "fd_read": (_FOUR, callback(_fd_read, _FOUR)),
    "fd_write": (_FOUR, callback(fd_write, _FOUR)),
    "poll_oneoff": (_FOUR, callback(_poll_oneoff, _FOUR)),
    "proc_exit": (Signature("I"), callback(_proc_exit, Signature("I"))),
}
