import json
import mmap
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ground.cgroup import MemoryCgroup, memory_cgroup, unavailable
from sluice.rollout.memory import find_source

MIB = 1 << 20

_CHILD = """
import json, mmap, os, subprocess, sys
from pathlib import Path
from sluice.rollout.memory import find_source, trim

source, folder = find_source(), Path(sys.argv[1])
before = source.read()
{body}
after = source.read()
print(json.dumps({{
    name: getattr(after, name) - getattr(before, name)
    for name in ("used", "working_set", "anonymous")
}} | {{"kind": after.kind, "limit": after.limit}}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """By how many bytes the reading of a process in a real cgroup has grown."""

    used: int
    working_set: int
    anonymous: int
    kind: str
    limit: int


@pytest.fixture
def cgroup() -> Iterator[MemoryCgroup]:
    if reason := unavailable():
        pytest.skip(reason)
    with memory_cgroup(256 * MIB) as made:
        yield made


def grown(cgroup: MemoryCgroup, folder: Path, body: str) -> Grown:
    """Run ``body`` between two readings, in a process within the cgroup."""
    done = cgroup.run([sys.executable, "-c", _CHILD.format(body=body), folder])
    assert done.returncode == 0, done.stderr
    return Grown(**json.loads(done.stdout))


@pytest.fixture
def on_disk(tmp_path: Path) -> Path:
    """Give a folder whose pages are cache: on tmpfs they would be memory."""
    device = tmp_path.stat().st_dev
    name = f" {os.major(device)}:{os.minor(device)} "
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    if any(name in line and " - tmpfs " in line for line in mounts):
        pytest.skip("the temporary folder is in memory itself")
    return tmp_path


@pytest.fixture
def uncached(on_disk: Path) -> Iterator[Path]:
    """Give a folder with a file of 64 MiB, ``big``, of which no page is in memory."""
    with (on_disk / "big").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    yield on_disk
    (on_disk / "big").unlink()


def test_reading_a_big_file_does_not_hold_a_rollout_shut(
    cgroup: MemoryCgroup, uncached: Path
) -> None:
    """64 MiB of page cache, read twice as code is: the working set has it, what decides has not."""
    big = grown(
        cgroup,
        uncached,
        "for _ in range(3):\n    big = len((folder/'big').read_bytes())\n    trim()",
    )
    assert (big.kind[:-1], big.limit) == ("cgroup-v", 256 * MIB)
    assert cgroup.peak() > 64 * MIB
    assert big.working_set > 60 * MIB
    assert big.used < 4 * MIB


def test_mapping_compiled_code_does_not_hold_a_rollout_shut(
    cgroup: MemoryCgroup, uncached: Path
) -> None:
    """As engines do it: a private mapping of a file, each page of it touched."""
    touch = (
        "file = (folder/'big').open('rb')\n"
        "code = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)\n"
        "touched = sum(code[::4096])"
    )
    assert grown(cgroup, uncached, touch).used < 4 * MIB
    assert cgroup.peak() > 64 * MIB


@pytest.mark.parametrize(
    "body",
    [
        "held = bytearray(b'x') * (32 << 20)",
        "fd = os.memfd_create('shared')\nos.write(fd, b'x' * (1 << 20))\n"
        "for i in range(31):\n    os.write(fd, b'x' * (1 << 20))",
        "shared = mmap.mmap(-1, 32 << 20)\nshared.write(b'x' * (32 << 20))\ntrim()",
    ],
    ids=["anonymous", "tmpfs", "shared"],
)
def test_memory_without_a_file_behind_it_is_used(
    cgroup: MemoryCgroup, tmp_path: Path, body: str
) -> None:
    """Nothing but an end of its holder brings it back."""
    assert 30 * MIB < grown(cgroup, tmp_path, body).used < 36 * MIB


_WRITE = (
    "file = (folder/'new').open('wb', 0)\nfor _ in range(32):\n    file.write(b'x' * (1 << 20))\n"
)


def test_what_is_not_yet_written_to_disk_is_used_until_it_is(
    cgroup: MemoryCgroup, on_disk: Path
) -> None:
    """A dirty page is free only after the disk has answered; a clean one at once."""
    assert grown(cgroup, on_disk, _WRITE).used > 30 * MIB
    (on_disk / "new").unlink()
    assert grown(cgroup, on_disk, _WRITE + "os.fsync(file.fileno())").used < 4 * MIB
    (on_disk / "new").unlink()


_GRANDCHILD = """
hold = "held = bytearray(b'x') * (32 << 20); print(flush=True); input()"
spawn = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
child = subprocess.Popen([sys.executable, "-c", spawn, hold], stdin=-1, stdout=-1)
child.stdout.readline()
"""


def test_grandchildren_are_in_it(cgroup: MemoryCgroup, tmp_path: Path) -> None:
    """A compile child's memory is the pod's; once it has ended, it is not."""
    ended = _GRANDCHILD + "child.communicate(b'end')"
    assert 32 * MIB < grown(cgroup, tmp_path, _GRANDCHILD).anonymous < 64 * MIB
    assert grown(cgroup, tmp_path, ended).anonymous < 4 * MIB


def test_a_limit_above_is_found_by_a_real_process(cgroup: MemoryCgroup, tmp_path: Path) -> None:
    """A nested path on this very kernel: the tighter limit is the parent's."""
    with memory_cgroup(1024 * MIB, parent=cgroup) as below:
        assert grown(below, tmp_path, "").limit == 256 * MIB


@pytest.mark.parametrize("then", ["second", "first"], ids=["another", "one of the same name"])
def test_a_process_whose_first_cgroup_is_gone_is_read_where_it_is(
    cgroup: MemoryCgroup, then: str
) -> None:
    """Files kept open on a removed cgroup answer with an error; who reads does not see it."""
    moved = f"""
import os
from pathlib import Path
from sluice.rollout.memory import find_source
def enter(folder):
    folder.mkdir(exist_ok=True)
    (folder / "cgroup.procs").write_text(str(os.getpid()))
top = Path({str(cgroup.directory)!r})
enter(top / "first")
source = find_source()
enter(top)
(top / "first").rmdir()
enter(top / {then!r})
print(source.read().limit)
"""
    done = cgroup.run([sys.executable, "-c", moved])
    assert (done.stdout.strip(), done.stderr) == (str(256 * MIB), "")


def test_the_setting_alone_counts_a_real_process_and_its_children() -> None:
    """No limit in a cgroup, memory_limit_bytes set: the tree of this very process is counted."""
    source = find_source(1 << 50)
    if source.read().kind != "processes":
        pytest.skip("these tests run under a memory limit themselves")
    before = source.read().anonymous
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, 32 * MIB, private) as held:  # a heap may have as much left from before
        for page in range(0, 32 * MIB, mmap.PAGESIZE):
            held[page] = 1
        assert source.read().anonymous - before > 31 * MIB


@pytest.mark.parametrize(("mib", "code", "kills"), [(32, 0, 0), (512, -9, 1)])
def test_the_ground_counts_what_the_kernel_kills(
    cgroup: MemoryCgroup, mib: int, code: int, kills: int
) -> None:
    """Under the limit nobody, over it one: what "never killed" is measured with."""
    done = cgroup.run([sys.executable, "-c", f"held = bytearray(b'x') * ({mib} << 20)"])
    assert (done.returncode, cgroup.oom_kills()) == (code, kills)
    assert min(mib, 256) * MIB <= cgroup.peak() + MIB


_FREED = """
import ctypes
from sluice.rollout.memory import trim
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
blocks = [libc.malloc(4000) for _ in range(10_000)]
for block in blocks:
    ctypes.memset(block, 1, 4000)
for block in blocks[:-1]:  # the last stays, at the top of the heap, and holds all below it
    libc.free(ctypes.c_void_p(block))
print(trim() >> 20, trim() >> 20)
"""


def test_a_trim_gives_back_what_was_freed_and_says_how_much(cgroup: MemoryCgroup) -> None:
    """40 MB that malloc kept are back after one trim; a second finds nothing."""
    done = cgroup.run([sys.executable, "-c", _FREED])
    first, second = map(int, done.stdout.split())
    assert first > 30
    assert second < 3
