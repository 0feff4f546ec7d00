"""One revision of a WASI command alive: its limits, and a fresh store for each execution."""

import time
from dataclasses import dataclass, replace

from sluice.errors import EngineRefused
from sluice.outcome import Outcome, OutcomeKind
from sluice.reasons import Reason
from sluice.wasm import verdict
from sluice.wasm.abi.wasi import Streams, current
from sluice.wasm.interrupt import Cancel, Leash
from sluice.wasm.lending import Lending
from sluice.wasm.runtime import Module, Runtime
from sluice.wasm.store import End, Store, Told
from sluice.workflow import Workflow

__all__ = ["Cancel", "Engine", "Execution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What a guest is given for one run."""

    event: bytes
    env: tuple[tuple[str, str], ...] = ()


class Engine(Lending):
    """Runs one revision's executions; safe to be called from several threads at once.

    Threads that call ``run`` need stacks of at least 1 MiB: below it, a guest's deep recursion is
    a SIGSEGV of the process instead of a trap.
    """

    def __init__(self, runtime: Runtime, module: Module, workflow: Workflow, config: str) -> None:
        super().__init__(module)
        self._runtime = runtime
        self._limits = limits = workflow.spec.limits
        # Parsed once: they are texts in the spec.
        self._bounds = verdict.bounds(limits)
        self._judge = verdict.Judge(limits, limits.memory_bytes)
        self._stream_bounds = (
            limits.response_bytes,
            limits.log_bytes,
            runtime.settings.log_lines_max,
        )
        env = [(e.name, e.value) for e in workflow.spec.env]
        if config:
            env.append(("SLUICE_CONFIG", config))
        self._told = Told([workflow.key.name, *workflow.spec.args], env)

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
            self.lent() as module,
            self._runtime.ticker.running(),
            Store(module.engine) as store,
            current(streams),  # before the instance: a start function may write already
        ):
            self._prepare(store, execution)
            end = store.run(module.pre, leash)
            memory_bytes = store.memory_bytes()
        outcome = self._outcome(end, streams, memory_bytes)
        return replace(
            outcome,
            result=bytes(streams.stdout),
            log=streams.log,
            duration_s=time.monotonic() - started,
            cpu_s=time.thread_time() - cpu,
            memory_bytes=memory_bytes,
        )

    def _prepare(self, store: Store, execution: Execution) -> None:
        store.limit(self._judge.memory_bytes)
        store.tell(self._told.and_env(execution.env))

    def _outcome(self, end: End | None, streams: Streams, memory_bytes: int) -> Outcome:
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
            outcome = Outcome(kind, f"exit code {code}" if code else "", exit_code=code)
            return self._judge.named(outcome, memory_bytes, streams.log)
        if streams.leash.why:
            return Outcome(*streams.leash.why)
        return self._judge.named(self._judge.failure(str(end)), memory_bytes, streams.log)
