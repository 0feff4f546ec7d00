from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.wasm.config import Tier
from wasm.lab import Lab


@pytest.fixture(scope="session")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Tier, Lab]]:
    """Give a runtime that all tests of a worker share, so that each guest is compiled once."""
    shared = Lab.at(tmp_path_factory.mktemp("lab"))
    yield {tier: shared.on(tier) for tier in Tier}
    shared.runtime.close()


@pytest.fixture
def lab(labs: dict[Tier, Lab]) -> Lab:
    """Give the tier that most of what serves is of."""
    return labs[Tier.OPTIMIZING]


@pytest.fixture(params=list(Tier))
def any_lab(labs: dict[Tier, Lab], request: pytest.FixtureRequest) -> Lab:
    """Give each tier in turn, for what has to hold on both."""
    return labs[request.param]


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Lab]:
    """Give a runtime of one test's own, with an empty cache."""
    own = Lab.at(tmp_path)
    yield own
    own.runtime.close()
