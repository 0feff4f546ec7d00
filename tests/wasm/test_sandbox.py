import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sluice.settings import MIB
from wasm.lab import Lab

_ATTEMPTS = """
    import ctypes, json, mmap, os, resource, socket, sys
    from sluice.wasm import sandbox

    def tried(attempt):
        try:
            attempt()
        except OSError as e:
            return e.strerror
        return "done"

    inherited, kept = int(sys.argv[1]), os.open(sys.argv[2], os.O_RDONLY)
    sandbox.limit(256 << 20, 512 << 20, 60, 1 << 20)
    sandbox.close_others({kept})
    held = sandbox.lock()
    print(json.dumps({
        "held": held,
        "inherited": tried(lambda: os.fstat(inherited)),
        "kept": tried(lambda: os.read(kept, 1)),
        "read": tried(lambda: open("/etc/passwd")),
        "write": tried(lambda: open(sys.argv[2] + ".new", "w")),
        "remove": tried(lambda: os.unlink(sys.argv[2])),
        "tcp": tried(socket.socket),
        "unix": tried(lambda: socket.socket(socket.AF_UNIX)),
        "pipe": tried(os.pipe),
        "execute": tried(lambda: os.execv("/bin/true", ["true"])),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "memory": resource.getrlimit(resource.RLIMIT_DATA),
        "address space": resource.getrlimit(resource.RLIMIT_AS),
        "cpu": resource.getrlimit(resource.RLIMIT_CPU),
        "file": resource.getrlimit(resource.RLIMIT_FSIZE),
    }))
"""


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Tell what a process that has locked itself in still reaches."""
    kept = tmp_path_factory.mktemp("sandbox") / "kept"
    kept.write_text("x")
    inherited = os.open("/dev/null", os.O_RDONLY)
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_ATTEMPTS), str(inherited), str(kept)],
            pass_fds=[inherited], capture_output=True, check=True,
        )  # fmt: skip
    finally:
        os.close(inherited)
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("attempt", ["read", "write", "tcp", "unix", "pipe"])
def test_nothing_can_be_opened_after_the_lock(attempts: dict[str, object], attempt: str) -> None:
    """No file, socket or pipe can be had, on kernels with Landlock and without."""
    assert attempts[attempt] in {"Too many open files", "Permission denied"}


@pytest.mark.parametrize("attempt", ["remove", "execute"])
def test_landlock_keeps_names_out_of_reach(attempts: dict[str, object], attempt: str) -> None:
    """Where the kernel has Landlock, no file can be removed and no program be started."""
    held = attempts["held"]
    assert isinstance(held, list)
    if not any(name.startswith("landlock") for name in held):
        pytest.skip("this kernel has no Landlock")
    assert attempts[attempt] == "Permission denied"


def test_only_the_descriptors_that_are_kept_stay_open(attempts: dict[str, object]) -> None:
    """What the operator had open is closed; what the child needs can still be read."""
    assert attempts["inherited"] == "Bad file descriptor"
    assert attempts["kept"] == "done"


def test_the_limits_are_set_for_good(attempts: dict[str, object]) -> None:
    """Soft and hard limits are the same, so that nothing raises them again; no core is dumped."""
    assert attempts["memory"] == [256 * MIB] * 2
    assert attempts["address space"] == [512 * MIB] * 2
    assert attempts["file"] == [MIB] * 2
    assert attempts["core"] == [0, 0]
    assert attempts["cpu"] == [60, 61]


def test_the_compile_child_says_that_it_is_locked_in(lab: Lab) -> None:
    """The real child reaches the same state, and a record tells it."""
    held = lab.module("echo").entry.record["sandbox"]
    assert {"no_new_privs", "no_new_descriptors"} <= set(held)


_OPERATOR = """
    import sys
    from pathlib import Path
    from wasm.lab import Lab
    from wasm.shapes import busy
    lab = Lab.at(Path(sys.argv[1]))
    compilation = lab.compilation(busy(20_000), compile_memory_bytes_max=1 << 40)
    spawn = compilation._spawn
    def spawned(out, err):
        process = spawn(out, err)
        print(process.pid, flush=True)
        return process
    compilation._spawn = spawned
    compilation.run()
"""


def test_a_compile_dies_with_the_operator(tmp_path: Path) -> None:
    """A child does not outlive an operator that was killed without a chance to clean up."""
    operator = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_OPERATOR), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert operator.stdout is not None
    with operator.stdout:
        child = os.pidfd_open(int(operator.stdout.readline()))
    operator.kill()
    assert operator.wait() == -signal.SIGKILL
    ended = select.poll()
    ended.register(child, select.POLLIN)
    try:
        assert ended.poll(10_000)
    finally:
        os.close(child)
