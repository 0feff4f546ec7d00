"""One compile child, from outside: started, bounded in time, and its end put into words."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from sluice.errors import (
    BaselineRefused,
    ContentInvalid,
    EngineRefused,
    HeadroomExceeded,
    SluiceError,
    WorkflowInvalid,
)
from sluice.reasons import Reason
from sluice.settings import MIB, Settings
from sluice.wasm.compiler import OUT_OF_MEMORY_WORDS, Request
from sluice.wasm.config import Tier

_ABORTS = {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGTRAP}
_ANSWER_BYTES_MAX = MIB
_MESSAGE_CHARS_MAX = 1000  # a condition's message has room for 32,768, and names may be long
_SAMPLE_MS = 10
# Below this not even an empty module compiles: the interpreter, the compiler and its threads.
CHILD_BYTES_MIN = 40 * MIB
# More of them hardly help one module, and each takes its stack and its share of the memory limit:
# whether a module compiles must not depend on how many cores a node has.
_COMPILE_THREADS_MAX = 4


@dataclass(frozen=True, slots=True)
class Source:
    """An assembled binary on disk, and what it must turn out to be."""

    path: Path
    encoding: str
    digest: str
    size: int
    parts: str  # their names, for messages


class Compilation:
    """A compile, or a verification alone where ``output`` is None; ``run`` blocks.

    ``memory_bytes`` bounds its child below compile_memory_bytes_max, where there is no room for
    that just now. ``cancel`` may be called from any thread at any time, and more than once.
    """

    def __init__(
        self,
        source: Source,
        output: Path | None,
        settings: Settings,
        tier: Tier = Tier.OPTIMIZING,
        memory_bytes: int | None = None,
    ) -> None:
        self._source, self._output, self._settings, self._tier = source, output, settings, tier
        full = settings.compile_memory_bytes_max
        self._memory_bytes = full if memory_bytes is None else min(full, memory_bytes)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False
        self._timed_out = False
        self._peak_bytes = 0

    def run(self) -> dict[str, Any]:
        """Return the child's answer: ``compiler.Compiled`` plus peak_bytes and sandbox.

        Raises:
            ContentInvalid: the parts do not hold what the object says.
            WorkflowInvalid: the module cannot be compiled or run here, whatever its parts.
            BaselineRefused: the baseline compiler cannot have it; the other one may.
            HeadroomExceeded: it asks for more than ``memory_bytes``, and might have more later.
            EngineRefused: the child ended in a way that is not the module's fault.

        """
        directory = self._source.path.parent
        with (
            tempfile.TemporaryFile(dir=directory) as out,
            tempfile.TemporaryFile(dir=directory) as err,
        ):
            code = self._wait(out, err)
            answer, log = _tail(out), _tail(err)
        if code == 0 and (told := _parsed(answer)):
            return self._with_peak(self._judge(told))
        raise self._failure(code, log)

    def cancel(self) -> None:
        """Kill the child, or keep it from being started."""
        with self._lock:
            self._cancelled = True
            self._kill()

    def _wait(self, out: IO[bytes], err: IO[bytes]) -> int:
        with self._lock:
            if self._cancelled:
                return -signal.SIGKILL
            self._process = process = self._spawn(out, err)
        deadline = time.monotonic() + self._settings.compile_wall_s_max
        # It fits into the pipe, so this neither blocks nor needs a thread.
        with contextlib.suppress(BrokenPipeError), cast("IO[bytes]", process.stdin) as stdin:
            stdin.write(json.dumps(asdict(self._request())).encode())
        # Popen.wait with a timeout looks every 50 ms; a descriptor tells at once.
        descriptor, ended = os.pidfd_open(process.pid), select.poll()
        ended.register(descriptor, select.POLLIN)
        try:
            while not ended.poll(_SAMPLE_MS):
                self._peak_bytes = max(self._peak_bytes, _data_bytes(process.pid))
                if time.monotonic() > deadline:
                    self._time_out()
        finally:
            os.close(descriptor)
        return process.wait()

    def _spawn(self, out: IO[bytes], err: IO[bytes]) -> subprocess.Popen[bytes]:
        # -I: neither the environment nor the working directory can change what is imported.
        # Two arenas: with one, the compiler's threads wait for each other, 10 to 17 % of the wall;
        # a third saves nothing and costs memory.
        threads = min(_COMPILE_THREADS_MAX, len(os.sched_getaffinity(0)))
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-m", "sluice.wasm.compiler"],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env={
                    "MALLOC_ARENA_MAX": "2",
                    "RAYON_NUM_THREADS": str(threads),
                    "RUST_BACKTRACE": "0",
                },
                start_new_session=True,
            )
        except OSError as e:
            raise EngineRefused(
                Reason.COMPILE_FAILED, f"no compile child could be started: {e.strerror}"
            ) from None

    def _request(self) -> Request:
        return Request(
            parent=os.getpid(),
            input=str(self._source.path),
            output=str(self._output or ""),
            encoding=self._source.encoding,
            digest=self._source.digest,
            size=self._source.size,
            memory_bytes=self._memory_bytes,
            cpu_s=self._settings.compile_cpu_s_max,
            tier=self._tier,
        )

    def _time_out(self) -> None:
        with self._lock:
            self._timed_out = True
            self._kill()

    def _kill(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()

    def _judge(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "unsupported" in answer:
            raise self._unsupported(answer["unsupported"])
        if "reason" not in answer:
            return answer
        reason = Reason(answer["reason"])
        if reason is Reason.COMPILE_OUT_OF_MEMORY:
            raise self._out_of_memory()
        message = answer["message"][:_MESSAGE_CHARS_MAX]
        if answer["content"]:
            raise ContentInvalid(reason, f"the parts {self._source.parts} {message}")
        raise WorkflowInvalid(reason, f"the module sha256:{self._source.digest[:12]} {message}")

    def _with_peak(self, answer: dict[str, Any]) -> dict[str, Any]:
        # Some compilers' arrays grow by doubling: held, and against the limit, but never touched.
        return answer | {"peak_bytes": max(answer["peak_bytes"], self._peak_bytes)}

    def _failure(self, code: int, log: str) -> SluiceError:
        if self._cancelled:
            return EngineRefused(Reason.COMPILE_FAILED, "the compile was cancelled")
        if self._timed_out:
            return EngineRefused(
                Reason.COMPILE_TIMED_OUT,
                f"the compile took longer than {self._settings.compile_wall_s_max} s "
                "(compile_wall_s_max); the machine may be overloaded",
            )
        if code == -signal.SIGXCPU:
            return self._over_cpu_time()
        if self._ran_out_of_memory(code, log):
            return self._out_of_memory()
        return self._death(code, log)

    def _death(self, code: int, log: str) -> SluiceError:
        if code == -signal.SIGKILL:
            return EngineRefused(
                Reason.COMPILE_FAILED,
                "the compile child was killed from outside (SIGKILL), most likely because the pod "
                "or the node was short of memory",
            )
        if code < 0 and self._tier is Tier.BASELINE:
            return self._unsupported(f"its compiler died of {_describe(code)}")
        last = next((line for line in reversed(log.splitlines()) if line.strip()), "no output")
        return EngineRefused(
            Reason.COMPILE_FAILED, f"the compile child ended with {_describe(code)}: {last[:300]}"
        )

    def _ran_out_of_memory(self, code: int, log: str) -> bool:
        """Say whether the limit ended the child: by its words, or by how much it had taken.

        Words alone would miss the ones that nobody has seen yet. Half of the limit is enough to
        tell: what grows by doubling asks at its last step for as much as it has.
        """
        full = self._peak_bytes * 2 > self._memory_bytes
        return any(words in log for words in OUT_OF_MEMORY_WORDS) or (code in _ABORTS and full)

    def _over_cpu_time(self) -> SluiceError:
        words = (
            f"compiling the module takes more than {self._settings.compile_cpu_s_max} s of CPU "
            "(compile_cpu_s_max)"
        )
        if self._tier is Tier.BASELINE:
            return self._unsupported(words)
        return WorkflowInvalid(Reason.COMPILE_TIMED_OUT, words)

    def _unsupported(self, words: str) -> BaselineRefused:
        return BaselineRefused(
            f"the baseline tier cannot have the module sha256:{self._source.digest[:12]}: "
            + words[:_MESSAGE_CHARS_MAX]
        )

    def _out_of_memory(self) -> SluiceError:
        cap = self._memory_bytes // MIB
        if self._memory_bytes < self._settings.compile_memory_bytes_max:
            return HeadroomExceeded(
                f"compiling the module asks for more than the {cap} MiB that the pod had left "
                "for it; it is tried again when there is more",
                self._memory_bytes,
            )
        return WorkflowInvalid(
            Reason.COMPILE_OUT_OF_MEMORY,
            f"compiling the module asks for more than {cap} MiB of memory "
            "(compile_memory_bytes_max); make it smaller, or split its largest function",
        )


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _ANSWER_BYTES_MAX))
    return file.read().decode(errors="replace")


def _parsed(answer: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        told = json.loads(answer)
        return told if isinstance(told, dict) else None
    return None


def _data_bytes(pid: int) -> int:
    # Of a process that has just ended nothing is told any more; the samples before it count.
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/status").open() as status:
        for line in status:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def _describe(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
