"""One compile child, from outside: started, bounded in time, and its end put into words."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from sluice.errors import ContentInvalid, EngineRefused, WorkflowInvalid
from sluice.reasons import Reason
from sluice.settings import MIB, Settings
from sluice.wasm.compiler import Request

# Rust's and glibc's last words when an allocation fails; the process aborts after them.
_OUT_OF_MEMORY = ("memory allocation of", "annot allocate memory", "MemoryError", "os error 12",
                  "bad_alloc", "failed to spawn", "os error 11")  # fmt: skip
_ANSWER_BYTES_MAX = MIB


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

    ``cancel`` may be called from any thread at any time, and more than once.
    """

    def __init__(self, source: Source, output: Path | None, settings: Settings) -> None:
        self._source, self._output, self._settings = source, output, settings
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False
        self._timed_out = False

    def run(self) -> dict[str, Any]:
        """Return the child's answer: ``compiler.Compiled`` plus peak_bytes and sandbox.

        Raises:
            ContentInvalid: the parts do not hold what the object says.
            WorkflowInvalid: the module cannot be compiled or run here, whatever its parts.
            EngineRefused: the child ended in a way that is not the module's fault.

        """
        directory = self._source.path.parent
        with tempfile.TemporaryFile(dir=directory) as out, tempfile.TemporaryFile(
            dir=directory
        ) as err:
            code = self._wait(out, err)
            answer, log = _tail(out), _tail(err)
        if code == 0:
            return self._judge(json.loads(answer))
        self._fail(code, log)

    def cancel(self) -> None:
        """Kill the child, or keep it from being started."""
        with self._lock:
            self._cancelled = True
            self._kill()

    def _wait(self, out: IO[bytes], err: IO[bytes]) -> int:
        timer = threading.Timer(self._settings.compile_wall_s_max, self._time_out)
        with self._lock:
            if self._cancelled:
                return -signal.SIGKILL
            self._process = process = self._spawn(out, err)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.communicate(json.dumps(asdict(self._request())).encode())
            return process.wait()
        finally:
            timer.cancel()

    def _spawn(self, out: IO[bytes], err: IO[bytes]) -> subprocess.Popen[bytes]:
        # -I: neither the environment nor the working directory can change what is imported.
        # One arena: the address space then follows what is used, so that its limit means it.
        return subprocess.Popen(
            [sys.executable, "-I", "-m", "sluice.wasm.compiler"],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            env={"MALLOC_ARENA_MAX": "1", "RUST_BACKTRACE": "0"},
            start_new_session=True,
        )

    def _request(self) -> Request:
        return Request(
            parent=os.getpid(),
            input=str(self._source.path),
            output=str(self._output or ""),
            encoding=self._source.encoding,
            digest=self._source.digest,
            size=self._source.size,
            address_space_bytes=self._settings.compile_memory_bytes_max,
            cpu_s=self._settings.compile_cpu_s_max,
        )

    def _time_out(self) -> None:
        with self._lock:
            self._timed_out = True
            self._kill()

    def _kill(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()

    def _judge(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "reason" not in answer:
            return answer
        reason = Reason(answer["reason"])
        if reason is Reason.COMPILE_OUT_OF_MEMORY:
            raise self._out_of_memory()
        if answer["content"]:
            raise ContentInvalid(reason, f"the parts {self._source.parts} {answer['message']}")
        raise WorkflowInvalid(
            reason, f"the module sha256:{self._source.digest[:12]} {answer['message']}"
        )

    def _fail(self, code: int, log: str) -> NoReturn:
        limits = self._settings
        if self._cancelled:
            raise EngineRefused(Reason.COMPILE_FAILED, "the compile was cancelled")
        if self._timed_out:
            raise EngineRefused(
                Reason.COMPILE_TIMED_OUT,
                f"the compile took longer than {limits.compile_wall_s_max} s "
                "(compile_wall_s_max); the machine may be overloaded",
            )
        if code == -signal.SIGXCPU:
            raise WorkflowInvalid(
                Reason.COMPILE_TIMED_OUT,
                f"compiling the module takes more than {limits.compile_cpu_s_max} s of CPU "
                "(compile_cpu_s_max)",
            )
        if any(words in log for words in _OUT_OF_MEMORY):
            raise self._out_of_memory()
        last = next((line for line in reversed(log.splitlines()) if line.strip()), "no output")
        raise EngineRefused(
            Reason.COMPILE_FAILED, f"the compile child ended with {_describe(code)}: {last[:300]}"
        )

    def _out_of_memory(self) -> WorkflowInvalid:
        cap = self._settings.compile_memory_bytes_max // MIB
        return WorkflowInvalid(
            Reason.COMPILE_OUT_OF_MEMORY,
            f"compiling the module asks for more than {cap} MiB of memory "
            "(compile_memory_bytes_max); make it smaller, or split its largest function",
        )


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _ANSWER_BYTES_MAX))
    return file.read().decode(errors="replace")


def _describe(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
