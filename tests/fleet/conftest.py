from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from fakes import MemorySource
from fleet.stage import OpenStage, Stage, Told
from sluice import app
from sluice.fleet import Subscribe, subscribe_nothing
from sluice.metrics import Metrics
from sluice.settings import Settings


@pytest.fixture
async def open_stage(tmp_path: Path) -> AsyncIterator[OpenStage]:
    """Give a way to open a fleet on ConfigMaps in memory, with settings and subscriptions."""
    async with AsyncExitStack() as held:

        async def open_(
            subscribe: Subscribe = subscribe_nothing, *, journal: Path | None = None,
            **settings: Any,
        ) -> Stage:  # fmt: skip
            source, told, metrics = MemorySource(), Told(), Metrics()
            bounds = Settings(data_dir=tmp_path / "data", source_retry_s_max=0.05, **settings)
            opening = app.fleet(source, told, bounds, metrics, subscribe, journal=journal)
            return Stage(await held.enter_async_context(opening), source, told, metrics, bounds)

        yield open_
