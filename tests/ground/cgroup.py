"""A memory cgroup of a test's own, version 1 or 2: a real limit, and a real count of kills."""

import contextlib
import functools
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ground.waiting import wait_until

_MOUNTS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
_EMPTY_WITHIN_S = 20
# The shell enters the cgroup and becomes the command, so that all of it is charged there.
_ENTER = 'echo $$ > "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class _Names:
    limit: str
    no_swap: str
    peak: str
    kills: str


_V1 = _Names(
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.oom_control",
)
_V2 = _Names("memory.max", "memory.swap.max", "memory.peak", "memory.events")


class MemoryCgroup:
    """Made by ``memory_cgroup``. Bytes; kills are processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._names = _V2 if (directory / _V2.limit).exists() else _V1

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """Return ``command`` so that it runs in here with all its children, from its first page."""
        return ["/bin/sh", "-c", _ENTER, str(self.directory / "cgroup.procs"), *map(str, command)]

    def run(
        self, command: Sequence[str | Path], timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end in here; its exit code is -9 when the kernel killed it."""
        return subprocess.run(
            self.command(command), capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def add(self, pid: int) -> None:
        """Take a running process in: what it has so far stays charged where it was."""
        assert pid != os.getpid(), "all in here are killed at the end"
        self._write("cgroup.procs", pid)

    def limit(self, limit_bytes: int) -> None:
        """Set the limit, with none for swap: a limit that swaps kills nobody."""
        self._write(self._names.limit, limit_bytes)
        no_swap = limit_bytes if self._names is _V1 else 0
        if (self.directory / self._names.no_swap).exists():
            self._write(self._names.no_swap, no_swap)

    def kill_together(self) -> None:
        """Let one process out of memory be the end of all, as a kubelet does (version 2 only)."""
        if (self.directory / "memory.oom.group").exists():
            self._write("memory.oom.group", 1)

    def oom_kills(self) -> int:
        lines = (self.directory / self._names.kills).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def peak(self) -> int:
        """Return the most that was ever charged, page cache included."""
        return int((self.directory / self._names.peak).read_text())

    def pids(self) -> list[int]:
        """Return who is in here, below it too."""
        files = self.directory.rglob("cgroup.procs")
        return [int(pid) for procs in files for pid in procs.read_text().split()]

    def remove(self) -> None:
        """Kill who is still in here, and remove it with all that is below it."""
        wait_until(self._emptied, _EMPTY_WITHIN_S, f"{self.directory} without processes")
        wait_until(self._removed, _EMPTY_WITHIN_S, f"{self.directory} removed")

    def _emptied(self) -> bool:
        pids = self.pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    def _removed(self) -> bool:
        # Busy for a moment after the last process of it has ended. The deepest goes first.
        below = sorted(procs.parent for procs in self.directory.rglob("cgroup.procs"))
        with contextlib.suppress(OSError):
            for directory in reversed(below):
                directory.rmdir()
        return not self.directory.exists()

    def _write(self, name: str, value: int) -> None:
        (self.directory / name).write_text(f"{value}\n")


@contextlib.contextmanager
def memory_cgroup(
    limit_bytes: int | None = None, parent: MemoryCgroup | None = None
) -> Iterator[MemoryCgroup]:
    """Make one for the block; at its end all processes in it are killed and it is removed."""
    above = parent.directory if parent else _mount()
    assert above is not None, unavailable()
    _hand_memory_down(above)
    directory = above / f"sluice-test-{uuid.uuid4().hex[:12]}"
    directory.mkdir()
    cgroup = MemoryCgroup(directory)
    try:
        if limit_bytes:
            cgroup.limit(limit_bytes)
        cgroup.kill_together()
        yield cgroup
    finally:
        cgroup.remove()


@functools.cache
def unavailable() -> str | None:
    """Return why no memory cgroup can be made here, in plain words; None: it can."""
    if _mount() is None:
        return "no cgroup hierarchy with a memory controller is mounted"
    try:
        with memory_cgroup(64 << 20) as cgroup:
            return None if cgroup.run(["true"]).returncode == 0 else "no process may enter one"
    except OSError as error:
        return f"no memory cgroup may be made: {error}"


def _mount() -> Path | None:
    """Return where the memory controller's hierarchy is mounted; beside v1 a v2 one is empty."""
    v1, v2 = _MOUNTS
    if (v1 / _V1.limit).exists():
        return v1
    controllers = v2 / "cgroup.controllers"
    return v2 if controllers.exists() and "memory" in controllers.read_text().split() else None


def _hand_memory_down(above: Path) -> None:
    """Give the cgroups below ``above`` the controller; version 1 has no such switch."""
    control = above / "cgroup.subtree_control"
    if control.exists() and "memory" not in control.read_text().split():
        control.write_text("+memory\n")
