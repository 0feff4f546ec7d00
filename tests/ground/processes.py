"""What a ground is made of: processes that cannot be left behind, and ports nobody else takes."""

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_LEASH = Path(__file__).with_name("leash.py")
_POLL_S = 0.05
# Below the range the kernel takes source ports from: while a server is down, a client that
# connects from its port would keep it from coming back, or even reach itself.
_PORTS = range(16_000, 29_000)
_PORT_TRIES_MAX = 200


class GroundError(Exception):
    """The test ground could not be had; the text is for a person."""


class Leashed:
    """A process that ends when ``stop`` is called, or when this process ends in any way at all."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace_s: float = 10,
    ) -> None:
        self.name = name
        self.log = log
        self._grace_s = grace_s
        leash = [sys.executable, "-I", "-S", str(_LEASH), str(grace_s)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*leash, *map(str, command)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=env,
                cwd=cwd,
                start_new_session=True,  # Ctrl-C is ours to handle: there is an order to stop in
            )

    @property
    def pid(self) -> int:
        """The leash's; what it holds is its child."""
        return self._process.pid

    def wait(self, timeout_s: float) -> int | None:
        """Return its exit code, or None when it still runs after ``timeout_s``."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def wait_until(self, ready: Callable[[], bool], deadline_s: float) -> None:
        """Return once ``ready``; give up when it ended by itself or ``deadline_s`` passed."""
        give_up_at = time.monotonic() + deadline_s
        while not ready():
            if self._process.poll() is not None:
                raise GroundError(f"{self.name} ended by itself.\n{self.tail()}")
            if time.monotonic() > give_up_at:
                raise GroundError(f"{self.name} is not ready after {deadline_s} s.\n{self.tail()}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self.wait(self._grace_s + 5) is None:
            self._process.kill()
            self._process.wait()

    def running(self) -> bool:
        return self._process.poll() is None

    def tail(self, lines: int = 15) -> str:
        """Return where its log is and how it ends."""
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join([f"The end of {self.log}:", *text[-lines:]])


class Port:
    """A free TCP port of this machine, claimed from other grounds until ``release``.

    The claim is the UDP port of the same number: it takes nothing from the server that is to
    listen on TCP, it ends with this process, and it holds while that server is restarted.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        for _ in range(_PORT_TRIES_MAX):
            self.number = random.choice(_PORTS)
            self._claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                self._claim.bind((host, self.number))
                with socket.create_server((host, self.number)):
                    return
            except OSError:
                self._claim.close()
        raise GroundError(f"no free port on {host} in {_PORT_TRIES_MAX} tries")

    def release(self) -> None:
        self._claim.close()
