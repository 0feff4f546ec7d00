"""Stand-ins for what tests cannot wait for or break at will: ConfigMaps, time, the wall clock.

Each has the interface of the real one. What runs guests and answers for the API is never faked.
"""

import asyncio
import base64
import hashlib
import random
import selectors
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec
import wasmtime

from sluice.binary import Part
from sluice.errors import ContentInvalid, SourceUnavailable
from sluice.reasons import Reason
from sluice.rollout.memory import MemoryReading
from sluice.workflow import PartRef, Workflow, WorkflowKey, WorkflowSpec

_T = TypeVar("_T")
Payload = bytes | str


class MemorySource:
    """ConfigMaps in memory, with the interface of ``supply.Source`` and faults at will.

    ``fault``, if set, is raised by the next read; while ``gate`` is cleared, reads wait at it.
    """

    def __init__(self) -> None:
        self._data: dict[tuple[str, str], tuple[dict[str, Payload], str]] = {}
        self._changes = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None
        self.reads: list[str] = []
        self.reading = self.reading_max = 0
        self.after_read: Callable[[PartRef], object] = lambda _: None

    def put(self, namespace: str, name: str, data: Mapping[str, Payload]) -> str:
        """Apply a ConfigMap and return its new version."""
        self._changes += 1
        self._data[namespace, name] = dict(data), str(self._changes)
        return str(self._changes)

    def delete(self, namespace: str, name: str) -> None:
        del self._data[namespace, name]

    async def part(self, namespace: str, ref: PartRef) -> Part:
        self.reads.append(f"{ref.name}/{ref.key}")
        self.reading += 1
        self.reading_max = max(self.reading, self.reading_max)
        try:
            await self.gate.wait()
            if fault := self.fault:
                self.fault = None
                raise fault
            part = self._part(namespace, ref)
        finally:
            self.reading -= 1
        self.after_read(ref)
        return part

    async def version(self, namespace: str, name: str) -> str | None:
        found = self._data.get((namespace, name))
        return found[1] if found else None

    def _part(self, namespace: str, ref: PartRef) -> Part:
        found = self._data.get((namespace, ref.name))
        if found is None:
            raise ContentInvalid(
                Reason.CONFIG_MAP_NOT_FOUND, f"ConfigMap {ref.name} is not there", {ref.name: None}
            )
        data, version = found
        if ref.key not in data:
            raise ContentInvalid(
                Reason.KEY_NOT_FOUND, f"ConfigMap {ref.name} has no key {ref.key}",
                {ref.name: version},
            )  # fmt: skip
        return Part(data[ref.key], version)


class GeneratedSource:
    """Makes each part anew when it is asked for: nothing but the reader can hold one."""

    def __init__(self, make: Callable[[int], Payload]) -> None:
        self._make = make

    async def part(self, namespace: str, ref: PartRef) -> Part:  # noqa: ARG002
        return Part(self._make(int(ref.key)), "1")

    async def version(self, namespace: str, name: str) -> str | None:  # noqa: ARG002
        return "1"


class LargeModule:
    """A module of 19 parts of 1 MiB, each made when it is asked for and then forgotten."""

    COUNT = 19

    def __init__(self, head: bytes) -> None:
        self._head = head
        digest, self.size = hashlib.sha256(), 0
        for i in range(self.COUNT):
            digest.update(raw := self._raw(i))
            self.size += len(raw)
        self.digest = digest.hexdigest()

    def part(self, i: int) -> Payload:
        raw = self._raw(i)
        return raw if i % 2 else base64.b64encode(raw).decode()

    def _raw(self, i: int) -> bytes:
        noise = random.Random(i).randbytes(1 << 20)
        if i:
            return noise
        # A custom section, which wasm says is skipped, as long as all the parts' noise.
        length = self.COUNT << 20
        head = bytes(
            (length >> shift) & 0x7F | (0x80 if shift < 28 else 0) for shift in range(0, 35, 7)
        )
        return self._head + b"\0" + head + b"\4note" + noise[5:]


class Text(str):
    """A payload that can be watched while it lives."""

    __slots__ = ("__weakref__",)


def slow_module() -> bytes:
    """Return a module whose compile takes long enough to be cancelled."""
    body = "local.get 0 i32.const 3 i32.mul i32.const 1 i32.add local.set 0 " * 60_000
    return bytes(wasmtime.wat2wasm(
        f'(module (memory (export "memory") 1) (func $f (param i32) {body})'
        '(func (export "_start") (call $f (i32.const 1))))'
    ))  # fmt: skip


def unavailable(message: str = "the API server does not answer") -> SourceUnavailable:
    return SourceUnavailable(Reason.SOURCE_UNAVAILABLE, message)


def workflow(
    wasm: bytes | tuple[str, int],
    parts: Sequence[PartRef] = (PartRef(name="parts"),),
    *,
    name: str = "hello",
    namespace: str = "team",
    **spec: Any,
) -> Workflow:
    """Return a workflow of a module, or of its digest and size; parts are not encoded."""
    digest, size = (
        wasm if isinstance(wasm, tuple) else (hashlib.sha256(wasm).hexdigest(), len(wasm))
    )
    module = {
        "digest": f"sha256:{digest}", "size": size, "encoding": "none",
        "configMaps": [{"name": p.name, "key": p.key} for p in parts],
    } | spec.pop("module", {})  # fmt: skip
    return Workflow(
        key=WorkflowKey(namespace, name), uid=f"uid-{name}", generation=1,
        spec=msgspec.convert({"module": module} | spec, WorkflowSpec),
    )  # fmt: skip


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only while everybody waits, and then at once."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Leaping(self))

    def time(self) -> float:
        return self._now_s

    def leap(self, by_s: float) -> None:
        self._now_s += by_s


class _Leaping(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits, and for nothing that time would bring")
        if not ready and timeout:
            self._loop.leap(timeout)
        return ready


def in_virtual_time(work: Coroutine[Any, Any, _T]) -> _T:
    """Run ``work`` to its end; an hour of waiting takes no time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


class PodMemory:
    """The memory of a pod, with the interface of ``rollout.memory.MemorySource``; trims give back.

    ``fault``, if set, is raised by every read until it is cleared.
    """

    def __init__(self, used: int, limit: int, garbage: int = 0) -> None:
        self.used, self.limit, self.garbage = used, limit, garbage
        self.reads = self.trims = 0
        self.lag_s = 0.0
        self.fault: Exception | None = None

    def read(self) -> MemoryReading:
        self.reads += 1
        if self.fault:
            raise self.fault
        return MemoryReading(
            at=asyncio.get_running_loop().time() - self.lag_s, used=self.used + self.garbage,
            limit=self.limit, working_set=0, anonymous=0, kind="fake",
        )  # fmt: skip

    def trim(self) -> None:
        self.trims += 1
        self.garbage = 0


class Blocking:
    """Runs what blocks on the loop itself, after ``takes_s``; while ``gate`` is cleared, not."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.takes_s = takes_s
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, what: Callable[[], _T], /) -> _T:
        await asyncio.sleep(self.takes_s)
        await self.gate.wait()
        return what()


class WallClock:
    """A wall clock that goes with the running loop, and can be set."""

    def __init__(self, start: datetime) -> None:
        self._start = start

    def __call__(self) -> datetime:
        return self._start + timedelta(seconds=asyncio.get_running_loop().time())

    def set(self, by: timedelta) -> None:
        self._start += by


async def until(condition: Callable[[], object]) -> None:
    """Wait for what other tasks, threads or children do, as long as a slow machine may take."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - threads and children set no event of ours
            await asyncio.sleep(0.001)
