"""What the kernel's memory controller counts against this process: cgroup v2 and cgroup v1.

Where: ``/proc/self/cgroup`` names the cgroup, ``/proc/self/mountinfo`` says where its hierarchy
is mounted and which part of it (a container sees its own cgroup as the mount's root, with or
without a cgroup namespace). Its ancestors count too, as far as they can be seen: the kernel kills
at whichever limit is reached first, and an ancestor's usage has the neighbours in it. So the level
with the least room left is the one that is read.

Children are charged to the cgroup they were born in, which is this one.
"""

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sluice.errors import EngineRefused
from sluice.reasons import Reason

# memory.stat is the longest: 2.5 KB on kernel 6.18. Files of proc and cgroup come in one piece.
_READ_BYTES = 65_536
_MOUNTED = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupMemory:
    """One level, in bytes; the words are those of ``MemoryReading``."""

    kind: str
    limit: int
    used: int
    working_set: int
    anonymous: int
    pressure_s: float | None


class KernelFile:
    """A file that is opened once and read again and again: a third of the cost of opening it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self) -> bytes:
        return os.pread(self._descriptor, _READ_BYTES, 0)

    def bytes_or_max(self) -> int | None:
        """Return the number in it; None for "max"."""
        text = self.read().strip()
        try:
            return None if text == b"max" else int(text)
        except ValueError:
            raise self.garbage("a number of bytes") from None

    def table(self) -> Mapping[bytes, int]:
        """Return its lines of ``name number``."""
        try:
            return {name: int(value) for name, value in map(bytes.split, self.read().splitlines())}
        except ValueError:
            raise self.garbage("lines of a name and a number") from None

    def garbage(self, wanted: str) -> EngineRefused:
        held = self.read()[:60].decode(errors="replace")
        return EngineRefused(Reason.ENGINE_REFUSED, f"{self.path} holds {held!r}, not {wanted}")


@dataclass(frozen=True, slots=True)
class _Version:
    """What one version of the controller calls things; v1's ``total_`` has the children in it."""

    kind: str
    usage: str
    limits: tuple[str, ...]
    anonymous: bytes
    cache: tuple[bytes, ...]
    inactive_cache: bytes
    not_yet_written: tuple[bytes, ...]
    reclaimable_kernel: bytes | None
    limit_of_ancestors: bytes | None
    pressure: str | None


_V2 = _Version(
    kind="cgroup-v2",
    usage="memory.current",
    limits=("memory.max", "memory.high"),
    anonymous=b"anon",
    cache=(b"active_file", b"inactive_file"),
    inactive_cache=b"inactive_file",
    not_yet_written=(b"file_dirty", b"file_writeback"),
    reclaimable_kernel=b"slab_reclaimable",
    limit_of_ancestors=None,
    pressure="memory.pressure",
)
_V1 = _Version(
    kind="cgroup-v1",
    usage="memory.usage_in_bytes",
    limits=("memory.limit_in_bytes",),
    anonymous=b"total_rss",
    cache=(b"total_active_file", b"total_inactive_file"),
    inactive_cache=b"total_inactive_file",
    not_yet_written=(b"total_dirty", b"total_writeback"),
    reclaimable_kernel=None,  # v1 does not say which of its kernel memory could be had back
    limit_of_ancestors=b"hierarchical_memory_limit",  # also of those a container cannot see
    pressure=None,
)


class _Level:
    """The open files of one cgroup. ``own``: the nearest to this process that is accounted."""

    def __init__(self, directory: Path, version: _Version, *, own: bool) -> None:
        self._version, self._own = version, own
        self._usage = KernelFile(directory / version.usage)
        self._stat = KernelFile(directory / "memory.stat")
        first, *others = (directory / name for name in version.limits)
        self._limits = [KernelFile(first), *(KernelFile(p) for p in others if p.exists())]
        pressure = directory / version.pressure if version.pressure else None
        self._pressure = KernelFile(pressure) if pressure and pressure.exists() else None

    def read(self, unlimited: int, override: int | None) -> CgroupMemory | None:
        """Return None when no limit below ``unlimited`` holds here.

        The limits are read each time: a pod can be resized while it runs.
        """
        limit = min(
            (n for n in map(KernelFile.bytes_or_max, self._limits) if n is not None),
            default=unlimited,
        )
        above = self._version.limit_of_ancestors if self._own else None
        if limit >= unlimited and above is None:
            return None
        stat = self._stat.table()
        limit = min(limit, stat.get(above, unlimited)) if above else limit
        if limit >= unlimited:
            return None
        return self._figures(min(limit, override or limit), stat)

    def _figures(self, limit: int, stat: Mapping[bytes, int]) -> CgroupMemory:
        version = self._version
        usage = self._usage.bytes_or_max() or 0
        clean = sum(stat.get(n, 0) for n in version.cache) - sum(
            stat.get(n, 0) for n in version.not_yet_written
        )
        kernel = stat.get(version.reclaimable_kernel, 0) if version.reclaimable_kernel else 0
        # Counters of different age can contradict each other by a few pages: never below zero.
        return CgroupMemory(
            kind=version.kind,
            limit=limit,
            used=max(0, usage - max(0, clean) - kernel),
            working_set=max(0, usage - stat.get(version.inactive_cache, 0)),
            anonymous=stat.get(version.anonymous, 0),
            pressure_s=stall_s(self._pressure) if self._pressure else None,
        )


def stall_s(pressure: KernelFile) -> float | None:
    """Return for how long some task waited for memory so far (PSI); None: the kernel does not say.

    The file is there and refuses to be read when the kernel was started with PSI off.
    """
    try:
        found = re.search(rb"^some .*total=(\d+)", pressure.read())
    except OSError:
        return None
    return int(found[1]) / 1e6 if found else None


class Cgroup:
    """The cgroup of this process, wherever it is moved to. Any thread may call ``read``."""

    def __init__(self, root: Path, proc: Path, unlimited: int) -> None:
        self._root, self._proc, self._unlimited = root, proc, unlimited
        self._lock = threading.Lock()
        self._member_of: KernelFile | None = None
        self._seen = b""
        self._levels: list[_Level] = []

    def read(self, override: int | None) -> CgroupMemory | None:
        """Return the level with the least room; None: no cgroup limits this process."""
        with self._lock:
            try:
                if self._member_of is None or self._member_of.read() != self._seen:
                    self._open()
                return self._tightest(override)
            except OSError:  # removed under the open files, and perhaps made anew under its name
                self._open()
                return self._tightest(override)

    def _tightest(self, override: int | None) -> CgroupMemory | None:
        readings = (level.read(self._unlimited, override) for level in self._levels)
        return min((r for r in readings if r), key=lambda r: r.limit - r.used, default=None)

    def _open(self) -> None:
        self._levels = []
        try:
            self._member_of = KernelFile(self._proc / "self/cgroup")
            mounts = (self._proc / "self/mountinfo").read_text(errors="surrogateescape")
        except FileNotFoundError:  # a kernel without cgroups, or no Linux at all
            self._member_of = None
            return
        self._seen = self._member_of.read()
        for point, root, version in _mounts(mounts):
            path = _memberships(self._seen).get(version.kind)
            if path is not None and (levels := self._visible(point, root, path, version)):
                self._levels = levels
                return

    def _visible(self, point: Path, root: str, path: str, version: _Version) -> list[_Level]:
        if point.is_relative_to(_MOUNTED):
            point = self._root / point.relative_to(_MOUNTED)
        inside = _below(path, root)
        if inside is not None and (levels := _levels(point, point / inside, version)):
            return levels
        # The path can lead nowhere here (a process that entered from outside); believe the
        # mount only where it says that it has us.
        return _levels(point, point, version) if _has_us(point) else []


def _memberships(text: bytes) -> Mapping[str, str]:
    """Return the kind of cgroup and the path in it, from lines of ``number:controllers:path``."""
    found = {}
    for line in text.decode(errors="surrogateescape").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "memory" in controllers.split(","):
            found[_V1.kind] = path
        elif number == "0" and not controllers:
            found[_V2.kind] = path
    return found


def _mounts(mountinfo: str) -> Iterator[tuple[Path, str, _Version]]:
    """Yield mount point, root within the hierarchy, and version of each that can have memory."""
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        fields, kinds = mount.split(), source.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        version = {"cgroup2": _V2, "cgroup": _V1}.get(kinds[0])
        if version is _V1 and "memory" not in kinds[2].split(","):
            continue
        if version:
            yield Path(_unescaped(fields[4])), _unescaped(fields[3]), version


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)


def _below(path: str, root: str) -> str | None:
    """Return ``path`` relative to ``root``; None when it is not below it, or has no name there."""
    prefix = root.rstrip("/") + "/"
    inside = (path.rstrip("/") + "/").removeprefix(prefix)
    if not (path.rstrip("/") + "/").startswith(prefix) or ".." in inside.split("/"):
        return None
    return inside.rstrip("/")


def _has_us(directory: Path) -> bool:
    try:
        return str(os.getpid()) in (directory / "cgroup.procs").read_text().split()
    except OSError:
        return False


def _levels(top: Path, own: Path, version: _Version) -> list[_Level]:
    """Return ``own`` and what is above it, as far as they account for memory.

    Not all do: the root has no limit, and a leaf may leave memory to the cgroup above it.
    """
    levels: list[_Level] = []
    for directory in (own, *own.parents):
        with contextlib.suppress(OSError):  # missing, or not for us to read
            levels.append(_Level(directory, version, own=not levels))
        if directory == top:
            break
    return levels
