"""The compile child: inflate (bounded) -> verify size and digest -> compile -> write.

``python -I -m sluice.wasm.compiler`` reads one request as JSON from stdin and answers with one
JSON object on stdout. It runs in a fresh process because a compiler's memory never comes back
from the allocator, and because what it reads is untrusted: it bounds and locks itself in first.

Copies, and how each was removed: the raw wasm lies in an unlinked file and is mapped (a read
costs it once, ``Module(engine, bytes)`` once more); the compiled code is written from where the
compiler put it (``Module.serialize`` copies it once into the library's heap and once more into
Python's; the image is the same bytes, which ``write_image`` checks). For 3.7 MB of Go that is a
peak of 114 instead of 118 MB, and 85 instead of 96 MB of it anonymous.
"""

import ctypes
import hashlib
import json
import mmap
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, TextIO

import wasmtime
from wasmtime import _ffi as ffi

from sluice.errors import ContentInvalid, SluiceError, WorkflowInvalid
from sluice.reasons import Reason
from sluice.wasm import abi, config, sandbox
from sluice.wasm.abi import linking
from sluice.wasm.config import Tier
from sluice.wasm.inflate import inflate

# What glibc, Rust, Cranelift and Python say when an allocation or a thread is refused.
OUT_OF_MEMORY_WORDS = (
    "memory allocation of",
    "annot allocate memory",
    "out of memory",
    "MemoryError",
    "os error 12",
    "bad_alloc",
    "failed to spawn",
    "os error 11",
    "failed to map segment",
)
_MAGIC_CORE, _MAGIC_COMPONENT = b"\0asm\1\0\0\0", b"\0asm\r\0\1\0"
_COMPILED_BYTES_MAX = 1 << 30
_RESERVED_BYTES = 192 << 20  # of address space: malloc's second arena reserves 64 MiB at a time
_EXPORTS_TOLD_MAX, _NAME_CHARS_MAX = 32, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the operator asks of its child. ``output`` empty: verify, do not compile."""

    parent: int
    input: str
    output: str
    encoding: str
    digest: str
    size: int
    memory_bytes: int  # beyond the libraries
    cpu_s: int
    tier: Tier


class _Unsupported(Exception):  # noqa: N818 - what the baseline compiler says, and no verdict
    pass


def main() -> None:
    """Answer the one request."""
    request = Request(**json.load(sys.stdin))
    _limit(request)
    sandbox.die_with_parent(request.parent)
    try:
        answer = _serve(request)
    except SluiceError as e:
        answer = {
            "reason": e.reason,
            "message": e.message,
            "content": isinstance(e, ContentInvalid),
        }
    except _Unsupported as e:
        answer = {"unsupported": str(e)}
    except MemoryError:
        answer = {"reason": Reason.COMPILE_OUT_OF_MEMORY}
    sys.stdout.write(json.dumps(answer))


def _limit(request: Request) -> None:
    # What the interpreter and the libraries take already is not the module's: the operator has the
    # libraries mapped as well.
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
        sizes = _sizes(status)
    untouched, shared = sizes["VmData"] - sizes["RssAnon"], sizes["VmSize"] - sizes["RssAnon"]
    sandbox.limit(
        untouched + request.memory_bytes,
        shared + request.memory_bytes + _RESERVED_BYTES,
        request.cpu_s,
        _COMPILED_BYTES_MAX,
    )


def _serve(request: Request) -> dict[str, Any]:
    # Everything is open before the lock; nothing can be opened after it.
    directory = os.path.dirname(request.input)  # noqa: PTH120 - no pathlib in a child of 40 ms
    with (
        open(request.input, "rb", buffering=0) as source,  # noqa: PTH123
        open("/proc/self/status", encoding="ascii") as status,  # noqa: PTH123
        tempfile.TemporaryFile(dir=directory) as raw,
        open(request.output or os.devnull, "wb", buffering=0) as output,  # noqa: PTH123
    ):
        sandbox.close_others({f.fileno() for f in (source, status, raw, output)})
        with _mapped(raw, request.size) as wasm:
            held = sandbox.lock()
            _inflate(request, source, raw)
            answer = asdict(_compile(wasm, output, Tier(request.tier))) if request.output else {}
        return answer | {"peak_bytes": _peak_bytes(status), "sandbox": held}


def _mapped(raw: BinaryIO, size: int) -> mmap.mmap:
    # Mapped before there is anything in it, because that takes a descriptor; what is written to
    # the file shows. Private: ctypes wants a writable buffer, and no page is written, so none is
    # copied.
    raw.truncate(size)
    return mmap.mmap(raw.fileno(), size, access=mmap.ACCESS_COPY)


def _inflate(request: Request, source: BinaryIO, raw: BinaryIO) -> None:
    digest, size = hashlib.sha256(), 0
    for piece in inflate(source, request.encoding):
        size += len(piece)
        if size > request.size:
            raise ContentInvalid(
                Reason.SIZE_EXCEEDED,
                f"inflate to more than the {request.size:,} bytes that spec.module.size says; "
                "pack and apply the module again",
            )
        digest.update(piece)
        raw.write(piece)
    raw.flush()
    _verify(request, size, digest.hexdigest())


def _verify(request: Request, size: int, digest: str) -> None:
    if size < request.size:
        raise ContentInvalid(
            Reason.SIZE_MISMATCH,
            f"inflate to {size:,} bytes but spec.module.size says {request.size:,}; "
            "pack and apply the module again",
        )
    if digest != request.digest:
        raise ContentInvalid(
            Reason.DIGEST_MISMATCH,
            f"inflate to sha256:{digest} but spec.module.digest is sha256:{request.digest}; "
            "pack and apply the module again, or correct the order of spec.module.configMaps",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What the child says of the code it wrote."""

    abi: str
    imports: list[str]
    exports: list[str]
    seconds: float
    compiled_sha256: str
    compiled_bytes: int


def _compile(wasm: mmap.mmap, output: BinaryIO, tier: Tier) -> Compiled:
    started = time.monotonic()
    _check_magic(wasm[:8])
    engine = config.engine(tier)
    module = _module(engine, wasm, tier)
    imports = [(i.module, i.name or "") for i in module.imports]
    exports = {e.name: e.type for e in module.exports}
    guest_abi = abi.detect(imports, exports)
    _link(engine, guest_abi, module)
    sha256, length = write_image(module, output)
    return Compiled(
        abi=guest_abi,
        imports=sorted({f"{m}.{n}" for m, n in imports}),
        exports=[name[:_NAME_CHARS_MAX] for name in sorted(exports)[:_EXPORTS_TOLD_MAX]],
        seconds=round(time.monotonic() - started, 3),
        compiled_sha256=sha256,
        compiled_bytes=length,
    )


def _check_magic(head: bytes) -> None:
    if head == _MAGIC_COMPONENT:
        raise WorkflowInvalid(
            Reason.COMPONENT_UNSUPPORTED,
            "is a WebAssembly component; build it as a core module for wasm32-wasip1",
        )
    if head != _MAGIC_CORE:
        raise WorkflowInvalid(
            Reason.NOT_WASM, f"is not WebAssembly: it begins with {head.hex(' ')}, not 00 61 73 6d"
        )


def _module(engine: wasmtime.Engine, wasm: mmap.mmap, tier: Tier) -> wasmtime.Module:
    size = len(wasm)
    buffer = (ctypes.c_uint8 * size).from_buffer(wasm)
    pointer = ctypes.POINTER(ffi.wasmtime_module_t)()
    try:
        error = ffi.wasmtime_module_new(engine.ptr(), buffer, size, ctypes.byref(pointer))
        if error:
            message = str(wasmtime.WasmtimeError._from_ptr(error))  # noqa: SLF001
            refusal = _refusal(message, Reason.MODULE_INVALID, "is refused by the compiler")
            if tier is Tier.BASELINE and refusal.reason is Reason.MODULE_INVALID:
                # It lacks proposals that the other has: only the other can say what is wrong.
                raise _Unsupported(refusal.message)
            raise refusal
    finally:
        del buffer  # or the mapping could not be closed
    return wasmtime.Module._from_ptr(pointer)  # noqa: SLF001


def _refusal(message: str, reason: Reason, what: str) -> WorkflowInvalid:
    if any(words in message for words in OUT_OF_MEMORY_WORDS):
        return WorkflowInvalid(Reason.COMPILE_OUT_OF_MEMORY, "")
    lines = [line.strip() for line in message.replace("Caused by:", "").splitlines()]
    return WorkflowInvalid(reason, f"{what}: {'; '.join(filter(None, lines))}")


def _link(engine: wasmtime.Engine, guest_abi: str, module: wasmtime.Module) -> None:
    """Do here what the operator will do with the entry, so that it can only succeed there."""
    try:
        linking.hollow(engine, guest_abi, module).instantiate_pre(module)
    except wasmtime.WasmtimeError as e:
        what = "imports what this host has with another type"
        raise _refusal(str(e), Reason.UNKNOWN_IMPORT, what) from None


def write_image(module: wasmtime.Module, output: BinaryIO) -> tuple[str, int]:
    """Write the compiled code from the compiler's own memory; return its sha256 and length.

    It is what ``Module.serialize`` returns (an ELF image), without its two copies.
    """
    begin, end = ctypes.c_void_p(), ctypes.c_void_p()
    ffi.wasmtime_module_image_range(module.ptr(), ctypes.byref(begin), ctypes.byref(end))
    length = (end.value or 0) - (begin.value or 0)
    image = memoryview((ctypes.c_uint8 * length).from_address(begin.value or 0)).cast("B")
    if image[:4].tobytes() != b"\x7fELF":
        raise RuntimeError("the compiled image is not where this version of wasmtime kept it")
    view = image
    while view:
        view = view[output.write(view) :]
    os.fsync(output.fileno())
    return hashlib.sha256(image).hexdigest(), length


def _peak_bytes(status: TextIO) -> int:
    """Return the least ``memory_bytes`` under which this would have been possible, about.

    That is a few percent more than what was resident (VmHWM; ru_maxrss would still count the
    parent that this process was forked from): of what malloc holds not every page is touched.
    Measured for modules of 3.5 to 8.7 MB: 96 to 102 % of VmHWM.
    """
    status.seek(0)
    resident = _sizes(status)["VmHWM"]
    return resident + resident // 32


def _sizes(status: TextIO) -> dict[str, int]:
    rows = (line.split() for line in status)
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[-1] == "kB"}


if __name__ == "__main__":
    main()
