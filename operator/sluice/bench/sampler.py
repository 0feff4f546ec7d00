"""The memory of a process and all below it, read from outside and often.

Anonymous memory is the kernel's own count of each process (RssAnon), cheap at any size. Of mapped
files each process counts for its share (PSS), so that a library or a module that two of them map
is there once; a plain sum of RSS would count it twice. PSS walks the page tables, 25 ms for each
GiB, with the very lock held that the process allocates with: it is read again only as often as
costs a twentieth of one core, and what is measured is not slowed by being measured.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_INTERVAL_S = 0.05
_SHARE_RESTS = 20  # times as long as a look at the shares took, before the next one
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """Bytes of a whole tree at a ``time.monotonic`` second; ``total`` includes ``anonymous``."""

    at: float
    total: int
    anonymous: int
    processes: int


@dataclass(slots=True)
class _Mapped:
    """One process's share of the files and shared memory it maps, and when to look again."""

    share: int
    again_at: float


@dataclass(slots=True)
class Tree:
    """A process and its descendants, whatever sessions they are in."""

    pid: int
    _mapped: dict[int, _Mapped] = field(default_factory=dict)

    def read(self) -> Sample:
        """Return what they hold now; who ends meanwhile holds nothing."""
        at, total, anonymous = time.monotonic(), 0, 0
        alive: dict[int, _Mapped] = {}
        for pid in self.pids():
            held = _numbers(f"/proc/{pid}/status", ("RssAnon:",))
            if held is None:
                continue
            alive[pid] = self._look(pid, at)
            anonymous += held[0]
            total += held[0] + alive[pid].share
        self._mapped = alive
        return Sample(at, total, anonymous, len(alive))

    def pids(self) -> list[int]:
        """Return the process and its descendants, parents first."""
        found = [self.pid]
        for pid in found:  # it grows while it is walked
            found.extend(_children(pid))
        return found

    def _look(self, pid: int, now: float) -> _Mapped:
        known = self._mapped.get(pid)
        if known and now < known.again_at:
            return known
        began = time.monotonic()
        shares = _numbers(f"/proc/{pid}/smaps_rollup", ("Pss:", "Pss_Anon:")) or [0, 0]
        took = time.monotonic() - began
        return _Mapped(max(0, shares[0] - shares[1]), began + took * _SHARE_RESTS)


class Sampler:
    """Reads a tree in a thread of its own for as long as the block lasts."""

    def __init__(self, pid: int) -> None:
        self.tree = Tree(pid)
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sampler")
        self._work: Future[None] | None = None

    def __enter__(self) -> Self:
        self._work = self._thread.submit(self._sample)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.shutdown()
        if self._work and not error:
            self._work.result()  # figures with a gap are none

    def _sample(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            sample = self.tree.read()
            if sample.processes:
                self.samples.append(sample)


def _children(pid: int) -> Iterator[int]:
    # Of every thread: a child belongs to the one that started it.
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return
    for thread in threads:
        try:
            yield from map(int, (thread / "children").read_text().split())
        except OSError:
            continue


def _numbers(path: str, names: tuple[str, ...]) -> list[int] | None:
    """Return the bytes that stand beside ``names``; None where the process is gone."""
    try:
        with Path(path).open() as file:
            lines = dict(line.split(None, 1) for line in file if line.startswith(names))
    except OSError:
        return None
    # A process that has ended and was not waited for still has a status, and no memory in it.
    return [int(lines[name].split()[0]) * _KIB for name in names] if lines else None
