"""Executions on real engines that can be held, on a journal in memory or on disk."""

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import wasmtime

from fakes import workflow
from sluice.event import Event
from sluice.executions import Executions
from sluice.executions.acceptance import Accepted
from sluice.executions.journal import Journal
from sluice.metrics import Metrics
from sluice.outcome import Outcome, OutcomeKind
from sluice.settings import Settings
from sluice.snapshot import Run
from sluice.wasm.engine import Cancel, Engine, Execution
from sluice.wasm.runtime import Module, Runtime
from sluice.workflow import Workflow, WorkflowKey

A, B, C = WorkflowKey("team", "a"), WorkflowKey("team", "b"), WorkflowKey("other", "c")
# Writes its event back to stdout: a read of 4 KiB, and a write of as many bytes as there were.
ECHO = bytes(
    wasmtime.wat2wasm("""(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.const 4096))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))""")
)


def event(data: Any = None, **more: Any) -> Event:
    return Event(**{"kind": "manual", "trigger": "now", "data": data} | more)


def of(key: WorkflowKey, **spec: Any) -> Workflow:
    return workflow(ECHO, name=key.name, namespace=key.namespace, **spec)


class HeldEngine(Engine):
    """A real engine whose executions can be held before the guest runs, and made to fail.

    What is held ends where it is cancelled, as a guest does.
    """

    def __init__(self, runtime: Runtime, module: Module, workflow: Workflow) -> None:
        super().__init__(runtime, module, workflow, "")
        self.name = workflow.key.name
        self.fault: Exception | None = None
        self.outcomes: list[Outcome] = []  # of the next executions, in the place of the guest's own
        self.begun: list[str] = []
        self.running = self.running_max = 0
        self._held = False
        self._gate = threading.Event()
        self._tally = threading.Lock()

    def hold(self) -> "HeldEngine":
        self._held = True
        return self

    def let_go(self) -> None:
        """End what is held, and hold nothing any more."""
        self._held = False
        self._gate.set()

    def run(self, execution: Execution, cancel: Cancel | None = None) -> Outcome:
        with self._tally:
            self.running += 1
            self.running_max = max(self.running, self.running_max)
            self.begun.append(f"{self.name}{len(self.begun)}")
        try:
            while self._held and not self._gate.wait(0.001):
                if cancel and cancel.why:
                    return Outcome(*cancel.why)
            if self.fault:
                raise self.fault
            if self.outcomes:
                return self.outcomes.pop(0)
            return super().run(execution, cancel)
        finally:
            with self._tally:
                self.running -= 1


class Ground:
    """One process' executions: all that it told, and the engines that it was given."""

    def __init__(
        self, runtime: Runtime, module: Module, path: Path | None = None, **bounds: Any
    ) -> None:
        self.runtime, self.module, self.path = runtime, module, path
        self.metrics, self.told = Metrics(), list[tuple[WorkflowKey, Run]]()
        self.engines: list[HeldEngine] = []
        defaults = {
            "workers": 1, "workers_spare": 0, "namespace_running_max": 9, "running_max": 5,
            "queue_max": 50,
        }  # fmt: skip
        self.settings = Settings(data_dir=runtime.settings.data_dir, **(defaults | bounds))
        self.journal = Journal(path, self.settings, self.metrics)
        self.executions = Executions(
            self.journal, self.settings, self.metrics,
            lambda key, run: self.told.append((key, run)),
        )  # fmt: skip

    def engine(self, key: WorkflowKey, **spec: Any) -> HeldEngine:
        self.engines.append(HeldEngine(self.runtime, self.module, of(key, **spec)))
        return self.engines[-1]

    def serve(self, key: WorkflowKey, *, hold: bool = False, **spec: Any) -> HeldEngine:
        engine = self.engine(key, **spec)
        if hold:
            engine.hold()
        self.executions.attach(of(key, **spec), engine)
        return engine

    async def accept(self, key: WorkflowKey, data: Any = None, **more: Any) -> Accepted:
        return await self.executions.accept(key, event(data, **more))

    async def submit(self, key: WorkflowKey, count: int = 1) -> list[asyncio.Future[Run]]:
        """Hand in so many events, one after the other, and return their ends to wait for."""
        ends = []
        for _ in range(count):
            accepted = await self.accept(key)
            assert accepted.finished is not None
            ends.append(accepted.finished)
        return ends

    async def run(self, key: WorkflowKey, data: Any = None, **more: Any) -> Run:
        accepted = await self.accept(key, data, **more)
        assert accepted.finished is not None
        return await accepted.finished

    def kinds(self) -> list[OutcomeKind]:
        return [run.outcome.kind for _, run in self.told]

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0

    async def close(self) -> None:
        """End as at SIGTERM, without a grace."""
        for engine in self.engines:
            engine.let_go()
        await self.executions.drain()
        await self.executions.close()

    async def dies(self) -> Path:
        """Return a copy of the disk as SIGKILL would leave it now; this process goes on."""
        assert self.path is not None
        await self.journal.do(lambda tables: tables.trim())  # whatever was asked for before it
        copy = self.path.with_name(f"{len(list(self.path.parent.iterdir()))}.db")
        for suffix in ("", "-wal"):
            shutil.copy(f"{self.path}{suffix}", f"{copy}{suffix}")
        return copy
