"""What an unprivileged process can still do to itself before it touches untrusted bytes.

Limits, no new privileges, death with its parent, no further descriptor, and Landlock (Linux 5.13
and later): once ``lock`` has returned, nothing can be opened and no socket made, and no file can
be changed by its name; only the descriptors that are open by then remain. What a kernel lacks is
left out, and ``lock`` says what it reached, so that a log can tell.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 1, 38, 4
# System call numbers from asm-generic/unistd.h, shared by x86-64, arm64 and every later port.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_QUERY_VERSION = 1
# Rights by the version of the interface that brought them (linux/landlock.h).
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_RIGHTS, _SCOPES = 0b11, 0b11


def limit(data_bytes: int, address_space_bytes: int, cpu_s: int, file_bytes: int) -> None:
    """Bound this process; a violation is a clean abort, or SIGXCPU, or EFBIG.

    ``data_bytes``, of private writable memory (setrlimit(2), Linux 4.7 and later), follows what is
    used. The address space also counts what is only reserved, so its bound is a wider one behind
    it, for a kernel that knows the old meaning of the first.
    """
    for kind, value in (
        (resource.RLIMIT_DATA, data_bytes),
        (resource.RLIMIT_AS, address_space_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        bound = _at_most_hard(kind, value)
        resource.setrlimit(kind, (bound, bound))
    # The hard limit one second later: SIGXCPU first, which names the reason, then SIGKILL.
    bound = _at_most_hard(resource.RLIMIT_CPU, cpu_s + 1)
    resource.setrlimit(resource.RLIMIT_CPU, (min(cpu_s, bound), bound))


def _at_most_hard(kind: int, value: int) -> int:
    _, hard = resource.getrlimit(kind)
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def die_with_parent(parent: int) -> None:
    """Be killed when the operator is: a compile must not outlive the one that bounds it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def close_others(keep: set[int]) -> None:
    """Close every descriptor but the standard three and ``keep``."""
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - no pathlib in the child
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):  # the listing's own is closed already
                os.close(fd)


def lock() -> list[str]:
    """Give up privileges, files and sockets for good; return the names of what took hold."""
    held = []
    if _prctl(_PR_SET_NO_NEW_PRIVS, 1) == 0:
        held.append("no_new_privs")
    _prctl(_PR_SET_DUMPABLE, 0)
    if (version := _landlock()) > 0:
        held.append(f"landlock-{version}")
    # Last, because Landlock itself is a descriptor. What is open stays open; nothing can be added:
    # no file, no socket of any family, where Landlock knows only TCP.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    held.append("no_new_descriptors")
    return held


def _landlock() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    version = int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _QUERY_VERSION))
    if version < 1:
        return 0
    files = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    network = _NETWORK_RIGHTS if version >= 4 else 0
    scopes = _SCOPES if version >= 6 else 0
    attributes = struct.pack("QQQ", files, network, scopes)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return 0
    # Not one rule is added: what is handled and not allowed is refused.
    try:
        return version if libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)


def _prctl(option: int, value: int) -> int:
    return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0))
