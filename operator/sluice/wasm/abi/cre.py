"""A CRE guest's world: a WASI command's without streams, and module ``env``.

Its request comes in as an argument, its answer leaves by ``send_response``; in between it calls
capabilities, which work while it goes on, and waits for them here, where a cancel and its time
limit end the wait. Errors that it sees are CRE's own texts, and so are the quirks: an error text
is cut to the buffer, and what cannot be written at all is answered with 1.

What is said in wasi.py of exceptions and of copies holds here too: no message longer than its
bound is read, for a message of a few bytes can be objects of many.
"""

import logging
import random
import struct
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

import wasmtime
from google.protobuf.message import Message

from sluice.cre.errors import CapabilityError, Code, Visibility
from sluice.cre.helper import ExecutionHelper
from sluice.cre.proto import sdk_pb2
from sluice.cre.proto.user_metric_pb2 import WorkflowUserMetric
from sluice.settings import Settings
from sluice.wasm.abi import WASI_MODULE, env, wasi
from sluice.wasm.abi.buffers import parsed, read, tell, write
from sluice.wasm.abi.env import Signature
from sluice.wasm.abi.pending import CallError, Calls, Patience, Slots
from sluice.wasm.abi.wasi import BADF, FAULT, INVAL, NOTSUP, SUCCESS, Guest

log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)
_DON, _NODE = sdk_pb2.MODE_DON, sdk_pb2.MODE_NODE
_REALTIME, _MONOTONIC = 0, 1
_REFUSED = -1
_TOO_SMALL = "response buffer too small"


@dataclass(slots=True, kw_only=True)
class Session(wasi.Streams):
    """One execution of a CRE guest, as its host functions see it."""

    helper: ExecutionHelper
    settings: Settings
    slots: Slots
    mode: int = sdk_pb2.MODE_UNSPECIFIED
    result: sdk_pb2.ExecutionResult | None = None
    logged: dict[int, int] = field(default_factory=lambda: {_DON: 0, _NODE: 0})
    base_ns: int | None = None  # where its monotonic clock begins
    seeds: dict[int, int] = field(init=False)
    capabilities: Calls[sdk_pb2.CapabilityResponse] = field(init=False)
    secrets: Calls[sdk_pb2.SecretResponses] = field(init=False)

    def __post_init__(self) -> None:
        most, patience = self.settings.cre_calls_max, Patience(self.leash)
        self.capabilities = Calls(self.slots, patience, most)
        self.secrets = Calls(self.slots, patience, most)
        self.seeds = {
            _DON: _fnv1a(self.helper.execution_id.encode()),
            _NODE: random.getrandbits(64) - (1 << 63),  # no secret, but another each time
        }

    def close(self) -> None:
        """Give up every call that is still under way."""
        self.capabilities.cancel()
        self.secrets.cancel()


def _fnv1a(data: bytes) -> int:
    """Return the 64-bit FNV-1a hash of ``data`` as a signed number."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) % (1 << 64)
    return value - (1 << 64) if value >> 63 else value


def define(linker: wasmtime.Linker, form: env.Form) -> None:
    """Add to a linker, which has WASI already, what guests of this form import."""
    for name, (signature, native) in _WASI_CALLBACKS.items():
        wasi.define_function(linker, WASI_MODULE, name, signature, native)
    for name, signature in form.functions().items():
        native = _MARKER if env.is_marker(name) else _ENV_CALLBACKS[name, signature]
        wasi.define_function(linker, env.MODULE, name, signature, native)


def _session(guest: Guest) -> Session:
    session = guest.streams
    assert isinstance(session, Session)
    return session


# Calls


def _asked(guest: Guest, kind: type[_M], at: int, size: int) -> _M:
    """Read what a call asks for; each step has its own words in front of what is wrong."""
    step = "error calling wasmRead"
    try:
        data = read(guest, at, size, _session(guest).settings.cre_request_bytes_max)
        step = "error calling proto unmarshal"
        return parsed(kind, data)
    except CallError as e:
        raise CallError(f"{step}: {e}") from None


def _call_capability_v1(guest: Guest, at: int, size: int) -> int:
    return _call_capability(guest, at, size, at, size)


def _call_capability(guest: Guest, at: int, size: int, out: int, most: int) -> int:
    session = _session(guest)
    try:
        request = _asked(guest, sdk_pb2.CapabilityRequest, at, size)
        _begin(
            guest, "error calling callCapAsync", session.capabilities, request.callback_id,
            lambda: session.helper.call_capability(request),
        )  # fmt: skip
    except CallError as e:
        return tell(guest, e, out, most)
    return 0


def _get_secrets(guest: Guest, at: int, size: int, out: int, most: int) -> int:
    session = _session(guest)
    try:
        request = _asked(guest, sdk_pb2.GetSecretsRequest, at, size)
        _begin(
            guest, "error calling getSecretsAsync", session.secrets, request.callback_id,
            lambda: session.helper.get_secrets(request),
        )  # fmt: skip
    except CallError as e:
        return tell(guest, e, out, most)
    return 0


def _begin(
    guest: Guest, what: str, calls: Calls[_M], call_id: int, start: Callable[[], Future[_M]]
) -> None:
    try:
        calls.begin(call_id, start)
    except CallError as e:
        _end_if_over(guest)
        raise CallError(f"{what}: {e}") from None


def _await_capabilities(guest: Guest, at: int, size: int, out: int, most: int) -> int:
    answer = sdk_pb2.AwaitCapabilitiesResponse()

    def collect(ids: list[int]) -> None:
        for call_id, future in _session(guest).capabilities.answers(ids):
            answer.responses[call_id].CopyFrom(_response(future))

    return _await(guest, sdk_pb2.AwaitCapabilitiesRequest, (at, size, out, most), collect, answer)


def _response(future: Future[sdk_pb2.CapabilityResponse]) -> sdk_pb2.CapabilityResponse:
    try:
        return future.result()
    except Exception:
        log.exception("a capability broke its promise to fail only in its response")
        failed = CapabilityError(Code.INTERNAL, "the call failed", Visibility.PRIVATE)
        return sdk_pb2.CapabilityResponse(error=failed.text)


def _await_secrets(guest: Guest, at: int, size: int, out: int, most: int) -> int:
    answer = sdk_pb2.AwaitSecretsResponse()

    def collect(ids: list[int]) -> None:
        for call_id, future in _session(guest).secrets.answers(ids):
            try:
                answer.responses[call_id].CopyFrom(future.result())
            except Exception as e:  # noqa: BLE001 - it fails the call, whatever it is
                raise CallError(f"failed to get secrets for call {call_id}: {e}") from None

    return _await(guest, sdk_pb2.AwaitSecretsRequest, (at, size, out, most), collect, answer)


def _await(
    guest: Guest,
    kind: type[sdk_pb2.AwaitCapabilitiesRequest | sdk_pb2.AwaitSecretsRequest],
    where: tuple[int, int, int, int],
    collect: Callable[[list[int]], None],
    answer: Message,
) -> int:
    at, size, out, most = where
    try:
        try:
            data = read(guest, at, size, _session(guest).settings.cre_request_bytes_max)
        except CallError as e:
            raise CallError(f"error reading from wasm {e}") from None
        collect(list(parsed(kind, data).ids))
    except CallError as e:
        _end_if_over(guest)
        return tell(guest, e, out, most)
    written = write(guest, answer.SerializeToString(), out, most)
    return tell(guest, CallError(_TOO_SMALL), out, most) if written < 0 else written


def _end_if_over(guest: Guest) -> None:
    if guest.streams.leash.over():
        guest.end()


# The answer


def _send_response(guest: Guest, at: int, size: int) -> int:
    session = _session(guest)
    if at >= 0 and session.response_bytes_max < size <= guest.memory_bytes - at:
        session.overflowed = True
        guest.end()
        return FAULT
    try:
        data = read(guest, at, size, session.response_bytes_max)
        session.result = parsed(sdk_pb2.ExecutionResult, data)
    except CallError:
        return FAULT
    return SUCCESS


# Modes, time and chance


def _switch_modes(guest: Guest, mode: int) -> None:
    _session(guest).mode = mode


def _random_seed(guest: Guest, mode: int) -> int:
    return _session(guest).seeds.get(mode, -1)


def _now(guest: Guest, out: int) -> int:
    session = _session(guest)
    helper = session.helper
    ns = helper.don_time_ns() if session.mode == _DON else helper.node_time_ns()
    return SUCCESS if write(guest, struct.pack("<q", ns), out, 8) == 8 else INVAL


def _clock_time_get(guest: Guest, clock: int, _precision: int, out: int) -> int:
    """Tell the node's time, in whatever mode: runtimes look at clocks all the time."""
    session = _session(guest)
    ns = session.helper.node_time_ns()
    if session.base_ns is None:
        session.base_ns = ns - 1  # a clock that says 0 is no clock to Go
    if clock == _MONOTONIC:
        ns -= session.base_ns
    elif clock != _REALTIME:
        return INVAL
    return SUCCESS if write(guest, struct.pack("<q", ns), out, 8) == 8 else FAULT


def _poll_oneoff(guest: Guest, subscribed: int, out: int, count: int, nevents: int) -> int:
    """Sleep for the longest of the relative times; nothing else can be waited for."""
    if not 0 < count <= wasi.SUBSCRIPTIONS_MAX:
        return INVAL
    size, events = wasi.SUBSCRIPTION, bytearray()
    try:
        raw = read(guest, subscribed, size * count, size * count)
    except CallError:
        return FAULT
    longest = 0
    for i in range(0, len(raw), size):
        error, timeout = _judged(raw[i : i + size])
        longest = max(longest, timeout)
        events += raw[i : i + 8] + struct.pack("<HI18x", error, raw[i + 8])
    session = _session(guest)
    session.leash.sleep(longest / 1e9)
    _end_if_over(guest)
    if write(guest, struct.pack("<I", count), nevents, 4) < 0:
        return FAULT
    return FAULT if write(guest, bytes(events), out, len(events)) < 0 else SUCCESS


def _judged(subscription: bytes) -> tuple[int, int]:
    """Return the error of one event, and for how many ns it asks to sleep."""
    kind, timeout, flags = struct.unpack_from("<8xB15xQ8xH", subscription)
    if kind in {wasi.FD_READ, wasi.FD_WRITE}:
        return BADF, 0
    if kind != wasi.CLOCK:
        return INVAL, 0
    return (NOTSUP, 0) if flags else (SUCCESS, timeout)


# What it says of itself


def _log(guest: Guest, at: int, size: int) -> None:
    session = _session(guest)
    if session.mode not in session.logged:
        return
    session.logged[session.mode] += 1
    if session.logged[session.mode] > session.settings.cre_logs_max:
        return
    try:
        data = read(guest, at, size, session.settings.cre_log_bytes_max)
    except CallError:
        return
    session.helper.user_log(data.decode(errors="replace"))
    session.write_log(data + b"\n")


def _emit_metric(guest: Guest, at: int, size: int) -> int:
    session = _session(guest)
    try:
        data = read(guest, at, size, session.settings.cre_metric_bytes_max)
        metric = parsed(WorkflowUserMetric, data)
    except CallError:
        return _REFUSED
    if not data or not _fits(metric, session.settings):
        return _REFUSED
    metric.workflow_execution_id = session.helper.execution_id
    at_s = session.helper.node_time_ns() / 1e9
    metric.timestamp = datetime.fromtimestamp(at_s, UTC).isoformat()
    return SUCCESS if session.helper.user_metric(metric) else _REFUSED


def _fits(metric: WorkflowUserMetric, settings: Settings) -> bool:
    return (
        0 < len(metric.name.encode()) <= settings.cre_metric_name_bytes_max
        and len(metric.labels) <= settings.cre_metric_labels_max
        and all(
            len(value.encode()) <= settings.cre_metric_label_bytes_max
            for value in metric.labels.values()
        )
    )


def _fd_write(guest: Guest, fd: int, iovs: int, count: int, written: int) -> int:
    """Take what a guest prints: its stdout leads nowhere, the tail of its stderr is kept.

    CRE's own host drops both; but a panic's last words are what an author needs.
    """
    if fd == 1:
        total = sum(size for _, size in wasi.iovecs(guest, iovs, count))
        guest.write(written, struct.pack("<I", total))
        return SUCCESS
    return wasi.fd_write(guest, fd, iovs, count, written)


_FOUR = Signature("IIII", "i")
_WASI_CALLBACKS = {
    name: (signature, wasi.callback(function, signature))
    for name, function, signature in (
        ("fd_write", _fd_write, _FOUR),
        ("clock_time_get", _clock_time_get, Signature("iqi", "i")),
        ("poll_oneoff", _poll_oneoff, Signature("iiii", "i")),
    )
}
_FUNCTIONS: tuple[tuple[str, Callable[..., int | None], Signature], ...] = (
    ("send_response", _send_response, env.FUNCTIONS["send_response"]),
    ("call_capability", _call_capability_v1, env.FUNCTIONS["call_capability"]),
    ("call_capability", _call_capability, env.CALL_CAPABILITY_V2),
    ("await_capabilities", _await_capabilities, env.FUNCTIONS["await_capabilities"]),
    ("get_secrets", _get_secrets, env.FUNCTIONS["get_secrets"]),
    ("await_secrets", _await_secrets, env.FUNCTIONS["await_secrets"]),
    ("log", _log, env.FUNCTIONS["log"]),
    ("emit_metric", _emit_metric, env.FUNCTIONS["emit_metric"]),
    ("switch_modes", _switch_modes, env.FUNCTIONS["switch_modes"]),
    ("random_seed", _random_seed, env.FUNCTIONS["random_seed"]),
    ("now", _now, env.FUNCTIONS["now"]),
)
_ENV_CALLBACKS = {
    (name, signature): wasi.callback(function, signature)
    for name, function, signature in _FUNCTIONS
}
_MARKER = wasi.callback(lambda _guest: None, env.MARKER)
