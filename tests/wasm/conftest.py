from collections.abc import Iterator
from pathlib import Path

import pytest

from wasm.lab import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Give a runtime that all tests of a worker share, so that each guest is compiled once."""
    shared = Lab.at(tmp_path_factory.mktemp("lab"))
    yield shared
    shared.runtime.close()


@pytest.fixture
def own_lab(tmp_path: Path) -> Iterator[Lab]:
    """Give a runtime of one test's own, with an empty cache."""
    own = Lab.at(tmp_path)
    yield own
    own.runtime.close()
