"""What every test may use, and the order in which tests run."""

import signal
from pathlib import Path

import pytest

from ground import waiting

_CLUSTER = Path(__file__).parent / "cluster"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=100, help="simulated rollouts (default 100)")
    parser.addoption("--seed", type=int, default=None, help="the one simulated rollout to replay")


def pytest_configure() -> None:
    """Let what tests start hear Ctrl-C: a shell's background job and its heirs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each simulation its seeds."""
    if "seed" in metafunc.fixturenames:
        one = metafunc.config.getoption("seed")
        seeds = range(metafunc.config.getoption("seeds")) if one is None else [one]
        metafunc.parametrize("seed", seeds)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a control plane, and run it last: a fast test tells more in less time."""
    for item in items:
        if item.path.is_relative_to(_CLUSTER):
            item.add_marker(pytest.mark.cluster)
    items.sort(key=lambda item: item.get_closest_marker("cluster") is not None)


@pytest.fixture(scope="session")
def wait_until() -> waiting.WaitUntil:
    """Wait for a condition: ``wait_until(predicate, timeout_s, what)`` returns what was true."""
    return waiting.wait_until
