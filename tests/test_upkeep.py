from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from fakes import workflow
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.snapshot import Verdict
from sluice.upkeep import VERIFIED, Upkeep
from wasm.gated import HELLO, OTHER, GatedRuntime, Ground


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[GatedRuntime]:
    runtime = GatedRuntime(
        Settings(data_dir=tmp_path, source_check_s=0.01, source_checks_per_s_max=1000.0)
    )
    yield runtime
    runtime.close()


@pytest.fixture
async def ground(runtime: GatedRuntime) -> Ground:
    return Ground(runtime)


def looks(ground: Ground, seen: dict[str, str | None]) -> AsyncGenerator[Verdict]:
    return Upkeep(ground.supply, ground.runtime.settings).watch(workflow(HELLO), "", seen)


async def next_looks(found: AsyncGenerator[Verdict], count: int) -> list[Verdict]:
    return [await anext(found) for _ in range(count)]


async def test_what_was_just_compiled_is_not_read_again(ground: Ground) -> None:
    """A cold rollout reads and inflates each binary once, until somebody touches its parts."""
    supplied = await ground.supply.module(workflow(HELLO))
    async with aclosing(looks(ground, supplied.seen)) as found:
        assert await next_looks(found, 3) == [VERIFIED] * 3
        assert len(ground.source.reads) == 1
        ground.put("parts", OTHER)
        verdict = await anext(found)
    assert (verdict.ok, verdict.reason) == (False, Reason.CONFIG_MAP_CHANGED)
    assert len(ground.source.reads) == 2


async def test_what_came_from_the_cache_is_read_once(ground: Ground) -> None:
    """Nobody has read the parts of a cached module yet: the first look does, later ones do not."""
    await ground.supply.module(workflow(HELLO))
    cached = await ground.supply.module(workflow(HELLO))
    async with aclosing(looks(ground, cached.seen)) as found:
        assert await next_looks(found, 3) == [VERIFIED] * 3
    assert len(ground.source.reads) == 2
