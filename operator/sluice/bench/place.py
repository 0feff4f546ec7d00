"""A runtime in a directory of its own, and engines of guests that are written as text."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmtime

from sluice.settings import Settings
from sluice.wasm.compilation import Source
from sluice.wasm.config import Tier
from sluice.wasm.engine import Engine
from sluice.wasm.runtime import Module, Runtime
from sluice.workflow import Workflow


class Place:
    """Each guest is compiled once, as the operator compiles it."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.settings = Settings(data_dir=directory, **settings)
        self.runtime = Runtime(self.settings)
        self._modules: dict[str, Module] = {}

    def close(self) -> None:
        self._modules.clear()
        self.runtime.close()

    def module(self, wat: str) -> Module:
        if wat not in self._modules:
            wasm = bytes(wasmtime.wat2wasm(wat))
            digest = hashlib.sha256(wasm).hexdigest()
            found = self.runtime.module(digest, Tier.OPTIMIZING)
            self._modules[wat] = found or self._compiled(wasm, digest)
        return self._modules[wat]

    def _compiled(self, wasm: bytes, digest: str) -> Module:
        path = self.settings.work_dir / f"{digest[:16]}-{os.getpid()}.part"
        path.write_bytes(wasm)
        source = Source(path, "none", digest, len(wasm), "a guest of the bench")
        try:
            return self.runtime.compilation(source, Tier.OPTIMIZING).run()
        finally:
            path.unlink(missing_ok=True)

    def workflow(self, wat: str, name: str, namespace: str, **spec: Any) -> Workflow:
        digest = self.module(wat).entry.digest
        body = {
            "metadata": {"name": name, "namespace": namespace, "uid": f"{namespace}/{name}"},
            "spec": {
                "module": {
                    "digest": f"sha256:{digest}",
                    "size": 1,
                    "configMaps": [{"name": "part"}],
                }
            }
            | spec,
        }
        return Workflow.parse(body, self.settings)

    def engine(
        self, wat: str, name: str = "guest", namespace: str = "bench", **spec: Any
    ) -> Engine:
        workflow = self.workflow(wat, name, namespace, **spec)
        return Engine(self.runtime, self.module(wat), workflow, config="")

    def bare(self, wat: str) -> Callable[[], None]:
        """Return a run of a guest as the binding's own examples have it, without any of ours."""
        module = self.module(wat)

        def once() -> None:
            store = wasmtime.Store(module.engine)
            store.set_epoch_deadline(1 << 40)
            exports = module.pre.instantiate(store).exports(store)
            start = exports["_start"]
            assert isinstance(start, wasmtime.Func)
            start(store)
            store.close()

        return once
