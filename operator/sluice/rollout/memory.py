"""How much memory there is and how much of it is taken; and giving back what is no longer used.

What counts as **used** is what cannot be had back without killing somebody:

- anonymous memory, shared memory and tmpfs, and whatever else is locked or unevictable;
- the kernel's own: stacks, page tables, sockets, unreclaimable slab;
- file pages that are dirty or under writeback: they are free only after a disk has answered;

and not what the kernel takes back by itself before it kills anybody at the limit:

- clean page cache: ``active_file + inactive_file`` less ``file_dirty + file_writeback``. Shared
  memory and tmpfs are no part of these two, they are kept on the anonymous lists;
- ``slab_reclaimable``. cgroup v1 does not publish it, so there all kernel memory counts.

It is computed downwards, usage less these, so that what a later kernel adds counts as used.
Sources: "Memory Interface Files" in the kernel's Documentation/admin-guide/cgroup-v2.rst and
"5.2 stat file" in Documentation/admin-guide/cgroup-v1/memory.rst.

The **working set** is what kubelet evicts by and ``kubectl top`` shows: usage less
``inactive_file``. It is published beside, and does not decide: compiled code is mapped from its
cache file and executed, and a page used twice becomes ``active_file``. It could be had back at any
time, and would hold a rollout shut for ever.

A cgroup v2 with ``memory.oom.group`` set (a kubelet sets it on every container) is killed whole
when one process in it is out of memory: there is no child that dies in our place. What protects
the pod is never to reach the limit. ``memory.high`` counts as a limit too: above it the kernel
kills nobody but slows everybody down.
"""

import contextlib
import ctypes
import functools
import gc
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sluice.errors import EngineRefused
from sluice.reasons import Reason
from sluice.rollout.cgroup import Cgroup, KernelFile, stall_s

_ENDED = (FileNotFoundError, ProcessLookupError)  # of a process, between two looks at it
_KB_FIELD = re.compile(rb"^([\w()]+):\s+(\d+)(?: kB)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReading:
    """What was true at ``at`` (``time.monotonic``); bytes and seconds. ``used`` decides."""

    at: float
    used: int
    limit: int
    working_set: int
    anonymous: int
    kind: str  # cgroup-v2, cgroup-v1, host, processes
    pressure_s: float | None = None  # some task stalled for memory so long, since the start


class MemorySource(Protocol):
    """Reads blocking, in less than a millisecond where it can."""

    def read(self) -> MemoryReading: ...


def find_source(
    limit_bytes: int | None = None,
    *,
    cgroup_root: Path = Path("/sys/fs/cgroup"),
    proc: Path = Path("/proc"),
) -> MemorySource:
    """Return the source that fits this process, after one reading that proves it.

    A limit of a cgroup decides, or ``limit_bytes`` where that is smaller. Without one, what this
    process and its children take is held against ``limit_bytes``; without that, the machine's
    memory is all there is. Which of these holds is found anew with each reading, since a pod can
    be resized and a process moved.
    """
    source = _Found(limit_bytes, cgroup_root, proc)
    source.read()
    return source


class _Found:
    def __init__(self, limit_bytes: int | None, cgroup_root: Path, proc: Path) -> None:
        self._limit_bytes = limit_bytes
        self._host = _Host(proc)
        self._tree = _ProcessTree(proc)
        # A limit that the machine cannot fill limits nothing, as v1's 2**63 less a page.
        self._cgroup = Cgroup(cgroup_root, proc, self._host.total())

    def read(self) -> MemoryReading:
        try:
            found = self._cgroup.read(self._limit_bytes)
            if found is None and self._limit_bytes:
                return self._tree.read(self._limit_bytes)
            if found is None:
                return self._host.read()
        except OSError as error:
            raise EngineRefused(
                Reason.ENGINE_REFUSED, f"this process's memory could not be read: {error}"
            ) from error
        return MemoryReading(
            at=time.monotonic(),
            used=found.used,
            limit=found.limit,
            working_set=found.working_set,
            anonymous=found.anonymous,
            kind=found.kind,
            pressure_s=found.pressure_s,
        )


class _Host:
    """The whole machine: the kernel's own estimate of what could be had without swapping."""

    def __init__(self, proc: Path) -> None:
        self._meminfo = _opened(proc / "meminfo")
        self._pressure = _opened(proc / "pressure/memory")

    def total(self) -> int:
        return self._field(self._fields(), b"MemTotal")

    def read(self) -> MemoryReading:
        fields = self._fields()
        total = self._field(fields, b"MemTotal")
        taken = total - fields.get(b"MemFree", 0)
        return MemoryReading(
            at=time.monotonic(),
            used=total - self._field(fields, b"MemAvailable"),
            limit=total,
            working_set=max(0, taken - fields.get(b"Inactive(file)", 0)),
            anonymous=fields.get(b"AnonPages", 0),
            kind="host",
            pressure_s=stall_s(self._pressure) if self._pressure else None,
        )

    def _fields(self) -> Mapping[bytes, int]:
        if self._meminfo is None:
            raise EngineRefused(
                Reason.ENGINE_REFUSED, "memory cannot be read: this system has no /proc/meminfo"
            )
        return _kb_fields(self._meminfo.read())

    def _field(self, fields: Mapping[bytes, int], name: bytes) -> int:
        if name not in fields:
            assert self._meminfo is not None
            raise self._meminfo.garbage(f"a line of {name.decode()}")
        return fields[name]


class _ProcessTree:
    """What this process and its descendants take, as /proc/PID/status has it.

    Not smaps_rollup: it walks page tables, so that its cost grows with what is mapped, and it may
    be refused for a child. What two of them share counts twice here: too much, never too little.
    A child that outlives its parent leaves the tree.
    """

    def __init__(self, proc: Path) -> None:
        self._proc = str(proc)

    def read(self, limit: int) -> MemoryReading:
        used = anonymous = resident = 0
        for pid in self._pids():
            with contextlib.suppress(*_ENDED):
                fields = _kb_fields(_contents(f"{self._proc}/{pid}/status"))
                all_of_it = fields.get(b"VmRSS", 0)
                own = fields.get(b"RssAnon", all_of_it)  # some sandboxes do not tell them apart
                used += own + fields.get(b"RssShmem", 0) + fields.get(b"VmPTE", 0)
                anonymous += own
                resident += all_of_it
        return MemoryReading(
            at=time.monotonic(),
            used=used,
            limit=limit,
            working_set=resident,
            anonymous=anonymous,
            kind="processes",
        )

    def _pids(self) -> list[int]:
        """Return the tree, this process first.

        All that can be seen are asked for their parent: 10 us each, and a pod has few. Listing
        the children of each thread instead costs as much, and may miss some while others end.
        """
        children: dict[int, list[int]] = {}
        for entry in os.scandir(self._proc):
            if entry.name.isdigit():
                with contextlib.suppress(*_ENDED):
                    _, parent = self._pid_and_parent(entry.name)
                    children.setdefault(parent, []).append(int(entry.name))
        found = [self._pid_and_parent("self")[0]]
        for pid in found:
            found.extend(children.get(pid, ()))
        return found

    def _pid_and_parent(self, name: str) -> tuple[int, int]:
        # The command between the parentheses may have spaces and parentheses in it.
        pid, rest = _contents(f"{self._proc}/{name}/stat").split(b" ", 1)
        return int(pid), int(rest.rsplit(b")", 1)[1].split()[1])


def _contents(path: str) -> bytes:
    # Plain calls: pathlib and a file object cost twice what the kernel does.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 8192)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> KernelFile | None:
    try:
        return KernelFile(path)
    except OSError:
        return None


def _kb_fields(text: bytes) -> Mapping[bytes, int]:
    return {name: int(number) * 1024 for name, number in _KB_FIELD.findall(text)}


def trim() -> int:
    """Collect garbage, return free heap to the system; blocks for 1 to 30 ms; -> bytes it gave.

    Without malloc_trim glibc's arenas keep what a burst touched (measured: 44 MB resident after
    one compile in process, 8 MB after a trim), and a reading of memory never falls.
    """
    before = _resident_anonymous()
    gc.collect()
    _malloc_trim()(0)
    return max(0, before - _resident_anonymous())


def spare_what_stays() -> None:
    """Leave what is alive by now out of every later collection; once, when all is imported.

    The operator's imports are 86,000 objects, and each trim went through them all: 30 ms of the
    interpreter, up to three times a second while compiles want the same cores.
    """
    gc.collect()
    gc.freeze()


@functools.cache
def _malloc_trim() -> Callable[[int], object]:
    # musl has none, and keeps less.
    return getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)


def _resident_anonymous() -> int:
    try:
        _, resident, shared = Path("/proc/self/statm").read_bytes().split()[:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
