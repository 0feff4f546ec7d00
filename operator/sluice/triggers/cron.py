"""A schedule that fires by the wall clock of its time zone."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self
from zoneinfo import ZoneInfo

from cronsim import CronSim

from sluice.event import Event
from sluice.workflow import CronSpec

# A timer of the loop runs by the monotonic clock; looking again each minute follows a wall clock
# that was set, or a machine that slept.
_LOOK_AGAIN_S = 60.0


def next_due(spec: CronSpec, after: datetime) -> datetime:
    """Return the first moment after ``after`` (aware), in UTC, at which the schedule falls due.

    DST as in Debian's cron, by the library: a time that the change skips is due right after it,
    one that happens twice is due once.
    """
    local = after.astimezone(ZoneInfo(spec.time_zone))
    return next(CronSim(spec.schedule, local)).astimezone(UTC)


class Cron:
    """Fires between ``__enter__`` and ``__exit__``; costs one timer, no thread and no task."""

    def __init__(self, name: str, spec: CronSpec, fire: Callable[[Event], None]) -> None:
        self._name, self._spec, self._fire = name, spec, fire
        self._due = next_due(spec, datetime.now(UTC))
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._arm()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()

    def _arm(self) -> None:
        left_s = (self._due - datetime.now(UTC)).total_seconds()
        pause_s = min(max(left_s, 0.0), _LOOK_AGAIN_S)
        self._timer = asyncio.get_running_loop().call_later(pause_s, self._look)

    def _look(self) -> None:
        now = datetime.now(UTC)
        if now >= self._due:
            due, self._due = self._due, next_due(self._spec, now)
            self._fire(Event(kind="cron", trigger=self._name, data=self._spec.data, time=due))
        self._arm()
