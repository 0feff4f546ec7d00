"""One workflow revision alive: its module, its limits, and a fresh store for each execution."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sluice.errors import EngineRefused
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.wasm.abi.wasi import Streams, current
from sluice.wasm.cache import Entry
from sluice.wasm.interrupt import Bounds, Cancel, Leash, Why
from sluice.wasm.runtime import Module, Runtime
from sluice.wasm.store import End, Store, Told
from sluice.workflow import Limits, Workflow

__all__ = ["Cancel", "Engine", "Execution"]

# Last words of runtimes whose memory.grow was refused: wasmtime's C interface does not tell.
# (Go; Rust; wasi-libc's abort text of C++; AssemblyScript)
_OUT_OF_MEMORY_WORDS = (
    b"out of memory",
    b"cannot allocate memory",
    b"memory allocation of",
    b"bad_alloc",
)
# What wasmtime says where a store's limits refuse a module at its start.
_LIMIT_WORDS = ("table limits", "resource limit exceeded")
_TABLE_ELEMENTS_MAX, _INSTANCES_MAX, _TABLES_MAX, _MEMORIES_MAX = 200_000, 1, 4, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What a guest is given for one run."""

    event: bytes
    env: tuple[tuple[str, str], ...] = ()


class Engine:
    """Runs one revision's executions; safe to be called from several threads at once.

    Its module can be taken away while nothing runs, and given back, and exchanged for that of
    another tier at any time: each execution ends on the code it began on.

    Threads that call ``run`` need stacks of at least 1 MiB: below it, a guest's deep recursion is
    a SIGSEGV of the process instead of a trap.
    """

    def __init__(self, runtime: Runtime, module: Module, workflow: Workflow, config: str) -> None:
        self._runtime = runtime
        self._module: Module | None = module
        self._entry = module.entry
        self._running = 0
        self._lock = threading.Lock()
        self._limits: Limits = workflow.spec.limits
        # Parsed once: they are texts in the spec.
        self._bounds = _bounds(self._limits)
        self._memory_bytes = self._limits.memory_bytes
        self._stream_bounds = (
            self._limits.response_bytes,
            self._limits.log_bytes,
            runtime.settings.log_lines_max,
        )
        env = [(e.name, e.value) for e in workflow.spec.env]
        if config:
            env.append(("SLUICE_CONFIG", config))
        self._told = Told([workflow.key.name, *workflow.spec.args], env)

    @property
    def entry(self) -> Entry:
        """What is known of the code that serves, or that served last; there is always one."""
        return self._entry

    @property
    def mapped(self) -> bool:
        return self._module is not None

    @property
    def module(self) -> Module:
        """The module that the next execution will run on.

        Raises:
            EngineRefused: it is unmapped.

        """
        if module := self._module:
            return module
        raise EngineRefused(
            Reason.ENGINE_REFUSED, f"the module sha256:{self._entry.digest[:12]} is not mapped"
        )

    def unmap(self) -> bool:
        """Let go of the module, and return True; False while an execution runs on it."""
        with self._lock:
            if self._running:
                return False
            self._module = None
            return True

    def map(self, module: Module) -> None:
        """Run what comes from now on ``module``, which is the same revision's, of any tier."""
        assert module.entry.digest == self._entry.digest, "another module is another engine"
        with self._lock:
            self._module, self._entry = module, module.entry

    @contextmanager
    def _lent(self) -> Iterator[Module]:
        """Yield the module, which stays mapped until the block is left."""
        with self._lock:
            module = self.module
            self._running += 1
        try:
            yield module
        finally:
            with self._lock:
                self._running -= 1

    def run(self, execution: Execution, cancel: Cancel | None = None) -> Outcome:
        """Run the guest once and say what became of it; blocks for at most the time limit.

        ``cancel`` ends it sooner: at the next tick, and before it begins if it came before.

        Raises:
            EngineRefused: the host failed, not the guest; or no module is mapped.

        """
        started, cpu = time.monotonic(), time.thread_time()
        leash = Leash(self._bounds, cancel or Cancel())
        if leash.over() and leash.why:
            return Outcome(*leash.why)
        streams = Streams(memoryview(execution.event), *self._stream_bounds, leash)
        with (
            self._lent() as module,
            self._runtime.ticker.running(),
            Store(module.engine) as store,
            current(streams),  # before the instance: a start function may write already
        ):
            self._prepare(store, execution)
            end = store.run(module.pre, leash)
            memory_bytes = store.memory_bytes()
        outcome = self._named(self._outcome(end, streams), memory_bytes, streams)
        return replace(
            outcome,
            result=bytes(streams.stdout),
            log=streams.log,
            duration_s=time.monotonic() - started,
            cpu_s=time.thread_time() - cpu,
            memory_bytes=memory_bytes,
        )

    def _prepare(self, store: Store, execution: Execution) -> None:
        store.limit(
            memory=self._memory_bytes,
            table_elements=_TABLE_ELEMENTS_MAX,
            instances=_INSTANCES_MAX,
            tables=_TABLES_MAX,
            memories=_MEMORIES_MAX,
        )
        store.tell(self._told.and_env(execution.env))

    def _outcome(self, end: End | None, streams: Streams) -> Outcome:
        """Judge in the order in which one explains the other: how it ended may be our own doing."""
        if streams.host_error:
            raise EngineRefused(
                Reason.ENGINE_REFUSED, f"the host failed the guest: {streams.host_error!r}"
            ) from streams.host_error
        if streams.overflowed:
            return Outcome(
                OutcomeKind.FAILED,
                f"wrote more than limits.response {self._limits.response} to stdout",
            )
        code = streams.exit_code
        if code is None and end is None:
            code = 0
        if code is not None:
            kind = OutcomeKind.FAILED if code else OutcomeKind.COMPLETED
            return Outcome(kind, f"exit code {code}" if code else "", exit_code=code)
        if streams.leash.why:
            return Outcome(*streams.leash.why)
        return self._failure(str(end))

    def _failure(self, text: str) -> Outcome:
        cause = _cause(text)
        if "memory limits" in cause or "GC heap out of memory" in cause:
            return self._out_of_memory(Outcome(OutcomeKind.TRAPPED, cause))
        if any(words in cause for words in _LIMIT_WORDS):
            return Outcome(OutcomeKind.REFUSED, cause)
        if "wasm trap:" in text or "wasm backtrace:" in text:
            return Outcome(OutcomeKind.TRAPPED, cause)
        raise EngineRefused(Reason.ENGINE_REFUSED, f"the guest could not be started: {cause}")

    def _named(self, outcome: Outcome, memory_bytes: int, streams: Streams) -> Outcome:
        """Call a failure by its name where the guest's memory was full, or it said so."""
        guilty = outcome.kind in {OutcomeKind.FAILED, OutcomeKind.TRAPPED}
        if not guilty or streams.overflowed:
            return outcome
        # The last page or a sixteenth: allocators grow in steps, so a full memory has a margin.
        limit = self._memory_bytes
        full = memory_bytes >= limit - max(limit // 16, 1 << 16)
        said = streams.log[-4096:].lower()
        if full or any(words in said for words in _OUT_OF_MEMORY_WORDS):
            return self._out_of_memory(outcome)
        return outcome

    def _out_of_memory(self, outcome: Outcome) -> Outcome:
        return replace(
            outcome,
            kind=OutcomeKind.OUT_OF_MEMORY,
            message=f"asked for more than limits.memory {self._limits.memory} ({outcome.message})",
        )


def _bounds(limits: Limits) -> Bounds:
    timed_out = Why(OutcomeKind.TIMED_OUT, f"ran longer than limits.timeout {limits.timeout}")
    if limits.cpu_s is None:
        return Bounds(limits.timeout_s, timed_out)
    used = Why(OutcomeKind.TIMED_OUT, f"used more than limits.cpu {limits.cpu} of CPU")
    return Bounds(limits.timeout_s, timed_out, limits.cpu_s, used)


def _cause(text: str) -> str:
    """Return the one line that says why: wasmtime puts it behind a backtrace."""
    numbered = (re.sub(r"^\s*(\d+: )?", "", line).strip() for line in text.splitlines())
    lines = [line for line in numbered if line]
    traps = [line for line in lines if line.startswith("wasm trap:")]
    after = lines[lines.index("Caused by:") + 1 :] if "Caused by:" in lines else []
    return "; ".join(traps[:1] or after or lines[:1] or ["no message"])[:300]
