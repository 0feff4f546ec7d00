"""Runs one command that must not outlive whoever holds the other end of standard input.

A signal on the parent's death alone would not do: the kernel sends it when the *thread* that
forked ends, and a test may well start things from a thread of a pool. A pipe knows only processes.

Usage: leash.py GRACE_S COMMAND [ARGUMENT…]. End of input means: ask it to end, then make it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def main(grace_s: float, command: list[str]) -> int:
    """Return the command's exit code, 128 + n where signal n ended it."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_the_leash,  # noqa: PLW1509 - this process has no second thread yet
    )
    threading.Thread(target=_end_when_let_go, args=(child, grace_s), daemon=True).start()
    code = child.wait()
    _signal_group(child, signal.SIGKILL)  # what it left behind in its session
    return code if code >= 0 else 128 - code


def _die_with_the_leash() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_when_let_go(child: subprocess.Popen[bytes], grace_s: float) -> None:
    while os.read(0, 4096):
        pass
    _signal_group(child, signal.SIGTERM)
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        _signal_group(child, signal.SIGKILL)


def _signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
