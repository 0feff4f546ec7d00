"""Waiting for what another process does: on a condition, never for a time."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from ground.processes import GroundError

_POLL_S = 0.05

T = TypeVar("T")


class WaitUntil(Protocol):
    """The function below, as the fixture of its name has it."""

    def __call__(self, predicate: Callable[[], T], timeout_s: float, what: str) -> T: ...


def wait_until(predicate: Callable[[], T], timeout_s: float, what: str) -> T:
    """Return the first true value of ``predicate``; give up with the last that was not."""
    give_up_at = time.monotonic() + timeout_s
    while not (seen := predicate()):
        if time.monotonic() > give_up_at:
            raise GroundError(f"{what}: not after {timeout_s:g} s; the last value was {seen!r}")
        time.sleep(_POLL_S)
    return seen
