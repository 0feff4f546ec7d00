"""What is read from and written to a CRE guest's memory, by the rules of its interface.

Numbers are signed here, as they are to the interface: a negative one is refused. Python's have no
end, so no sum of them passes for a small one.
"""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from sluice.wasm.abi.pending import CallError
from sluice.wasm.abi.wasi import Guest

_M = TypeVar("_M", bound=Message)
_UNWRITABLE = 1
_NO_PROTO = "proto: cannot parse invalid wire-format data"


def read(guest: Guest, at: int, size: int, most: int) -> bytes:
    """Return a copy of what lies there; raises CallError where it may not be had."""
    if at < 0 or size < 0:
        raise CallError(f"invalid memory access: ptr: {at}, size: {size}")
    if at + size > guest.memory_bytes:
        raise CallError("out of bounds memory access")
    if size > most:
        raise CallError(f"message of {size} bytes is longer than {most}")
    return guest.read(at, size)


def write(guest: Guest, data: bytes, at: int, most: int) -> int:
    """Write into a buffer of ``most`` bytes, all of which have to be there; -1 where it is not."""
    if at < 0 or len(data) > most or at + most > guest.memory_bytes:
        return -1
    guest.write(at, data)
    return len(data)


def tell(guest: Guest, error: CallError, at: int, most: int) -> int:
    """Write an error's text, as much of it as there is room for; return minus how much that is."""
    room = min(most, guest.memory_bytes - at)
    if at < 0 or room < 0:
        return _UNWRITABLE
    guest.write(at, text := str(error).encode(errors="replace")[:room])
    return -len(text)


def parsed(kind: type[_M], data: bytes) -> _M:
    """Read a message, or raise CallError."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise CallError(_NO_PROTO) from None
