import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from executions.held import ECHO, Ground
from fakes import MemorySource, workflow
from sluice.metrics import Metrics
from sluice.settings import Settings
from sluice.supply import Supply
from sluice.wasm.runtime import Module, Runtime

Compiled = tuple[Runtime, Module]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compiled]:
    """Give the module that writes its event back."""
    runtime = Runtime(Settings(data_dir=tmp_path_factory.mktemp("data")))
    source = MemorySource()
    source.put("team", "parts", {"part": ECHO})
    supply = Supply(source, runtime, runtime.settings, Metrics())
    module = asyncio.run(supply.module(workflow(ECHO))).module
    yield runtime, module
    runtime.close()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Give the path of a journal that outlives the executions it is of."""
    return tmp_path / "executions.db"


@pytest.fixture
async def make(compiled: Compiled) -> AsyncIterator[Callable[..., Ground]]:
    """Give a way to make executions, on a journal in memory or at a path."""
    made: list[Ground] = []

    def make(path: Path | None = None, **bounds: Any) -> Ground:
        made.append(Ground(*compiled, path, **bounds))
        return made[-1]

    yield make
    for ground in made:
        await ground.close()
