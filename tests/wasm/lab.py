"""One runtime in a directory of its own, and short ways to modules, engines and outcomes on it."""

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import wasmtime

from guests.build import guest
from sluice.outcome import Outcome
from sluice.settings import Settings
from sluice.wasm.compilation import Compilation, Source
from sluice.wasm.config import Tier
from sluice.wasm.engine import Engine, Execution
from sluice.wasm.runtime import Compiling, Module, Runtime
from sluice.workflow import Workflow

# What a program needs, for modules that are written by hand.
PROGRAM = '(memory (export "memory") 1) (func (export "_start"))'


def wat(text: str) -> bytes:
    """Return the wasm of a module written by hand, for shapes that no compiler makes."""
    return bytes(wasmtime.wat2wasm(f"(module {text})"))


def whole(text: str) -> bytes:
    """Return the wasm of a text that is a module already."""
    return bytes(wasmtime.wat2wasm(text))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Lab:
    runtime: Runtime
    tier: Tier = Tier.OPTIMIZING
    _modules: dict[str, Module] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return self.runtime.settings

    @classmethod
    def at(cls, directory: Path, **settings: Any) -> "Lab":
        return cls(Runtime(replace(Settings(), data_dir=directory / "data", **settings)))

    def on(self, tier: Tier) -> "Lab":
        """Return a lab whose modules are another tier's, on the same runtime."""
        return Lab(self.runtime, tier)

    def source(self, encoded: bytes, **claims: Any) -> Source:
        """Put a binary where an assembly would; ``claims`` say of it what is not so."""
        # Another name for each, as an assembly has: two compiles of one module must not meet.
        path = self.settings.work_dir / f"{sha256(encoded)[:16]}-{os.urandom(4).hex()}.part"
        path.write_bytes(encoded)
        said: dict[str, Any] = {"encoding": "none", "digest": sha256(encoded), "parts": "p"}
        return Source(path, **({"size": len(encoded)} | said | claims))

    def compilation(
        self, wasm: bytes, *, memory_bytes: int | None = None, **settings: Any
    ) -> Compilation:
        """Return the compile of ``wasm`` under other settings than the lab's, into no cache."""
        source = self.source(wasm)
        output = source.path.with_suffix(".out")
        output.write_bytes(b"")
        return Compilation(
            source, output, replace(self.settings, **settings), self.tier, memory_bytes
        )

    def compiling(self, wasm: bytes, **claims: Any) -> Compiling:
        """Return the compile of ``wasm`` into the cache; ``claims`` are as for ``source``."""
        return self.runtime.compilation(self.source(wasm, **claims), self.tier)

    def module(self, wasm: str | bytes) -> Module:
        """Return the module of a guest by its name, or of wasm, compiled at most once."""
        binary = guest(wasm) if isinstance(wasm, str) else wasm
        digest = sha256(binary)
        if digest not in self._modules:
            found = self.runtime.module(digest, self.tier)
            self._modules[digest] = found or self.compiling(binary).run()
        return self._modules[digest]

    def engine(self, wasm: str | bytes, *args: str, config: str = "", **spec: Any) -> Engine:
        """Return an engine; ``spec`` is merged into the Workflow's."""
        module = self.module(wasm)
        return Engine(self.runtime, module, workflow(module, list(args), spec), config)

    def run(self, wasm: str | bytes, *args: str, event: bytes = b"{}", **spec: Any) -> Outcome:
        return self.engine(wasm, *args, **spec).run(Execution(event=event))

    def act(self, *args: object, **limits: object) -> Outcome:
        """Let the guest of many acts do one of them."""
        return self.run("acts", *map(str, args), limits=limits)


def workflow(module: Module, args: list[str], spec: dict[str, Any]) -> Workflow:
    place = {"digest": f"sha256:{module.entry.digest}", "size": 1, "configMaps": [{"name": "p"}]}
    body = {
        "metadata": {"name": "flow", "namespace": "test"},
        "spec": {"module": place, "args": args} | spec,
    }
    return Workflow.parse(body, Settings())
