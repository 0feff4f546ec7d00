"""A supply whose compiles are real, and can be held at their start."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from fakes import MemorySource
from sluice.metrics import Metrics
from sluice.settings import Settings
from sluice.supply import Supplied, Supply
from sluice.wasm.compilation import Source
from sluice.wasm.config import Tier
from sluice.wasm.runtime import Compiling, Module, Runtime
from sluice.workflow import Workflow

COMMAND = '(module (memory (export "memory") 1) (func (export "_start"){}))'
HELLO = bytes(wasmtime.wat2wasm(COMMAND.format("")))
OTHER = bytes(wasmtime.wat2wasm(COMMAND.format(" nop")))
FOREIGN = bytes(wasmtime.wat2wasm(
    '(module (import "env" "x" (func)) (memory (export "memory") 1) (func (export "_start")))'
))  # fmt: skip


class GatedRuntime(Runtime):
    """A real runtime whose compiles can be held at their start, and are counted."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.gate = threading.Event()
        self.gate.set()
        self.jobs: list[_GatedCompiling] = []
        self.caps: list[int | None] = []
        self.running = self.running_max = 0

    def compilation(self, source: Source, tier: Tier, memory_bytes: int | None = None) -> Compiling:
        self.caps.append(memory_bytes)
        self.jobs.append(_GatedCompiling(self, source, tier, memory_bytes))
        return self.jobs[-1]


class _GatedCompiling(Compiling):
    def __init__(
        self, runtime: GatedRuntime, source: Source, tier: Tier, memory_bytes: int | None
    ) -> None:
        super().__init__(runtime, source, tier, memory_bytes)
        self._gated = runtime

    def run(self) -> Module:
        self._gated.running += 1
        self._gated.running_max = max(self._gated.running, self._gated.running_max)
        try:
            assert self._gated.gate.wait(20)
            return super().run()
        finally:
            self._gated.running -= 1


class Ground:
    """A supply of real modules from ConfigMaps in memory."""

    def __init__(self, runtime: GatedRuntime) -> None:
        self.runtime, self.source, self.metrics = runtime, MemorySource(), Metrics()
        self.supply = Supply(self.source, runtime, runtime.settings, self.metrics)
        self.put("parts", HELLO)

    def put(self, name: str, payload: bytes | str, key: str = "part") -> str:
        return self.source.put("team", name, {key: payload})

    def ask(self, wanted: Workflow, *how: Any) -> asyncio.Task[Supplied]:
        return asyncio.create_task(self.supply.module(wanted, *how))

    def compiles(self, result: str, tier: Tier = Tier.OPTIMIZING) -> float:
        return self.count("compiles", result=result, tier=tier)

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"sluice_{name}_total", labels) or 0

    def left(self) -> list[Path]:
        return list(self.runtime.settings.work_dir.iterdir())

    def whole(self) -> int:
        """Count the binaries that are assembled: their bytes show when the file is closed."""
        return sum(path.stat().st_size > 0 for path in self.left())


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
