"""Handing in events that nobody waits for: the clock has no caller to whom a refusal could go.

In a file of its own, because a schedule must cost one timer at rest and no task.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from sluice.errors import EngineRefused
from sluice.event import Event
from sluice.executions.acceptance import Fire
from sluice.workflow import WorkflowKey

log = logging.getLogger(__name__)
# Between tries of what was refused and may still start late.
_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Due:
    """An event and its cursor; ``again`` says whether it may be tried again after a refusal."""

    event: Event
    cursor: str
    again: Callable[[], bool] = lambda: False


class Firing:
    """Hands events in, in the background or not; whatever goes wrong is logged and ends there."""

    def __init__(self, key: WorkflowKey, fire: Fire) -> None:
        self._key, self._fire = key, fire
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = asyncio.Event()
        self._refused = False

    def begin(self, due: Due) -> None:
        """Hand an event in, and return at once."""
        task = asyncio.create_task(self.hand_in(due), name=f"fire {due.event.id} of {self._key}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def hand_in(self, due: Due) -> None:
        """Hand an event in, and return once it is on disk, or refused for good."""
        while not await self._accepted(due):
            if not due.again() or await self._closed_within(_AGAIN_S):
                return

    async def close(self) -> None:
        """Let what is being handed in get to the disk; what would be tried again is let go of."""
        self._over.set()
        # Whoever is called may close: it cannot wait for itself.
        if others := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(others)

    async def _accepted(self, due: Due) -> bool:
        event = due.event
        extra = {
            "namespace": self._key.namespace, "workflow": self._key.name, "execution": event.id,
        }  # fmt: skip
        try:
            await self._fire(event, cursor=due.cursor)
        except EngineRefused as e:
            # The first in a row: a schedule of every second would flood the log.
            level = logging.DEBUG if self._refused else logging.WARNING
            self._refused = True
            log.log(
                level, "%s: trigger %s, due at %s: %s",
                e.reason, event.trigger, event.time.isoformat(), e.message, extra=extra,
            )  # fmt: skip
            return False
        except Exception:
            log.exception("trigger %s failed inside the operator", event.trigger, extra=extra)
        self._refused = False
        return True

    async def _closed_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return False
        return True
