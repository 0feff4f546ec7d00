import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.errors import EngineRefused
from sluice.rollout.memory import MemoryReading, find_source

MIB = 1 << 20
V1_UNLIMITED = 9223372036854771712
POD = "kubepods/burstable/pod7d0c3a/5e8f1c"

V2_STAT = {
    "anon": 40 * MIB,
    "file": 100 * MIB,
    "kernel_stack": 1 * MIB,
    "shmem": 6 * MIB,
    "file_dirty": 5 * MIB,
    "file_writeback": 3 * MIB,
    "inactive_anon": 46 * MIB,
    "inactive_file": 30 * MIB,
    "active_file": 60 * MIB,
    "unevictable": 4 * MIB,
    "slab_reclaimable": 7 * MIB,
    "slab_unreclaimable": 2 * MIB,
}
V1_STAT = {
    "cache": 1,  # of this level alone: whoever reads it counts no children
    "rss": 1,
    "active_file": 1,
    "hierarchical_memory_limit": V1_UNLIMITED,
    "total_rss": 40 * MIB,
    "total_dirty": 5 * MIB,
    "total_writeback": 3 * MIB,
    "total_inactive_file": 30 * MIB,
    "total_active_file": 60 * MIB,
}
V2_MOUNT = "30 24 0:26 {root} {point} rw,nosuid,nodev shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "35 31 0:32 {root} {point} ro,nosuid,relatime master:15 - cgroup cgroup rw,memory"
V2_POINT, V1_POINT = "/sys/fs/cgroup", "/sys/fs/cgroup/memory"


class Machine:
    """The files of a /proc and a /sys/fs/cgroup, written as the kernel writes them."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.cgroups = folder / "proc", folder / "cgroup"
        self.write(self.proc / "meminfo", meminfo(1024 * MIB, 600 * MIB))

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def member(self, cgroup: str, *mounts: str) -> None:
        """Say where this process is and what is mounted; ``cgroup`` as in /proc/self/cgroup."""
        other = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755"
        cpu = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct"
        self.write(self.proc / "self/cgroup", cgroup)
        self.write(self.proc / "self/mountinfo", "\n".join([other, cpu, *mounts, ""]))

    def v2(self, path: str, limit: object, usage: int = 200 * MIB, **stat: int) -> Path:
        folder = self.cgroups / path
        self.write(folder / "memory.max", f"{limit}\n")
        self.write(folder / "memory.current", f"{usage}\n")
        self.write(folder / "memory.stat", table(V2_STAT | stat))
        return folder

    def v1(self, path: str, limit: object, usage: int = 200 * MIB, **stat: int) -> Path:
        folder = self.cgroups / "memory" / path
        self.write(folder / "memory.limit_in_bytes", f"{limit}\n")
        self.write(folder / "memory.usage_in_bytes", f"{usage}\n")
        self.write(folder / "memory.stat", table(V1_STAT | stat))
        return folder

    def process(self, pid: int | str, parent: int, anonymous: int, *, number: int = 0) -> None:
        folder = self.proc / str(pid)
        kb = anonymous // 1024
        status = f"Name:\tx\nVmRSS:\t{kb + 30} kB\nRssAnon:\t{kb} kB\nRssFile:\t10 kB\n"
        self.write(folder / "stat", f"{number or pid} (a) b (c) S {parent} 1 1 0")
        self.write(folder / "status", status + "RssShmem:\t20 kB\nVmPTE:\t5 kB\nThreads:\t1\n")

    def read(self, limit_bytes: int | None = None) -> MemoryReading:
        return find_source(limit_bytes, cgroup_root=self.cgroups, proc=self.proc).read()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def in_a_container(machine: Machine) -> Machine:
    """Version 2 with a namespace, as any current node has it, with 256 MiB."""
    machine.member("0::/\n", V2_MOUNT.format(root="/", point=V2_POINT))
    machine.v2("", 256 * MIB)
    return machine


def table(fields: dict[str, int]) -> str:
    return "".join(f"{name} {value}\n" for name, value in fields.items())


def meminfo(total: int, available: int) -> str:
    return (
        f"MemTotal: {total // 1024:>12} kB\nMemFree: {available // 2048:>12} kB\n"
        f"MemAvailable: {available // 1024:>12} kB\nInactive(file): {1024:>12} kB\n"
        f"AnonPages: {2048:>12} kB\nHugePages_Total: {0:>12}\n"
    )


# (version, /proc/self/cgroup, root of the mount, where the files are below the mount)
LAYOUTS = {
    "v2 container with a namespace": (2, "0::/\n", "/", ""),
    "v2 container of the host's namespace": (2, f"0::/{POD}\n", f"/{POD}", ""),
    "v2 nested on a host": (
        2,
        "0::/system.slice/sluice.service\n",
        "/",
        "system.slice/sluice.service",
    ),
    "v2 cgroup made within a container": (2, f"0::/{POD}/w\n", f"/{POD}", "w"),
    "v2 mount of the namespace's parent": (2, "0::/../b\n", "/..", "b"),
    "v2 name with a space": (2, "0::/a b\n", "/a\\040b", ""),
    "v1 docker": (1, "9:cpu,cpuacct:/x\n4:memory:/docker/5e8f\n0::/\n", "/docker/5e8f", ""),
    "v1 kubelet pod": (1, f"4:memory:/{POD}\n", f"/{POD}", ""),
    "v1 on the node itself": (1, f"4:memory:/{POD}\n", "/", POD),
    "v1 with a namespace": (1, "4:memory:/\n", "/", ""),
    "hybrid, memory beside an empty v2": (1, "4:memory:/process/dd1c\n0::/\n", "/", "process/dd1c"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_limit_of_ones_own_cgroup_is_found_in_every_layout(machine: Machine, name: str) -> None:
    """Containers and hosts, both versions, with and without namespaces: the limit is the pod's."""
    version, cgroup, root, path = LAYOUTS[name]
    empty_v2 = V2_MOUNT.format(root="/", point="/sys/fs/cgroup/unified")
    if version == 2:
        machine.member(cgroup, V2_MOUNT.format(root=root, point=V2_POINT))
        machine.v2(path, 256 * MIB)
    else:
        machine.member(cgroup, empty_v2, V1_MOUNT.format(root=root, point=V1_POINT))
        machine.v1(path, 256 * MIB)
    reading = machine.read()
    assert (reading.kind, reading.limit) == (f"cgroup-v{version}", 256 * MIB)
    assert reading.anonymous == 40 * MIB


def test_clean_page_cache_and_reclaimable_slab_are_not_used(in_a_container: Machine) -> None:
    """What the kernel takes back before it kills is no reason to hold a rollout; all else is."""
    reading = in_a_container.read()
    dirty = 5 * MIB + 3 * MIB
    assert reading.used == 200 * MIB - (30 + 60) * MIB + dirty - 7 * MIB
    assert reading.working_set == 200 * MIB - 30 * MIB


def test_on_version_1_all_kernel_memory_is_used(machine: Machine) -> None:
    """It does not say what of it can be had back, so too much is counted and not too little."""
    machine.member(f"4:memory:/{POD}\n", V1_MOUNT.format(root=f"/{POD}", point=V1_POINT))
    machine.v1("", 256 * MIB)
    reading = machine.read()
    assert reading.used == 200 * MIB - (30 + 60) * MIB + 8 * MIB
    assert reading.working_set == 200 * MIB - 30 * MIB


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    usage=st.integers(0, 300),
    stat=st.fixed_dictionaries({name: st.integers(0, 300) for name in V2_STAT}),
)
def test_used_is_never_below_zero_nor_above_what_is_charged(
    in_a_container: Machine, usage: int, stat: dict[str, int]
) -> None:
    """The kernel's counters may contradict each other; the decision never sees nonsense."""
    in_a_container.v2("", 256 * MIB, usage, **stat)
    reading = in_a_container.read()
    assert 0 <= reading.used <= usage
    assert 0 <= reading.working_set <= usage


@pytest.mark.parametrize(("high", "limit"), [(100 * MIB, 100), (400 * MIB, 256), ("max", 256)])
def test_where_the_kernel_throttles_is_a_limit_too(
    in_a_container: Machine, high: object, limit: int
) -> None:
    """memory.high decides when it is the lower of the two."""
    in_a_container.write(in_a_container.cgroups / "memory.high", f"{high}\n")
    assert in_a_container.read().limit == limit * MIB


@pytest.mark.parametrize(
    ("above", "usage_above", "decides"),
    [(300 * MIB, 290 * MIB, 300), (300 * MIB, 210 * MIB, 256), ("max", 900 * MIB, 256)],
)
def test_a_cgroup_above_decides_when_it_has_less_room(
    machine: Machine, above: object, usage_above: int, decides: int
) -> None:
    """The kernel kills at whichever limit is reached first; neighbours are charged above us."""
    machine.member("0::/pod/a\n", V2_MOUNT.format(root="/", point=V2_POINT))
    machine.v2("pod/a", 256 * MIB, 200 * MIB)
    machine.v2("pod", above, usage_above)
    assert machine.read().limit == decides * MIB


def test_a_leaf_that_leaves_memory_to_its_parent_is_accounted_there(machine: Machine) -> None:
    """Version 2: a cgroup without the controller is charged to the nearest above that has it."""
    machine.member("0::/pod/a\n", V2_MOUNT.format(root="/", point=V2_POINT))
    machine.write(machine.cgroups / "pod/a/memory.pressure", "some avg10=0.00 total=1\n")
    machine.v2("pod", 256 * MIB)
    assert machine.read().limit == 256 * MIB


def test_version_1_knows_limits_above_what_a_container_sees(machine: Machine) -> None:
    """hierarchical_memory_limit has them; a container's own files say it is unlimited."""
    machine.member(f"4:memory:/{POD}\n", V1_MOUNT.format(root=f"/{POD}", point=V1_POINT))
    machine.v1("", V1_UNLIMITED, hierarchical_memory_limit=128 * MIB)
    assert machine.read().limit == 128 * MIB


@pytest.mark.parametrize("limit", ["max", 1024 * MIB, 4096 * MIB])
def test_without_a_limit_version_2_leaves_it_to_the_machine(
    machine: Machine, limit: object
) -> None:
    """No limit, or one that the machine cannot fill: what the kernel has available decides."""
    machine.member("0::/\n", V2_MOUNT.format(root="/", point=V2_POINT))
    machine.v2("", limit)
    reading = machine.read()
    assert (reading.kind, reading.limit, reading.used) == ("host", 1024 * MIB, 424 * MIB)
    assert reading.working_set == (1024 - 300 - 1) * MIB


def test_without_a_limit_version_1_leaves_it_to_the_machine(machine: Machine) -> None:
    """2**63 less a page is how version 1 spells "none"."""
    machine.member(f"4:memory:/{POD}\n", V1_MOUNT.format(root="/", point=V1_POINT))
    machine.v1(POD, V1_UNLIMITED)
    machine.v1("", V1_UNLIMITED)
    assert machine.read().kind == "host"


def test_without_any_cgroup_the_machine_is_the_limit(machine: Machine) -> None:
    """A kernel built without cgroups is no reason not to start."""
    reading = machine.read()
    assert (reading.kind, reading.limit, reading.anonymous) == ("host", 1024 * MIB, 2 * MIB)


@pytest.mark.parametrize(("setting", "limit"), [(100 * MIB, 100), (300 * MIB, 256), (0, 256)])
def test_the_smaller_of_setting_and_cgroup_decides(
    in_a_container: Machine, setting: int, limit: int
) -> None:
    """A setting can lower the pod's limit, never raise it; 0 is no setting."""
    reading = in_a_container.read(setting)
    assert (reading.kind, reading.limit) == ("cgroup-v2", limit * MIB)


def test_a_setting_without_a_cgroup_is_held_against_the_process_tree(machine: Machine) -> None:
    """On a laptop with memory_limit_bytes: ours and our children's count, a browser's does not."""
    machine.process("self", 1, 50 * MIB, number=70)
    machine.process(70, 1, 50 * MIB)
    machine.process(71, 70, 20 * MIB)
    machine.process(72, 71, 10 * MIB)
    machine.process(80, 1, 500 * MIB)
    machine.write(machine.proc / "73/stat", "73 (ended meanwhile) Z 70 1 1 0")
    reading = machine.read(256 * MIB)
    assert (reading.kind, reading.limit) == ("processes", 256 * MIB)
    assert reading.anonymous == 80 * MIB
    assert reading.used == 80 * MIB + 3 * 25 * 1024
    assert reading.working_set == 80 * MIB + 3 * 30 * 1024


def test_a_pod_resized_while_it_runs_is_read_with_its_new_limit(in_a_container: Machine) -> None:
    """A limit is never remembered from the start."""
    source = find_source(cgroup_root=in_a_container.cgroups, proc=in_a_container.proc)
    in_a_container.v2("", 512 * MIB)
    assert source.read().limit == 512 * MIB


def test_a_process_moved_to_another_cgroup_is_read_there(machine: Machine) -> None:
    """Files that were kept open do not tie a reading to the cgroup of the start."""
    machine.member("0::/a\n", V2_MOUNT.format(root="/", point=V2_POINT))
    machine.v2("a", 256 * MIB)
    machine.v2("b", 128 * MIB)
    source = find_source(cgroup_root=machine.cgroups, proc=machine.proc)
    machine.write(machine.proc / "self/cgroup", "0::/b\n")
    assert source.read().limit == 128 * MIB


@pytest.mark.parametrize(
    ("procs", "kind"), [(os.getpid(), "cgroup-v2"), (1, "host")], ids=["has us", "has others"]
)
def test_a_mount_that_does_not_show_our_path_counts_only_if_it_has_us(
    machine: Machine, procs: int, kind: str
) -> None:
    """A path outside the namespace ("/../..") names nothing here: the cgroup must list us."""
    machine.member("0::/../../c\n", V2_MOUNT.format(root="/", point=V2_POINT))
    machine.write(machine.v2("", 256 * MIB) / "cgroup.procs", f"7\n{procs}\n")
    assert machine.read().kind == kind


def test_stalls_are_read_where_the_kernel_counts_them(in_a_container: Machine) -> None:
    """PSI of the pod itself, in seconds; its absence is no zero."""
    assert in_a_container.read().pressure_s is None
    text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=2500000\nfull avg10=0.00 total=9\n"
    in_a_container.write(in_a_container.cgroups / "memory.pressure", text)
    assert in_a_container.read().pressure_s == 2.5


@pytest.mark.parametrize("name", ["memory.max", "memory.current", "memory.stat"])
def test_garbage_is_said_with_the_file_it_is_in(in_a_container: Machine, name: str) -> None:
    """A limit that cannot be read is never taken for none."""
    in_a_container.write(in_a_container.cgroups / name, "cheese is\nno number\n")
    with pytest.raises(EngineRefused, match=rf"{name} holds 'cheese is"):
        in_a_container.read()


@pytest.mark.parametrize("name", ["memory.max", "memory.current", "memory.stat"])
def test_a_cgroup_that_lacks_a_file_is_passed_over(in_a_container: Machine, name: str) -> None:
    """Sandboxes that imitate a part of it show their limit as the machine's memory."""
    (in_a_container.cgroups / name).unlink()
    assert in_a_container.read().kind == "host"


@pytest.mark.parametrize(
    ("text", "message"), [(None, "no /proc/meminfo"), ("MemFree: 1 kB\n", "a line of MemTotal")]
)
def test_a_system_that_says_nothing_is_said_at_the_start(
    machine: Machine, text: str | None, message: str
) -> None:
    """One clear error, and no guess at a limit."""
    (machine.proc / "meminfo").unlink()
    if text:
        machine.write(machine.proc / "meminfo", text)
    with pytest.raises(EngineRefused, match=message):
        machine.read()
