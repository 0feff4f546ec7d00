"""The one interface between what starts executions and what runs them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sluice.event import Event
from sluice.snapshot import Run


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of an event that was handed in: it is on disk, now or since before.

    ``finished`` is None for a duplicate whose end is known; ``Executions.find`` has it.
    """

    id: str
    duplicate: bool
    finished: asyncio.Future[Run] | None


@dataclass(frozen=True, slots=True)
class Pending:
    """An execution that was accepted and is not over."""

    id: str
    trigger: str
    accepted: datetime
    running: bool
    attempt: int  # 1-based: the one that runs, or that comes next


class Fire(Protocol):
    """What a trigger is given; it is bound to one workflow and one trigger."""

    async def __call__(self, event: Event, *, cursor: str | None = None) -> Accepted:
        """Return once the event is on disk.

        ``cursor`` is stored in the same transaction as the event: where a watch goes on from.

        Raises:
            EngineRefused: QueueFull or RunRefused; nothing was accepted.

        """
        ...


Find = Callable[[str], Awaitable[Run | Pending | None]]
