"""One workflow revision alive: its module, its limits, and a fresh store for each execution."""

import math
import time
from dataclasses import dataclass, replace

import wasmtime

from sluice.errors import EngineRefused
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.wasm.abi.wasi import Streams, current
from sluice.wasm.runtime import Module, Runtime
from sluice.wasm.ticker import TICK_S
from sluice.workflow import Limits, Workflow

# Last words of runtimes whose memory.grow was refused: wasmtime's C interface does not tell.
# (Go; Rust; wasi-libc's abort text of C++; AssemblyScript)
_OUT_OF_MEMORY_WORDS = (
    b"out of memory",
    b"cannot allocate memory",
    b"memory allocation of",
    b"bad_alloc",
)
_TABLE_ELEMENTS_MAX, _INSTANCES_MAX, _TABLES_MAX, _MEMORIES_MAX = 200_000, 1, 4, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What a guest is given for one run."""

    event: bytes
    env: tuple[tuple[str, str], ...] = ()


class Engine:
    """Runs one revision's executions; safe to be called from several threads at once.

    Threads that call ``run`` need stacks of at least 1 MiB: below it, a guest's deep recursion is
    a SIGSEGV of the process instead of a trap.
    """

    def __init__(self, runtime: Runtime, module: Module, workflow: Workflow, config: str) -> None:
        self._runtime, self._module = runtime, module
        self._limits: Limits = workflow.spec.limits
        self._argv = [workflow.key.name, *workflow.spec.args]
        self._env = [(e.name, e.value) for e in workflow.spec.env]
        if config:
            self._env.append(("SLUICE_CONFIG", config))
        self.module = module

    def run(self, execution: Execution) -> Outcome:
        """Run the guest once and say what became of it; blocks for at most the time limit.

        Raises:
            EngineRefused: the host failed, not the guest.

        """
        limits = self._limits
        started, cpu = time.monotonic(), time.thread_time()
        streams = Streams(
            memoryview(execution.event),
            limits.response_bytes,
            limits.log_bytes,
            started + limits.timeout_s,
        )
        with wasmtime.Store(self._runtime.engine) as store, self._runtime.ticker.running():
            self._prepare(store, execution)
            outcome = self._call(store, streams)
        return replace(
            outcome,
            result=bytes(streams.stdout),
            log=streams.log,
            duration_s=time.monotonic() - started,
            cpu_s=time.thread_time() - cpu,
        )

    def _prepare(self, store: wasmtime.Store, execution: Execution) -> None:
        limits = self._limits
        store.set_limits(
            memory_size=limits.memory_bytes,
            table_elements=_TABLE_ELEMENTS_MAX,
            instances=_INSTANCES_MAX,
            tables=_TABLES_MAX,
            memories=_MEMORIES_MAX,
        )
        # One more: the first tick may come at once.
        store.set_epoch_deadline(math.ceil(limits.timeout_s / TICK_S) + 1)
        wasi = wasmtime.WasiConfig()
        wasi.argv = self._argv
        wasi.env = [*self._env, *execution.env]
        store.set_wasi(wasi)

    def _call(self, store: wasmtime.Store, streams: Streams) -> Outcome:
        instance = None
        try:
            with current(streams):
                instance = self._module.pre.instantiate(store)
                instance.exports(store)["_start"](store)
            outcome = Outcome(OutcomeKind.COMPLETED, exit_code=0)
        except wasmtime.ExitTrap as e:
            kind = OutcomeKind.FAILED if e.code else OutcomeKind.COMPLETED
            outcome = Outcome(kind, f"exit code {e.code}" if e.code else "", exit_code=e.code)
        except wasmtime.Trap as e:
            outcome = self._trapped(e)
        except wasmtime.WasmtimeError as e:
            outcome = _not_instantiated(e)
        memory_bytes = _memory_bytes(store, instance)
        return self._judged(replace(outcome, memory_bytes=memory_bytes), streams)

    def _trapped(self, trap: wasmtime.Trap) -> Outcome:
        if trap.trap_code is wasmtime.TrapCode.INTERRUPT:
            return Outcome(
                OutcomeKind.TIMED_OUT, f"ran longer than limits.timeout {self._limits.timeout}"
            )
        return Outcome(OutcomeKind.TRAPPED, _first_line(trap.message))

    def _judged(self, outcome: Outcome, streams: Streams) -> Outcome:
        if streams.overflowed:
            return replace(
                outcome,
                kind=OutcomeKind.FAILED,
                message=f"wrote more than limits.response {self._limits.response} to stdout",
            )
        guilty = outcome.kind in {OutcomeKind.FAILED, OutcomeKind.TRAPPED}
        if guilty and self._ran_out_of_memory(outcome, streams.log):
            return replace(
                outcome,
                kind=OutcomeKind.OUT_OF_MEMORY,
                message=f"asked for more than limits.memory {self._limits.memory} "
                f"({outcome.message})",
            )
        return outcome

    def _ran_out_of_memory(self, outcome: Outcome, log: bytes) -> bool:
        # The last page or a sixteenth: allocators grow in steps, so a full memory has a margin.
        limit = self._limits.memory_bytes
        full = outcome.memory_bytes >= limit - max(limit // 16, 1 << 16)
        return full or any(words in log[-4096:].lower() for words in _OUT_OF_MEMORY_WORDS)


def _memory_bytes(store: wasmtime.Store, instance: wasmtime.Instance | None) -> int:
    memory = instance.exports(store).get("memory") if instance else None
    return memory.data_len(store) if isinstance(memory, wasmtime.Memory) else 0


def _not_instantiated(error: wasmtime.WasmtimeError) -> Outcome:
    message = _first_line(str(error))
    if "memory minimum size" in message or "memory limits" in message:
        return Outcome(OutcomeKind.OUT_OF_MEMORY, f"needs more than limits.memory: {message}")
    if "exceed" in message and "limit" in message:
        return Outcome(OutcomeKind.REFUSED, message)
    raise EngineRefused(Reason.ENGINE_REFUSED, f"the guest could not be started: {message}")


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # wasmtime ends its explanations with the cause, after a backtrace that only its authors read.
    causes = [line for line in lines if line.startswith("wasm trap:")]
    return (causes or lines or ["no message"])[0][:300]
